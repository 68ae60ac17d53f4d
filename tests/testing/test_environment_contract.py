"""The environment contract holds for the fake environment, and each rule catches an environment that breaks
it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from agito.protocols import Control, Environment, Renderer, Script, ScriptFactory, WorldSnapshot
from agito.testing import ByteRenderer, EnvironmentContract, FakeEnvironment, Violation
from agito.testing.fakes import FakeWorld, call, submit
from agito.types import (
    AttemptId,
    Budget,
    Call,
    Dialect,
    EpisodeArtifacts,
    Event,
    Fault,
    Target,
    Task,
    Verdict,
)


class CoinContract(EnvironmentContract):
    environment_class: type[FakeEnvironment] = FakeEnvironment

    async def make(self) -> Environment:
        return self.environment_class()

    def renderers(self) -> Sequence[Renderer]:
        return [ByteRenderer(dialect) for dialect in Dialect]


class TestTheFakeEnvironment(CoinContract):
    pass


# ---- broken environments: each names the rule that must catch it


class Changing(FakeEnvironment):
    """Counts its tasks, and lets the count into them."""

    def __init__(self) -> None:
        self.count = itertools.count()

    def task(self, **arguments: Any) -> tuple[Task, Target]:
        task, target = super().task(**arguments)
        return task, replace(target, seed=next(self.count))


class Nameless(FakeEnvironment):
    splits = ("train", "heldout")


class Mislabelled(FakeEnvironment):
    def task(self, **arguments: Any) -> tuple[Task, Target]:
        task, target = super().task(**arguments)
        return replace(task, id="coin"), replace(target, task_id="coin")


class PaysDouble(FakeEnvironment):
    async def grade(self, *arguments: Any) -> Verdict:
        verdict = await super().grade(*arguments)
        return replace(verdict, reward=2 * verdict.reward)


class OneLevel(FakeEnvironment):
    def task(self, *, level: int | None = None, **arguments: Any) -> tuple[Task, Target]:
        return super().task(level=level or 1, **arguments)


class Lenient(FakeEnvironment):
    def task(self, *, split: str, **arguments: Any) -> tuple[Task, Target]:
        return super().task(split=split if split in self.splits else "train", **arguments)


class SameSplits(FakeEnvironment):
    def task(self, *, split: str, **arguments: Any) -> tuple[Task, Target]:
        task, target = super().task(split="train", **arguments)
        task = replace(task, split=split, id=task.id.replace("train", split))
        return task, replace(target, task_id=task.id)


class OneDialect(FakeEnvironment):
    def task(self, **arguments: Any) -> tuple[Task, Target]:
        task, target = super().task(**arguments)
        return replace(task, prompt={Dialect.COMPACT: "coin"}), target


class TellsTheAnswer(FakeEnvironment):
    def task(self, **arguments: Any) -> tuple[Task, Target]:
        task, target = super().task(**arguments)
        return replace(task, tags=(f"in box {target.data['coin']}",)), target


class TellsTheSeed(FakeEnvironment):
    def task(self, **arguments: Any) -> tuple[Task, Target]:
        task, target = super().task(**arguments)
        return replace(task, id=f"{task.id}-{target.seed}"), replace(
            target, task_id=f"{task.id}-{target.seed}"
        )


class WithWorld(FakeEnvironment):
    world: type[FakeWorld] = FakeWorld

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        return self.world(task, target, attempt, noise_seed)


def with_world(world: type[FakeWorld]) -> type[FakeEnvironment]:
    return type(world.__name__, (WithWorld,), {"world": world})


NOISE = itertools.count()


class FreshNoise(FakeWorld):
    """One generator for all worlds."""

    def _answer(self, one: Call) -> Event:
        self._noise_seed = next(NOISE)
        return super()._answer(one)


class NoBudget(FakeWorld):
    def _answer(self, one: Call) -> Event:
        return super()._answer(one)

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        return tuple(replace(event, left=None) for event in await super().act(calls, left))


class Numberless(FakeWorld):
    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        return tuple(replace(event, index=0) for event in await super().act(calls, left))


class Verbose(FakeWorld):
    def _answer(self, one: Call) -> Event:
        event = super()._answer(one)
        return event if event.text != "empty" else replace(event, text="empty" + " " * 4000)


class Crashing(FakeWorld):
    def _answer(self, one: Call) -> Event:
        if one.problem:
            raise ValueError(one.problem)
        return super()._answer(one)


class BlamesTheTool(FakeWorld):
    def _answer(self, one: Call) -> Event:
        event = super()._answer(one)
        return replace(event, fault=Fault.TOOL) if event.fault is Fault.POLICY else event


class GoesOn(FakeWorld):
    """Carries out the calls after the one that ended the episode."""

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        events: list[Event] = []
        for one in calls:
            events.append(replace(self._answer(one), index=self._num_calls, left=left))
            self._num_calls += 1
        return tuple(events)


class SealsAnew(FakeWorld):
    async def seal(self) -> EpisodeArtifacts:
        self._sealed = None
        self._num_calls += 1
        return replace(await super().seal(), files={"calls": str(self._num_calls).encode()})


SHARED: set[str] = set()


class Leaking(FakeWorld):
    """Boxes that were opened once stay open for everybody."""

    async def digest(self) -> str:
        SHARED.update(f"{self._task.id} {box}" for box in self._opened)
        self._opened = tuple(
            sorted({*self._opened, *(at.split()[1] for at in SHARED if at.split()[0] == self._task.id)})
        )
        return await super().digest()


class Blind(FakeWorld):
    async def digest(self) -> str:
        return self._task.id


class Restless(FakeWorld):
    async def digest(self) -> str:
        self._opened = (*self._opened, f"look {len(self._opened)}")
        return await super().digest()


class ForgetfulFork(FakeWorld):
    """Begins its fork anew: the noise, and what was opened, are lost."""

    async def fork(self, snapshot: WorldSnapshot, attempt: AttemptId, *, same_noise: bool = True) -> Control:
        return type(self)(self._task, self._key, attempt, self._noise_seed)


class OtherNoiseFork(FakeWorld):
    async def fork(self, snapshot: WorldSnapshot, attempt: AttemptId, *, same_noise: bool = True) -> Control:
        return await super().fork(snapshot, attempt, same_noise=False)


class SharedFork(FakeWorld):
    async def fork(self, snapshot: WorldSnapshot, attempt: AttemptId, *, same_noise: bool = True) -> Control:
        return self


class SubmittedFork(FakeWorld):
    async def fork(self, snapshot: WorldSnapshot, attempt: AttemptId, *, same_noise: bool = True) -> Control:
        child = await super().fork(snapshot, attempt, same_noise=same_noise)
        return (
            child
            if same_noise
            else FakeWorld(self._task, replace(self._key, data={**self._key.data, "coin": -1}), attempt, 0)
        )


class NoSolution(FakeEnvironment):
    def solutions(self, task: Task, target: Target) -> Sequence[ScriptFactory]:
        return ()


class Impatient(FakeEnvironment):
    """Its solution gives up at the first timeout."""

    def solutions(self, task: Task, target: Target) -> Sequence[ScriptFactory]:
        def script() -> Script:
            for box in range(100):
                event = yield call("open", box)
                if event.fault or event.text == "coin":
                    yield call("submit", box)
                    return

        return (script,)


class Dodging(FakeEnvironment):
    """An negative control that reads the answer off the prompt."""

    def negative_controls(self, task: Task) -> Mapping[str, ScriptFactory]:
        _, target = self.task(
            split=task.split,
            index=int(task.id.split("-")[-1]),
            seed=int(task.id.split("-")[-2]),
            level=task.level,
        )
        return {"knows": lambda: submit(int(str(target.data["coin"])))}


class Harmless(FakeEnvironment):
    def negative_controls(self, task: Task) -> Mapping[str, ScriptFactory]:
        return {}


class PaysForNothing(FakeEnvironment):
    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        verdict = await super().grade(sealed, target, grade_seed)
        return replace(verdict, reward=1.0) if sealed.submitted is None else verdict


class VoidForNothing(FakeEnvironment):
    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        return (
            Verdict.void("nothing submitted")
            if sealed.submitted is None
            else await super().grade(sealed, target, grade_seed)
        )


class Moody(FakeEnvironment):
    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        return replace(await super().grade(sealed, target, grade_seed), scores={"mood": time.perf_counter()})


class AlwaysRight(FakeEnvironment):
    def demonstrator(self, task: Task, target: Target, *, skill: float, seed: int) -> ScriptFactory:
        return self.solutions(task, target)[0]


class Unseeded(FakeEnvironment):
    def demonstrator(self, task: Task, target: Target, *, skill: float, seed: int) -> ScriptFactory:
        return super().demonstrator(task, target, skill=skill, seed=next(NOISE))


BROKEN: list[tuple[type[FakeEnvironment], str]] = [
    (Nameless, "an_environment_says_what_it_consists_of"),
    (Changing, "a_task_is_a_pure_function_of_its_arguments"),
    (Mislabelled, "tasks_are_labelled_truthfully_and_their_ids_are_unique"),
    (PaysDouble, "every_reward_lies_in_the_declared_range"),
    (OneLevel, "families_and_levels_rotate_evenly_unless_fixed"),
    (Lenient, "an_unknown_split_family_or_level_is_refused"),
    (SameSplits, "no_task_is_in_two_splits"),
    (OneDialect, "a_task_can_be_read_in_both_dialects"),
    (TellsTheAnswer, "nothing_of_the_target_stands_in_the_task"),
    (TellsTheSeed, "nothing_of_the_target_stands_in_the_task"),
    (with_world(FreshNoise), "the_same_calls_under_the_same_noise_get_the_same_events"),
    (with_world(NoBudget), "every_event_is_numbered_names_its_call_and_says_what_is_left"),
    (with_world(Numberless), "every_event_is_numbered_names_its_call_and_says_what_is_left"),
    (with_world(Verbose), "every_event_is_numbered_names_its_call_and_says_what_is_left"),
    (with_world(Crashing), "a_mistake_of_the_policy_is_an_event_that_it_can_read"),
    (with_world(BlamesTheTool), "a_mistake_of_the_policy_is_an_event_that_it_can_read"),
    (with_world(GoesOn), "several_calls_at_once_are_the_same_as_one_by_one"),
    (with_world(GoesOn), "nothing_can_be_done_after_the_end"),
    (with_world(SealsAnew), "sealing_and_closing_are_idempotent"),
    (with_world(Leaking), "episodes_at_the_same_time_do_not_touch_one_another"),
    (with_world(Leaking), "nothing_leaks_from_one_episode_into_the_next"),
    (with_world(Blind), "the_digest_tells_states_apart_and_looking_changes_nothing"),
    (with_world(Restless), "the_digest_tells_states_apart_and_looking_changes_nothing"),
    (with_world(ForgetfulFork), "a_fork_goes_on_exactly_as_the_original_does"),
    (with_world(OtherNoiseFork), "a_fork_goes_on_exactly_as_the_original_does"),
    (with_world(SharedFork), "a_fork_goes_on_exactly_as_the_original_does"),
    (with_world(SubmittedFork), "a_fork_with_fresh_noise_can_still_be_solved"),
    (NoSolution, "every_solution_earns_full_marks_whatever_faults_it_meets"),
    (Impatient, "every_solution_earns_full_marks_whatever_faults_it_meets"),
    (Dodging, "negative_controls_stay_at_the_floor"),
    (Harmless, "negative_controls_stay_at_the_floor"),
    (PaysForNothing, "doing_nothing_is_scored_and_earns_nothing"),
    (VoidForNothing, "doing_nothing_is_scored_and_earns_nothing"),
    (Moody, "a_verdict_is_a_pure_function_of_what_was_captured"),
    (AlwaysRight, "the_demonstrators_success_falls_with_its_skill"),
    (Unseeded, "the_demonstrator_is_deterministic_given_its_seed"),
]


@pytest.mark.parametrize(
    ("broken", "rule"), BROKEN, ids=[f"{broken.__name__}-{rule[:30]}" for broken, rule in BROKEN]
)
def test_a_rule_catches_an_environment_that_breaks_it(broken: type[FakeEnvironment], rule: str) -> None:
    SHARED.clear()
    contract = type("Broken", (CoinContract,), {"environment_class": broken})()
    check: Callable[[], None] = getattr(contract, f"test_{rule}")
    with pytest.raises((Violation, ValueError)) as caught:
        check()
    if isinstance(caught.value, Violation):
        said = str(caught.value).replace(",", "").replace("'", "")
        assert rule.replace("_", " ") in said and "Remedy: " in said


class Garbling(ByteRenderer):
    """Loses the last character of an argument in the natural dialect."""

    def parse(self, ids: Any, tools: Any) -> tuple[Call, ...]:
        calls = super().parse(ids, tools)
        return tuple(
            replace(c, arguments={k: str(v)[:-1] + "x" for k, v in c.arguments.items()}) for c in calls
        )


def test_a_dialect_that_garbles_calls_is_caught() -> None:
    class Garbled(CoinContract):
        def renderers(self) -> Sequence[Renderer]:
            return [ByteRenderer(Dialect.COMPACT), Garbling(Dialect.NATURAL)]

    with pytest.raises(Violation, match="through the natural dialect earns 0"):
        Garbled().test_a_solution_gets_the_same_verdict_through_every_dialect()


def test_every_rule_is_shown_to_catch_something() -> None:
    shown = {f"test_{rule}" for _, rule in BROKEN} | {
        "test_a_solution_gets_the_same_verdict_through_every_dialect"
    }
    assert set(EnvironmentContract.rules()) == shown


def test_the_violations_of_a_sound_environment_are_none_and_of_a_broken_one_are_listed() -> None:
    assert CoinContract().violations() == {}
    broken = type("Broken", (CoinContract,), {"environment_class": VoidForNothing})()
    assert "test_doing_nothing_is_scored_and_earns_nothing" in broken.violations()
