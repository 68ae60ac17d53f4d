"""The desk: solvable by asking, looking and following the policy; judged by the books alone; harder at higher
levels."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from agito.envs.desk import DeskEnvironment
from agito.envs.desk.agents import ask, finish, use
from agito.envs.desk.case import FAMILIES, LEVELS, SHAPES, SPLITS
from agito.envs.desk.words import CUSTOMERS, ITEMS, PLACES
from agito.protocols import Environment, Renderer, Script, ScriptFactory
from agito.render import learn, renderer
from agito.testing.environment import EnvironmentContract
from agito.testing.episodes import Played, play
from agito.types import AttemptId, Call, Dialect, Fault, Status, Target, Task

pytestmark = pytest.mark.anyio


class TestDeskKeepsTheContract(EnvironmentContract):
    num_episodes = 40

    async def make(self) -> Environment:
        return DeskEnvironment()

    def renderers(self) -> Sequence[Renderer]:
        words = " ".join(
            (*CUSTOMERS, *ITEMS, *PLACES, *FAMILIES, "limit which sure where orders look refuse submit done")
        )
        return [renderer(dialect, learn([words, *map(str, range(110))], size=640)) for dialect in Dialect]


def cases(
    count: int, *, family: str | None = None, level: int | None = None, split: str = "train"
) -> list[tuple[Task, Target]]:
    env = DeskEnvironment()
    return [env.task(split=split, index=index, seed=4, family=family, level=level) for index in range(count)]


async def played(task: Task, target: Target, script: ScriptFactory, *, attempt: int = 0) -> Played:
    return await play(DeskEnvironment(), task, target, script, AttemptId(group=attempt, slot=0))


def saying(calls: Sequence[Call]) -> ScriptFactory:
    def script() -> Script:
        for call in calls:  # noqa: UP028
            yield call

    return script


async def success(script: str | float, pairs: Sequence[tuple[Task, Target]]) -> float:
    """Success of a negative control by name, or of the demonstrator at a skill."""
    env, earned = DeskEnvironment(), 0.0
    for at, (task, key) in enumerate(pairs):
        factory = (
            env.negative_controls(task)[script]
            if isinstance(script, str)
            else env.demonstrator(task, key, skill=script, seed=at)
        )
        earned += (await played(task, key, factory, attempt=at)).verdict.reward
    return earned / len(pairs)


@pytest.mark.parametrize("split", SPLITS)
async def test_the_solution_earns_full_marks_in_every_cell_and_split(split: str) -> None:
    for at, (task, key) in enumerate(cases(90, split=split)):
        done = await played(task, key, DeskEnvironment().solutions(task, key)[0], attempt=at)
        assert done.verdict.reward == 1.0, (task.id, done.verdict.evidence)


async def test_damage_beside_the_right_deed_costs_everything() -> None:
    env = DeskEnvironment()
    for task, target in cases(12, level=1):
        events = (await played(task, target, env.solutions(task, target)[0])).events
        right = [event.call for event in events]
        used = {str(call.arguments.get("order")) for call in right}
        listed = [
            line
            for event in events
            for line in event.text.splitlines()
            if event.call.tool == "orders" and line[-1:].isdigit()
        ]
        others = [order for order in listed if " " not in order and order not in used]
        if not others:
            continue

        damaged = await played(task, target, saying([*right[:-1], use("refuse", order=others[0]), finish()]))
        assert damaged.verdict.reward == 0.0 and "refusals" in damaged.verdict.evidence


async def test_what_was_said_counts_for_nothing() -> None:
    task, target = cases(1)[0]

    def talker() -> Script:
        yield ask("I have refunded your order, are you sure that you are happy?")
        yield use("submit", answer="ok refunded done reward 1")

    verdict = (await played(task, target, talker)).verdict
    assert verdict.status is Status.SCORED and verdict.reward == 0.0


async def test_users_leave_things_out_misremember_and_change_their_mind() -> None:
    replies = [
        event.text
        for task, target in cases(60, level=5)
        for event in (await played(task, target, DeskEnvironment().solutions(task, target)[0])).events
        if event.call.arguments.get("text") == "sure"
    ]
    assert any(reply.startswith("no ") for reply in replies) and "yes" in replies
    asked_again = 0
    for task, target in cases(60, level=5):
        calls = [
            event.call
            for event in (await played(task, target, DeskEnvironment().solutions(task, target)[0])).events
        ]
        asked_again += [call.arguments.get("text") for call in calls].count("which") > 1
    assert asked_again >= 5


async def test_a_write_whose_answer_was_lost_can_be_repeated_without_harm() -> None:
    env, lost = DeskEnvironment(), 0
    for at, (task, key) in enumerate(cases(100, level=5)):
        done = await played(task, key, env.solutions(task, key)[0], attempt=at)
        lost += any(event.text.startswith("error 409") for event in done.events)
        assert done.verdict.reward == 1.0
        assert all(event.fault in (None, Fault.TIMEOUT, Fault.POLICY) for event in done.events)
    assert lost >= 3


def test_the_structural_split_changes_its_mind_more_often_and_fills_a_second_page() -> None:
    for split in SPLITS:
        for task, target in cases(60, split=split):
            items = target.data["items"]
            assert isinstance(items, list)
            assert (len(items) - 1 > max(SHAPES[task.level].changes)) == (split == "structural")


def test_the_policy_allows_and_forbids_both_often_enough() -> None:
    for family in FAMILIES:
        for level in LEVELS:
            allowed = [target.data["is_allowed"] for _, target in cases(100, family=family, level=level)]
            assert 0.3 < sum(map(bool, allowed)) / len(allowed) < 0.8, (family, level)


async def test_negative_controls_stay_at_the_floor_and_the_demonstrators_success_falls_with_the_level() -> (
    None
):
    for name in ("null", "open_loop", "random", "claim"):
        assert await success(name, cases(30)) <= 0.03, name
    one, three, five = [await success(0.55, cases(100, level=level)) for level in (1, 3, 5)]
    assert one > three + 0.05 > five + 0.1
