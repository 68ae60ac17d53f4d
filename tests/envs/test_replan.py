"""`replan`: a plan outlives one kind of setback and not the other, and where one may think decides."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest
from tests.harness.test_budget import attempts

from agito.envs.decisions.scene import Spent, act_again, call
from agito.envs.replan import ReplanEnvironment
from agito.envs.replan.case import DIAL, KINDS, LEGS, Way
from agito.harness import SoloHarness, solo
from agito.protocols import Environment, Renderer, Script, ScriptFactory, ThinksAhead
from agito.render import learn, renderer, texts_of
from agito.rollout import AttemptRunner, Plan
from agito.testing.environment import EnvironmentContract
from agito.testing.episodes import play
from agito.types import (
    Attempt,
    AttemptId,
    Dialect,
    Effort,
    Event,
    Fault,
    Target,
    Task,
    Thinking,
    ThinkingTurns,
    TokenSource,
)

pytestmark = pytest.mark.anyio
ENV = ReplanEnvironment()


class TestReplanEnvironment(EnvironmentContract):
    async def make(self) -> Environment:
        return ReplanEnvironment()

    def renderers(self) -> Sequence[Renderer]:
        vocabulary = learn(["carry rap | bar mig kol dun", "dial 2 | +1 +7 stuck slipped"], size=300)
        return [renderer(dialect, vocabulary) for dialect in Dialect]


def tasks(split: str = "heldout", num: int = 20) -> list[tuple[Task, Target]]:
    return [
        ENV.task(split=split, index=index, seed=3, family=family, level=level)
        for family, level, index in product(KINDS, LEGS, range(num))
    ]


def case_of(target: Target) -> Way:
    case = ENV.case_of(target)
    assert isinstance(case, Way)
    return case


def test_every_task_has_a_setback_and_tasks_that_are_held_out_a_leg_of_their_own() -> None:
    trained = {leg for _, target in tasks("train", 200) for leg in case_of(target).legs}
    kinds = set[str]()
    for task, target in tasks():
        case = case_of(target)
        assert len(case.setbacks) == 1 and max(case.setbacks) < len(case.legs) - 1
        assert len(task.tags) == 1 and any(leg not in trained for leg in case.legs)
        kinds |= {*task.tags}
    assert kinds == {"slipped", "stuck"}
    for task, target in tasks("structural"):
        assert len(case_of(target).legs) == LEGS[task.level] + 1 and task.tags == ("slipped", "stuck")


def test_steps_on_a_dial_go_on_behind_the_last_number() -> None:
    assert DIAL.walk("6", ["+1", "+1", "+7", "+3"]) == ["7", "0", "7", "2"]


async def acted(script: ScriptFactory, task: Task, target: Target, thinking: Thinking) -> Attempt:
    """In the tokens that a policy would sample."""
    texts = [text for one, _ in tasks(num=2) for text in texts_of(Dialect.COMPACT, one, ())]
    said = [
        "arrive submit ok stuck slipped",
        *(" ".join((*kind.marks, "|", *kind.marks)) for kind in KINDS.values()),
    ]
    words = learn([*texts, *said * 40], size=420, asks_effort=True)
    runner = AttemptRunner(ENV, SoloHarness(), solo(renderer(Dialect.COMPACT, words)), seed=1)
    plan = Plan(task=lambda _: (task, target), script=lambda *_: script, thinking=lambda _: thinking)
    return await runner.run(plan, AttemptId(group=0, slot=0), None)


def thought(attempt: Attempt) -> list[int]:
    """Think tokens by turn."""
    return [turn.num_thought for turn in attempt.trajectory.turns if not turn.continues]


@pytest.mark.parametrize("turns", ThinkingTurns)
async def test_demonstrators_think_where_they_may_and_find_the_way(turns: ThinkingTurns) -> None:
    assert isinstance(ENV, ThinksAhead)
    thinking = Thinking(effort=Effort.HIGH, attempt_tokens=200, turns=turns)
    for task, target in tasks(num=3):
        case, again = case_of(target), turns is ThinkingTurns.AFTER_FAULTS
        if turns is ThinkingTurns.EVERY:
            script = ENV.thinker(task, target, effort=Effort.HIGH, skill=1.0, seed=0)
        else:
            script = ENV.planner(task, target, effort=Effort.HIGH, again=again, skill=1.0, seed=0)
        attempt = await acted(script, task, target, thinking)
        assert attempt.verdict.scores["success"] == 1.0, attempt.verdict.evidence
        events, found = attempt.trajectory.events, thought(attempt)
        assert sum(event.fault is Fault.TOOL for event in events) == sum(
            each if isinstance(each, int) else 1 for each in case.setbacks.values()
        )
        plan = 8 * len(case.legs) - 1  # marks, and what is between them
        if turns is ThinkingTurns.EVERY:
            assert sorted(found, reverse=True)[: len(case.legs)] == [7] * len(case.legs)
            assert sum(found) == 7 * len(case.legs)
            continue
        assert found[0] == plan
        after = [at + 1 for at, event in enumerate(events) if event.text.startswith("slipped")]
        assert [at for at, num in enumerate(found) if num and at] == (after if again else [])
        closed = sum(kind == TokenSource.FORCED for kind in attempt.trajectory.segments[0].tokens.kinds)
        assert closed == sum(
            num == 0 and not may for num, may in zip(found, may_think(events, turns), strict=True)
        )


def may_think(events: Sequence[Event], turns: ThinkingTurns) -> list[bool]:
    """By turn."""
    faults = [event.fault is not None for event in events[:-1]]
    return [True, *(each and turns is ThinkingTurns.AFTER_FAULTS for each in faults)]


async def test_a_plan_outlives_what_is_stuck_and_not_what_slipped() -> None:
    """Who says what was planned, and says it again where it was stuck."""
    won: dict[str, list[float]] = {"stuck": [], "slipped": []}
    for task, target in tasks():
        case = case_of(target)

        def script(case: Way = case) -> Script:
            at = case.start
            for number, leg in enumerate(case.legs):
                at = case.kind.walk(at, leg)[-1]
                saying = call("submit" if number == len(case.legs) - 1 else "arrive", mark=at)
                while (yield saying).text == "stuck":
                    continue

        found = await play(ENV, task, target, script)
        won[task.tags[0]].append(found.verdict.scores["success"])
        calls = [(event.call.tool, event.call.arguments) for event in found.events]
        measured = act_again(case.scene(), calls).measures(Spent(tokens=()))
        assert measured == {f"replan_recovery_{task.tags[0]}": won[task.tags[0]][-1]}
    assert set(won["stuck"]) == {1.0} and set(won["slipped"]) == {0.0}


async def test_a_policy_thinks_in_the_turns_in_which_it_may_and_in_no_other() -> None:
    for turns, most in ((ThinkingTurns.EVERY, 100), (ThinkingTurns.FIRST, 1)):
        thinking = Thinking(effort=Effort.HIGH, turn_tokens=4, attempt_tokens=50, turns=turns)
        for was in await attempts(6, thinking):
            whole = [turn for turn in was.turns if not turn.continues]
            assert len(whole) > 1 and sum(turn.num_thought for turn in whole[most:]) == 0
            budgets = [turn.think_budget for turn in whole]
            assert budgets[0] == 4 and (set(budgets[1:]) == {0}) == (turns is ThinkingTurns.FIRST)
