"""The research tasks: solvable with evidence, not by guessing or by first hits, and harder at higher
levels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest

from agito.envs.research import ResearchEnvironment
from agito.envs.research.library import DATES, SHAPES, library
from agito.envs.research.question import FAMILIES, LEVELS, NEWEST, SPLITS, follow
from agito.envs.research.words import HELD_OUT, NAMES, RELATIONS
from agito.protocols import Environment, Renderer, ScriptFactory
from agito.render import learn, renderer
from agito.testing.environment import EnvironmentContract
from agito.testing.episodes import play
from agito.types import AttemptId, Budget, Call, Dialect, Target, Task

pytestmark = pytest.mark.anyio
BUDGET = Budget(turns=1, calls=1, tokens=1)


class TestResearchKeepsTheContract(EnvironmentContract):
    num_episodes = 40

    async def make(self) -> Environment:
        return ResearchEnvironment()

    def renderers(self) -> Sequence[Renderer]:
        words = [
            *(name for names in NAMES.values() for name in names),
            *(relation for each in RELATIONS.values() for relation in each),
        ]
        vocabulary = learn(
            [" ".join(words), *map(str, range(100)), "open submit now then is rumor"], size=640
        )
        return [renderer(dialect, vocabulary) for dialect in Dialect]


def tasks(count: int, *, split: str = "train", seed: int = 5) -> list[tuple[Task, Target]]:
    env = ResearchEnvironment()
    return [env.task(split=split, index=index, seed=seed) for index in range(count)]


async def success(script: str | float, pairs: Sequence[tuple[Task, Target]]) -> float:
    """Success of a negative control by name, or of the demonstrator at a skill."""
    env, earned = ResearchEnvironment(), 0.0
    for at, (task, key) in enumerate(pairs):
        factory: ScriptFactory
        factory = (
            env.negative_controls(task)[script]
            if isinstance(script, str)
            else env.demonstrator(task, key, skill=script, seed=at)
        )
        earned += (await play(env, task, key, factory, AttemptId(group=at, slot=0))).verdict.reward
    return earned / len(pairs)


@pytest.mark.parametrize("split", SPLITS)
def test_every_answer_follows_from_the_documents_by_the_stated_rule(split: str) -> None:
    for task, target in tasks(60, split=split):
        verb, *words = task.prompt[Dialect.COMPACT].split()
        date = DATES.index(words.pop(0)) if verb == "then" else NEWEST
        world = target.data["world"]
        assert isinstance(world, list)
        steps = follow(library(*world), words[0], tuple(words[1:]), date)  # type: ignore[arg-type]
        assert steps is not None and steps[-1].value == target.data["answer"]
        assert [step.id for step in steps] == target.data["evidence"]


def test_sources_contradict_one_another_and_some_of_the_newest_are_rumors() -> None:
    world = library("train", 0, 5, 0)
    facts = {(source.subject, source.relation) for source in world.sources}
    assert all(len({source.value for source in world.about(*fact)}) >= 2 for fact in facts)
    newest = [max(world.about(*fact), key=lambda source: source.date) for fact in facts]
    assert any(source.is_rumor for source in newest)


def test_the_structural_split_asks_in_orders_and_lengths_that_training_never_shows() -> None:
    for split in SPLITS:
        for task, _ in tasks(60, split=split):
            words = task.prompt[Dialect.COMPACT].split()
            path = words[3:] if words[0] == "then" else words[2:]
            has_new_order = any(pair in HELD_OUT for pair in pairwise(path))
            assert has_new_order == (split == "structural")
            assert (len(path) > max(SHAPES[task.level].hops)) == (split == "structural")


async def test_taking_the_first_hit_is_never_right_and_guessing_is_not_either() -> None:
    pairs = tasks(120)
    for name in ("null", "open_loop", "random", "first_hit"):
        assert await success(name, pairs) == 0.0, name


async def test_the_demonstrators_success_falls_with_the_level() -> None:
    env = ResearchEnvironment()
    by_level: list[float] = []
    for level in (1, 3, 5):
        pairs = [
            env.task(split="train", index=index, seed=1, family=FAMILIES[index % 2], level=level)
            for index in range(160)
        ]
        by_level.append(await success(0.6, pairs))
    assert by_level[0] > by_level[1] + 0.05 > by_level[2] + 0.1


async def test_an_answer_without_its_evidence_or_with_more_than_its_evidence_earns_nothing() -> None:
    env = ResearchEnvironment()
    task, target = env.task(split="train", index=5, seed=1, level=LEVELS[-1])
    answer, evidence = str(target.data["answer"]), [str(each) for each in target.data["evidence"]]  # type: ignore[union-attr]

    async def earns(text: str) -> float:
        control = await env.open(task, target, AttemptId(group=0, slot=0), noise_seed=0)
        left = next(
            iter(await control.session.act((Call(tool="submit", arguments={"answer": text}),), BUDGET))
        )
        assert left.ended
        return (await env.grade(await control.seal(), target, 0)).reward

    assert await earns(" ".join((answer, *reversed(evidence)))) == 1.0
    for text in (
        answer,
        " ".join((answer, *evidence, "10")),
        " ".join((answer, *evidence[:-1])),
        " ".join(("bad", *evidence)),
        "",
        "\x00",
    ):
        assert await earns(text) == 0.0, text
