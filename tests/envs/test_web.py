"""The web tasks: solvable, not guessable, and equal in Chromium and in the browser without it."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise, product

import anyio
import pytest

from agito.envs import load
from agito.envs.web import TextWebEnvironment, WebEnvironment
from agito.envs.web.agents import click, fill, solver
from agito.envs.web.instance import FAMILIES, LEVELS, NAMES, ONLY, SPLITS, VALUES, generate, word_of
from agito.protocols import Environment, Renderer, Script, ScriptFactory
from agito.render import learn, renderer
from agito.testing.environment import EnvironmentContract
from agito.testing.episodes import Played, budget, essence, play
from agito.types import AttemptId, Dialect
from agito.worlds.browser import Farm

pytestmark = pytest.mark.anyio
CELLS = list(product(FAMILIES, LEVELS))
needs_chromium = pytest.mark.skipif(
    shutil.which("chromium-headless-shell", path="/usr/bin") is None,
    reason="needs Chromium: apt install chromium-headless-shell",
)


class TestWebText(EnvironmentContract):
    async def make(self) -> Environment:
        return TextWebEnvironment()

    def renderers(self) -> Sequence[Renderer]:
        words = [*NAMES, *VALUES, *(f"click fill select look back submit done {n}" for n in range(100))]
        return [renderer(dialect, learn(words, size=600)) for dialect in Dialect]


@pytest.mark.full
@needs_chromium
class TestWebInChromium(TestWebText):
    num_episodes = 4
    num_noise = 1
    deadline_s = 600.0

    async def make(self) -> Environment:
        return WebEnvironment()


@pytest.fixture(scope="module")
async def chromium(anyio_backend: str) -> AsyncIterator[WebEnvironment]:
    farm = Farm()
    yield WebEnvironment(tabs=farm)
    await farm.aclose()


@needs_chromium
async def test_both_browsers_show_the_same_pages_to_agents_that_err(chromium: WebEnvironment) -> None:
    """An imperfect agent: the same events, final site and verdict."""
    text = TextWebEnvironment()

    async def same(number: int, family: str, level: int) -> None:
        task, target = chromium.task(split="structural", index=number, seed=5, family=family, level=level)
        agent = chromium.demonstrator(task, target, skill=0.8, seed=number)
        one, two = [
            await play(env, task, target, agent, AttemptId(group=number, slot=0), noise_seed=1)
            for env in (chromium, text)
        ]
        assert [essence(event) for event in one.events] == [essence(event) for event in two.events]
        assert (one.sealed.files, one.verdict) == (two.sealed.files, two.verdict)

    async with anyio.create_task_group() as group:
        for number, (family, level) in enumerate(product(FAMILIES, (1, 3, 5))):
            group.start_soon(same, number, family, level)


@needs_chromium
async def test_a_fork_in_chromium_continues_as_the_original(chromium: WebEnvironment) -> None:
    task, target = chromium.task(split="train", index=0, seed=1, family="form", level=3)
    script = solver(task.prompt[Dialect.COMPACT], task.level)()
    original = await chromium.open(task, target, AttemptId(group=0, slot=0), noise_seed=0)
    call = next(script)
    fork = None
    texts: list[list[str]] = [[], []]
    for step in range(task.limits.calls):
        if step == 4:
            snapshot = await original.snapshot()
            fork = await original.fork(snapshot, AttemptId(group=0, slot=0))
            assert await fork.digest() == snapshot.digest == await original.digest()
        (event,) = await original.session.act([call], budget(task.limits))
        if fork is not None:
            (again,) = await fork.session.act([call], budget(task.limits))
            assert essence(again) == essence(event)
        texts[0].append(event.text)
        if event.ended:
            break
        call = script.send(event)
    assert fork is not None
    assert await fork.digest() == await original.digest()
    sealed = await fork.seal()
    assert (await chromium.grade(sealed, target, 0)).reward == 1.0
    await original.close()


async def rewards(
    env: Environment,
    agent: str,
    *,
    split: str = "train",
    level: int | None = None,
    count: int = 60,
    skill: float = 0.7,
) -> float:
    found: list[Played] = []
    for index in range(count):
        task, target = env.task(split=split, index=index, seed=9, level=level)
        script = {
            "solver": lambda task=task, target=target: env.solutions(task, target)[0],
            "demonstrator": lambda task=task, target=target, index=index: env.demonstrator(
                task, target, skill=skill, seed=index
            ),
        }.get(agent, lambda task=task: env.negative_controls(task).get(agent))()
        if script is not None:
            found.append(await play(env, task, target, script, AttemptId(group=index, slot=0), noise_seed=3))
    return sum(each.verdict.reward for each in found) / len(found)


async def test_the_solver_is_exact_and_luck_does_not_pay() -> None:
    env = TextWebEnvironment()
    for split in SPLITS:
        assert await rewards(env, "solver", split=split, count=75) == 1.0
    for impostor in ("null", "random", "claim", "open_loop"):
        assert await rewards(env, impostor, count=150) <= env.chance_level + 0.03


async def test_the_demonstrators_success_falls_with_the_level() -> None:
    env = TextWebEnvironment()
    by_level = [await rewards(env, "demonstrator", level=level, count=120, skill=0.8) for level in LEVELS]
    assert all(low < high for high, low in pairwise(by_level)), by_level
    assert by_level[0] > 0.5


def test_the_structural_split_differs_in_structure() -> None:
    for family, level in CELLS:
        train = [generate(split="train", family=family, level=level, seed=seed) for seed in range(40)]
        structural = [
            generate(split="structural", family=family, level=level, seed=seed) for seed in range(40)
        ]
        others = {name for each in FAMILIES if each != family for name in ONLY[each]}
        assert {each.ask.split()[1] for each in structural} <= others
        assert not {each.ask.split()[1] for each in train} & others
        if level > 1:
            assert len(structural[0].sections) == len(train[0].sections) + 1
            for each in structural:
                assert each.ask.split()[1] in [
                    word_of(item.name) for item in each.sections[-1][1] if not item.is_sold_out
                ]


async def test_anything_else_on_record_spoils_the_reward() -> None:
    env = TextWebEnvironment()
    task, target = env.task(split="train", index=0, seed=2, family="shop", level=1)
    script = env.solutions(task, target)[0]

    def twice() -> object:
        inner = script()
        event = yield next(inner)
        while True:
            call = inner.send(event)
            if call.tool == "submit":
                yield click(1)  # home again
                again = script()
                event = yield next(again)
                while (call := again.send(event)).tool != "submit":
                    event = yield call
            event = yield call

    played = await play(env, task, target, twice)  # pyright: ignore[reportArgumentType]
    assert played.verdict.reward == 0.0 and played.verdict.evidence.count("buy") == 3


@pytest.mark.parametrize("word", ["ask", "note"])
async def test_what_nothing_is_said_of_spoils_the_reward(word: str) -> None:
    """The button beside the right one, and the field beside the right ones."""
    env = TextWebEnvironment()
    for family in FAMILIES:
        task, target = env.task(split="train", index=1, seed=2, family=family, level=1)
        label = generate(split="train", family=family, level=1, seed=target.seed).labels[word]
        script = env.solutions(task, target)[0]

        def stray(script: ScriptFactory = script, label: str = label) -> Script:
            inner = script()
            event = yield next(inner)
            event = yield inner.send(event)
            yield click(label) if word == "ask" else fill(label, "x")
            while True:
                event = yield inner.send(event)

        played = await play(env, task, target, stray)
        assert played.verdict.reward == 0.0 and f"{word} " in played.verdict.evidence


def test_a_task_says_none_of_the_names_on_its_site_and_no_place_is_always_the_right_one() -> None:
    """What is called `kev52` is `kev` in the task; numbers and places are drawn for each site."""
    orders: dict[str, set[tuple[str, ...]]] = {}
    for (family, level), seed in product(CELLS, range(25)):
        instance = generate(split="train", family=family, level=level, seed=seed)
        names = [*instance.labels.values(), *(item.name for _, row in instance.sections for item in row)]
        assert len(set(names)) == len(names) and not set(names) & set(instance.ask.split())
        orders.setdefault(f"{family}-{level}", set()).add(instance.order)
    assert all(len(each) > 10 for each in orders.values())


def test_from_the_third_level_on_something_else_bears_the_same_word_and_only_its_page_tells_it_apart() -> (
    None
):
    for family, level, seed in product(FAMILIES, (3, 4, 5), range(25)):
        instance = generate(split="heldout", family=family, level=level, seed=seed)
        _, target, owner, *_ = instance.ask.split()
        twins = [item for _, row in instance.sections for item in row if word_of(item.name) == target]
        meant = [item for item in twins if item.owner == owner and not item.is_sold_out]
        assert len(meant) == 1 and len(twins) >= 2 and meant[0].name == instance.expected.split()[1]


def test_the_registry_has_both() -> None:
    assert {type(load(name)).__name__ for name in ("web", "web-text")} == {
        "WebEnvironment",
        "TextWebEnvironment",
    }
