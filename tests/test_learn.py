"""One learn step: what it trains on, what it ignores, and the order of events."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from agito.harness import SoloHarness, solo
from agito.learning.credit import RunningMeans
from agito.learning.credit.distilled import distilled
from agito.monitor import Monitor, MonitorConfig
from agito.protocols import MAIN, Script, StepStats
from agito.recipe import RlSection
from agito.rollout import AttemptRunner, Plan, collect
from agito.scheduling.curriculum import Curriculum
from agito.scheduling.sync_scheduler import Quota
from agito.testing import ByteRenderer, FakeEnvironment
from agito.testing.fakes import call
from agito.training.learn_step import LearnStep
from agito.types import Attempt, AttemptId, Flag, Group, Penalty, Sample, Verdict

pytestmark = pytest.mark.anyio


class Trainer:
    """A trainer that records its calls and their order."""

    def __init__(self) -> None:
        self.steps: list[tuple[Sample, ...]] = []
        self.log: list[str] = []

    learning: Mapping[str, object] = {MAIN: None}

    async def step(self, samples: Sequence[Sample], *, rate: float = 1.0) -> Mapping[str, StepStats]:
        if not samples:
            return {}
        self.steps.append(tuple(samples))
        self.log.append(f"step at {rate:g}")
        return {MAIN: StepStats(version=len(self.steps), values={})}

    async def publish(self) -> None:
        self.log.append("publish")


async def groups(num: int = 2) -> tuple[Group, ...]:
    """Of four attempts, two of which solve the task. Scripts have no log-probabilities, so they are given
    some.
    """
    env = FakeEnvironment()
    runner = AttemptRunner(env, SoloHarness(), solo(ByteRenderer()), seed=0)

    def wrong() -> Script:
        yield call("submit", "nowhere")

    plan = Plan(
        task=lambda group: env.task(split="train", index=group, seed=0, level=1 + group % 2),
        script=lambda task, target, at: env.solutions(task, target)[0] if at.slot % 2 else wrong,
    )
    found = (await collect(runner, plan, Quota(ids=range(num), group_size=4), None)).groups
    return tuple(replace(group, attempts=tuple(_sampled(each) for each in group.attempts)) for group in found)


def _sampled(attempt: Attempt) -> Attempt:
    segments = attempt.trajectory.segments
    for segment in segments:
        for at, is_sampled in enumerate(segment.tokens.is_sampled):
            segment.tokens.logprobs[at] = -0.1 if is_sampled else segment.tokens.logprobs[at]
    return attempt


def learner(
    trainer: Trainer,
    *,
    monitor: Monitor | None = None,
    settings: Mapping[str, object] | None = None,
    **parts: object,
) -> LearnStep:
    recipe = RlSection.model_validate({"groups": 2, "group_size": 4, **(settings or {})})
    return LearnStep(trainer, recipe, means=RunningMeans(), monitor=monitor, **parts)  # type: ignore[arg-type]


def watching(**options: object) -> Monitor:
    return Monitor(MonitorConfig.model_validate({"on_alarm": "watch", **options}), seed=0, has_gold=False)


async def test_a_step_learns_from_mixed_groups_then_publishes() -> None:
    trainer = Trainer()
    learned = await learner(trainer, monitor=watching()).learn(0, await groups(), publish=trainer.publish)
    assert trainer.log == ["step at 1", "publish"]
    assert {sample.attempt.group for sample in learned.samples} == {0, 1} and learned.stats


async def test_nothing_is_learned_from_groups_that_revoked_weights_sampled() -> None:
    trainer = Trainer()
    learned = await learner(trainer).learn(0, await groups(), publish=trainer.publish, revoked={0})
    assert {sample.attempt.group for sample in learned.samples} == {1}
    assert trainer.log == ["step at 0.5", "publish"]


async def test_a_cell_in_which_attempts_keep_ending_void_is_left_alone_and_said_once() -> None:
    trainer, monitor = Trainer(), watching()
    first, second = await groups()
    broken = replace(
        first,
        attempts=(*first.attempts, *[replace(first.attempts[0], verdict=Verdict.void("infra: gone"))] * 3),
    )
    step = learner(trainer, monitor=monitor)
    learned = await step.learn(0, [broken, second], publish=trainer.publish)
    assert {sample.attempt.group for sample in learned.samples} == {1}
    assert (
        len(learned.notes) == 1
        and f"nothing is learned from {first.task.cell} any more: 3 of 7 tries" in learned.notes[0]
    )
    assert not learned.pause and (await step.learn(1, [broken, second], publish=trainer.publish)).notes == ()


async def test_where_every_cell_is_stopped_the_run_pauses_and_learns_nothing() -> None:
    trainer = Trainer()
    (first,) = await groups(1)
    broken = replace(
        first,
        attempts=(*first.attempts, *[replace(first.attempts[0], verdict=Verdict.void("infra: gone"))] * 3),
    )
    learned = await learner(trainer, monitor=watching()).learn(0, [broken], publish=trainer.publish)
    assert "every cell of this step is stopped" in learned.pause and trainer.log == []


async def test_an_alarm_takes_the_weights_back_once_and_learns_nothing_from_its_step() -> None:
    trainer, backs = Trainer(), list[int]()
    monitor = Monitor(MonitorConfig(on_alarm="quarantine"), seed=0, has_gold=False)

    async def roll_back(step: int) -> int:
        backs.append(step)
        return 0

    found = await groups()
    cheats = tuple(
        replace(group, attempts=tuple(_cheating(each) for each in group.attempts * 8)) for group in found
    )
    step = learner(trainer, monitor=monitor, roll_back=roll_back)
    learned = await step.learn(3, cheats, publish=trainer.publish)
    assert monitor.alarm_step == 3 and learned.is_rolled_back and learned.samples == ()
    assert (backs, trainer.log) == ([3], ["publish"])
    assert not (await step.learn(4, found, publish=trainer.publish)).is_rolled_back and backs == [3]


def _cheating(attempt: Attempt) -> Attempt:
    verdict = replace(attempt.verdict, reward=1.0, flags=(Flag(kind="canary", is_proof=True),))
    return replace(attempt, verdict=verdict, penalty=Penalty(why="canary", reward=-0.5, floor=0.0))


async def test_a_group_of_cheats_alone_is_compared_with_what_its_cell_paid_before() -> None:
    trainer = Trainer()
    (first,) = await groups(1)
    step = learner(trainer)
    await step.learn(0, [first], publish=trainer.publish)
    await step.learn(
        1,
        [replace(first, attempts=tuple(_cheating(each) for each in first.attempts))],
        publish=trainer.publish,
    )
    pairs = [
        pair for sample in trainer.steps[1] for pair in zip(sample.advantages, sample.trainable, strict=True)
    ]
    advantages = {value for value, is_trained in pairs if is_trained}
    assert advantages == {-1.0}, "-0.5 against the mean of 0.5"


async def test_credit_is_chosen_by_name() -> None:
    by_name: dict[str, set[float]] = {}
    for name in ("leave_one_out", "group_mean"):
        trainer = Trainer()
        await learner(trainer, settings={"credit": name}).learn(0, await groups(1), publish=trainer.publish)
        by_name[name] = {
            round(value, 4) for sample in trainer.steps[0] for value in sample.advantages if value
        }
    assert by_name == {"leave_one_out": {0.6667, -0.6667}, "group_mean": {1.0, -1.0}}


async def test_the_curriculum_hears_of_every_group_that_is_not_void() -> None:
    trainer, curriculum = Trainer(), Curriculum(2)
    first, second = await groups()
    gone = replace(
        second,
        attempts=tuple(replace(each, verdict=Verdict.void("infra: gone")) for each in second.attempts[:2]),
    )
    even = replace(first, attempts=first.attempts[::2])
    step = learner(trainer, curriculum=curriculum, cell_of=lambda group: group.id)
    await step.learn(0, [even, gone], publish=trainer.publish)
    assert curriculum.to_json()["mixed"] == [0.5, 1.0], (
        "the even one is drawn less, the void one says nothing"
    )
    assert trainer.log == ["publish"], "nothing to learn is no step of the trainer"


def test_a_teacher_adds_what_it_finds_more_probable_to_the_advantage_of_trained_tokens() -> None:
    sample = Sample(
        attempt=AttemptId(group=0, slot=0),
        segment=0,
        ids=array("i", [1, 2, 3]),
        logprobs=array("f", [math.nan, math.nan, -2.0]),
        trainable=bytes([0, 0, 1]),
        advantages=array("f", [0.0, 0.0, 0.5]),
        versions=(),
    )
    both = distilled(sample, [-9.0, -1.5], weight=2.0, keeps_reward=True)
    alone = distilled(sample, [-9.0, -1.5], weight=2.0, keeps_reward=False)
    assert list(both.advantages) == [0.0, 0.0, 1.5] and list(alone.advantages) == [0.0, 0.0, 1.0]
    with pytest.raises(ValueError, match="1 scores of 3 tokens"):
        distilled(sample, [-9.0], weight=2.0, keeps_reward=True)


def _with_a_foe(attempt: Attempt) -> Attempt:
    (own,) = attempt.trajectory.segments
    segments = (own, replace(own, id=1, policy="foe"))
    return replace(attempt, trajectory=replace(attempt.trajectory, segments=segments))


async def test_a_teacher_makes_groups_of_equal_rewards_teach_main_and_nobody_else() -> None:
    class Scoring:
        async def credit(self, samples: Sequence[Sample]) -> tuple[tuple[Sample, ...], dict[str, float]]:
            return tuple(samples), {}

    first, second = await groups()
    failed = [each for each in first.attempts if each.verdict.reward == 0]
    both = replace(first, attempts=tuple(_with_a_foe(each) for each in failed))
    for credit in ("leave_one_out", "group_mean"):
        trainer = Trainer()
        trainer.learning = {MAIN: None, "foe": None}
        step = learner(trainer, settings={"credit": credit}, teacher=Scoring())
        learned = await step.learn(0, [both, second], publish=trainer.publish)
        assert {sample.policy for sample in learned.samples if sample.attempt.group == 0} == {MAIN}
