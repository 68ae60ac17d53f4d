"""The harness contract holds for the solo harness, and each rule catches a harness that breaks it."""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from agito.harness import SOLO, SoloHarness
from agito.protocols import Agent, AgentSpec, Harness, Renderer, Session
from agito.testing import HarnessContract, Violation
from agito.testing.renderers import ThinkingByteRenderer
from agito.types import (
    AttemptId,
    Effort,
    Fault,
    FinishReason,
    Limits,
    Segment,
    Task,
    TerminationReason,
    Thinking,
    Tokens,
    TokenSource,
    Trajectory,
    Turn,
    VersionSpan,
)


class SoloContract(HarnessContract):
    harness_class: type[SoloHarness] = SoloHarness

    async def make(self) -> Harness:
        return self.harness_class()


class TestTheSoloHarness(SoloContract):
    pass


Edit = Callable[[Trajectory], Trajectory]
COUNT = itertools.count()


def edited(edit: Edit) -> type[SoloHarness]:
    """The solo harness with its trajectory changed afterwards."""

    class Edited(SoloHarness):
        async def run(self, *args: Any, **kwargs: Any) -> Trajectory:
            return edit(await super().run(*args, **kwargs))

    return Edited


def with_tokens(trajectory: Trajectory, **columns: Any) -> Trajectory:
    segment: Segment = trajectory.segments[0]
    return replace(trajectory, segments=(replace(segment, tokens=replace(segment.tokens, **columns)),))


def tokens(trajectory: Trajectory) -> Tokens:
    return trajectory.segments[0].tokens


def mislabelled(trajectory: Trajectory) -> Trajectory:
    return replace(trajectory, attempt=AttemptId(group=0, slot=0))


def counting(trajectory: Trajectory) -> Trajectory:
    return replace(trajectory, detail=f"run {next(COUNT)}")


def retokenised(trajectory: Trajectory) -> Trajectory:
    return with_tokens(
        trajectory, ids=array("i", [*tokens(trajectory).ids[:-2], 1, tokens(trajectory).ids[-1]])
    )


def zeros_for_nan(trajectory: Trajectory) -> Trajectory:
    return with_tokens(
        trajectory, logprobs=array("f", [0.0 if math.isnan(x) else x for x in tokens(trajectory).logprobs])
    )


def rounded(trajectory: Trajectory) -> Trajectory:
    return with_tokens(
        trajectory,
        logprobs=array("f", [x if math.isnan(x) else round(x, 1) for x in tokens(trajectory).logprobs]),
    )


def all_sampled(trajectory: Trajectory) -> Trajectory:
    return with_tokens(trajectory, kinds=bytes([TokenSource.SAMPLED]) * len(tokens(trajectory)))


def one_version(trajectory: Trajectory) -> Trajectory:
    n = len(tokens(trajectory))
    return with_tokens(trajectory, versions=(VersionSpan(start=0, stop=n, version=4),))


def nameless(trajectory: Trajectory) -> Trajectory:
    return replace(trajectory, turns=tuple(replace(turn, calls=()) for turn in trajectory.turns))


def reversed_events(trajectory: Trajectory) -> Trajectory:
    return replace(trajectory, events=trajectory.events[::-1])


def always_turns(trajectory: Trajectory) -> Trajectory:
    return replace(trajectory, end=TerminationReason.TURNS)


def blames_the_budget(trajectory: Trajectory) -> Trajectory:
    return (
        replace(trajectory, fault=Fault.BUDGET)
        if trajectory.end is not TerminationReason.SUBMITTED
        else trajectory
    )


def never_cut(trajectory: Trajectory) -> Trajectory:
    turns: tuple[Turn, ...] = tuple(replace(turn, stopped=FinishReason.END) for turn in trajectory.turns)
    return replace(trajectory, turns=turns)


def without_the_end(trajectory: Trajectory) -> Trajectory:
    """Leaves out the event that ended the episode, if it was no submission."""
    is_cut = bool(trajectory.events and trajectory.events[-1].fault)
    return replace(trajectory, events=trajectory.events[:-1]) if is_cut else trajectory


class GoesOnWithoutLimits(SoloHarness):
    """Adds two to each limit."""

    async def run(
        self, task: Task, session: Session, agents: Mapping[str, Agent], attempt: AttemptId, *, seed: int
    ) -> Trajectory:
        limits: Limits = task.limits
        more = replace(
            limits,
            turns=limits.turns + 2,
            calls=limits.calls + 2,
            tokens=limits.tokens + 50,
            turn_tokens=limits.turn_tokens + 2,
        )
        trajectory = await super().run(replace(task, limits=more), session, agents, attempt, seed=seed)
        return replace(trajectory, task=task)


class DropsGarbage(SoloHarness):
    """Ends the attempt where a turn cannot be parsed."""

    async def run(
        self, task: Task, session: Session, agents: Mapping[str, Agent], attempt: AttemptId, *, seed: int
    ) -> Trajectory:
        return await super().run(task, Strict(session), agents, attempt, seed=seed)


class Strict:
    def __init__(self, session: Session) -> None:
        self._session, self.tools = session, session.tools

    async def act(self, calls: Any, left: Any) -> Any:
        if any(call.problem for call in calls):
            raise ValueError("unparsable")
        return await self._session.act(calls, left)


class ForgetsToClose(SoloHarness):
    """Opens a row and leaves it."""

    async def run(
        self, task: Task, session: Session, agents: Mapping[str, Agent], attempt: AttemptId, *, seed: int
    ) -> Trajectory:
        agents[SOLO].engine.open(seed)
        return await super().run(task, session, agents, attempt, seed=seed)


class SaysNothingOfTheBudget(SoloHarness):
    async def run(
        self, task: Task, session: Session, agents: Mapping[str, Agent], attempt: AttemptId, *, seed: int
    ) -> Trajectory:
        return await super().run(task, Generous(session, task), agents, attempt, seed=seed)


class Generous:
    def __init__(self, session: Session, task: Task) -> None:
        self._session, self.tools, self._task = session, session.tools, task

    async def act(self, calls: Any, left: Any) -> Any:
        return await self._session.act(
            calls, replace(left, turns=self._task.limits.turns, calls=self._task.limits.calls)
        )


class BlindToTheEnd(SoloHarness):
    """Takes an end that a fault brought for any other event."""

    async def run(
        self, task: Task, session: Session, agents: Mapping[str, Agent], attempt: AttemptId, *, seed: int
    ) -> Trajectory:
        return await super().run(task, Endless(session), agents, attempt, seed=seed)


class Endless:
    def __init__(self, session: Session) -> None:
        self._session, self.tools = session, session.tools

    async def act(self, calls: Any, left: Any) -> Any:
        return tuple(
            replace(event, ended=event.ended and not event.fault)
            for event in await self._session.act(calls, left)
        )


BROKEN: list[tuple[str, type[SoloHarness], str]] = [
    ("mislabelled", edited(mislabelled), "a_submission_ends_the_attempt"),
    ("counting", edited(counting), "the_same_tokens_and_events_give_the_same_trajectory"),
    ("retokenised", edited(retokenised), "a_segment_holds_exactly_the_tokens_that_the_engine_saw"),
    ("zeros for NaN", edited(zeros_for_nan), "sampled_positions_and_no_others_carry_log_probabilities"),
    ("rounded", edited(rounded), "sampled_positions_and_no_others_carry_log_probabilities"),
    ("all sampled", edited(all_sampled), "sampled_positions_and_no_others_carry_log_probabilities"),
    ("one version", edited(one_version), "every_position_carries_the_version_that_processed_it"),
    ("nameless", edited(nameless), "turns_name_the_events_of_their_calls"),
    ("reversed events", edited(reversed_events), "turns_name_the_events_of_their_calls"),
    ("drops garbage", DropsGarbage, "a_turn_that_cannot_be_parsed_goes_back_to_the_policy"),
    ("always turns", edited(always_turns), "each_budget_ends_the_attempt_with_its_own_end"),
    ("blames the budget", edited(blames_the_budget), "each_budget_ends_the_attempt_with_its_own_end"),
    ("no limits", GoesOnWithoutLimits, "each_budget_ends_the_attempt_with_its_own_end"),
    ("no limits", GoesOnWithoutLimits, "a_turn_is_cut_at_its_token_budget"),
    ("never cut", edited(never_cut), "a_turn_is_cut_at_its_token_budget"),
    ("generous", SaysNothingOfTheBudget, "the_session_is_told_what_is_left"),
    ("forgets the end", edited(without_the_end), "a_broken_world_ends_the_attempt_with_what_there_is"),
    ("blind to the end", BlindToTheEnd, "a_broken_world_ends_the_attempt_with_what_there_is"),
    ("forgets to close", ForgetsToClose, "no_row_is_left_open"),
]


@pytest.mark.parametrize(
    ("name", "broken", "rule"), BROKEN, ids=[f"{name}-{rule[:30]}" for name, _, rule in BROKEN]
)
def test_a_rule_catches_a_harness_that_breaks_it(name: str, broken: type[SoloHarness], rule: str) -> None:
    contract = type("Broken", (SoloContract,), {"harness_class": broken, "deadline_s": 0.5})()
    with pytest.raises((Violation, RuntimeError)) as caught:
        getattr(contract, f"test_{rule}")()
    assert isinstance(caught.value, RuntimeError) or rule.replace("_", " ") in str(caught.value)


def test_every_rule_is_shown_to_catch_something() -> None:
    assert set(HarnessContract.rules()) == {f"test_{rule}" for _, _, rule in BROKEN}


def test_effort_is_carried_on_every_turn() -> None:
    class Thoughtful(SoloContract):
        def spec(self) -> AgentSpec:
            return AgentSpec(renderer=ThinkingByteRenderer(), thinking=Thinking(effort=Effort.LOW))

        def renderer(self) -> Renderer:
            return ThinkingByteRenderer().asking(Effort.LOW)

    assert Thoughtful().violations() == {}
