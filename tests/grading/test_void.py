"""A grader in a real sandbox that is killed, whose disk is full, or that does not answer: no failure becomes
a reward.
"""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import AsyncIterator
from functools import partial

import pytest

from agito.errors import SandboxFailure
from agito.harness import SoloHarness, solo
from agito.learning.credit import leave_one_out
from agito.monitor import Monitor, MonitorConfig
from agito.protocols import SandboxSpec
from agito.rollout import AttemptRunner, Deadlines, Plan, collect
from agito.scheduling.sync_scheduler import Quota
from agito.testing import ByteRenderer, FakeEnvironment
from agito.types import AttemptId, EpisodeArtifacts, Group, Status, Target, Verdict
from agito.worlds.sandbox import Pool
from agito.worlds.sandbox.box import Box

pytestmark = pytest.mark.anyio
CHECK = (
    "import json; given = json.load(open('given.json')); print(json.dumps(given['said'] == given['wanted']))"
)


class Boxed(FakeEnvironment):
    """Judges in a throwaway sandbox. The boxes of its first `num_struck` verdicts get `trouble`."""

    def __init__(self, pool: Pool, trouble: str, num_struck: int) -> None:
        self.pool, self.trouble, self.num_struck, self.num_asked = pool, trouble, num_struck, 0

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        self.num_asked += 1
        trouble = self.trouble if self.num_asked <= self.num_struck else ""
        box = await self.pool.start(SandboxSpec(work_mb=1, tmp_mb=1))
        try:
            return await self._judge(box, sealed, target, trouble)
        finally:
            await box.close()

    async def _judge(self, box: Box, sealed: EpisodeArtifacts, target: Target, trouble: str) -> Verdict:
        if trouble == "full disk":
            await box.sh("head -c 4M /dev/zero >filler")
        await box.write(
            {"given.json": json.dumps({"said": sealed.submitted, "wanted": str(target.data["coin"])})}
        )
        if trouble == "killed":
            os.kill(box.pid, signal.SIGKILL)
        if trouble == "crash":
            await box.sh("echo 'not json' >given.json")
        slow = "import time; time.sleep(600); " if trouble == "silent" else ""
        result = await box.py(slow + CHECK, timeout_s=300.0 if trouble == "silent" else 10.0)
        if result.exit_code != 0:
            raise SandboxFailure(
                f"the check ended with {result.exit_code} ({result.killed_by}): {result.output[-100:]!r}"
            )
        reward = float(json.loads(result.output))
        return Verdict(status=Status.SCORED, reward=reward, scores={"success": reward})


@pytest.fixture
async def pool(anyio_backend: str) -> AsyncIterator[Pool]:
    async with await Pool.open(warm=0) as pool:
        yield pool


def parts(environment: FakeEnvironment) -> tuple[AttemptRunner, Plan]:
    """Every attempt solves its task."""
    runner = AttemptRunner(
        environment, SoloHarness(), solo(ByteRenderer()), seed=0, deadlines=Deadlines(grade_s=3.0)
    )
    task = partial(environment.task, split="train", seed=0, level=1)
    return runner, Plan(
        task=lambda group: task(index=group),
        script=lambda task, target, attempt: environment.solutions(task, target)[0],
    )


@pytest.mark.parametrize("trouble", ["killed", "full disk", "silent", "crash"])
async def test_a_grader_in_trouble_once_is_asked_again_and_the_verdict_is_what_it_then_says(
    pool: Pool, trouble: str
) -> None:
    environment = Boxed(pool, trouble, 1)
    runner, plan = parts(environment)
    struck, spared = [await runner.run(plan, AttemptId(group=0, slot=slot), None) for slot in range(2)]
    assert [each.verdict.reward for each in (struck, spared)] == [1.0, 1.0], struck.verdict
    assert environment.num_asked == 3 and not struck.quarantine, "the machinery's failure accuses nobody"


@pytest.mark.parametrize("trouble", ["killed", "full disk"])
async def test_a_grader_that_fails_on_a_reference_too_gives_no_verdict_and_the_attempt_is_tried_again(
    pool: Pool, trouble: str
) -> None:
    runner, plan = parts(Boxed(pool, trouble, 5))  # three times for the work, twice for the reference
    collected = await collect(runner, plan, Quota(ids=[0], group_size=2, max_live=1), None)
    assert collected.retried == 1
    assert [attempt.verdict.reward for attempt in collected.attempts] == [1.0, 1.0]


async def test_where_every_grader_dies_nothing_is_learned(pool: Pool) -> None:
    runner, plan = parts(Boxed(pool, "killed", 10**6))
    collected = await collect(runner, plan, Quota(ids=range(2), group_size=2, max_tries=2), None)
    assert all(math.isnan(attempt.verdict.reward) for attempt in collected.attempts)
    assert [group.is_void for group in collected.groups] == [True, True]
    assert not any(group.has_variance for group in collected.groups)
    with pytest.raises(ValueError, match="at least 2"):
        leave_one_out(collected.groups[0])


class Validated(Boxed):
    """A validator in trouble, beside a check that is not."""

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        return await FakeEnvironment.grade(self, sealed, target, grade_seed)

    async def gold(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        return await super().grade(sealed, target, grade_seed)


async def test_a_validator_in_trouble_neither_takes_a_reward_away_nor_accuses(pool: Pool) -> None:
    environment = Validated(pool, "killed", 1)
    monitor = Monitor(MonitorConfig(gold_share=1.0, on_alarm="quarantine"), seed=0, has_gold=True)
    _, plan = parts(environment)
    runner = AttemptRunner(environment, SoloHarness(), solo(ByteRenderer()), seed=0, monitor=monitor)
    struck, spared = [await runner.run(plan, AttemptId(group=0, slot=slot), None) for slot in range(2)]
    assert struck.gold is not None and struck.gold.status is Status.VOID
    assert spared.gold is not None and spared.gold.reward == 1.0
    assert [each.verdict.reward for each in (struck, spared)] == [1.0, 1.0]
    monitor.update(0, [Group(id=0, task=struck.trajectory.task, attempts=(struck, spared))])
    assert monitor.rate.weight == 0.0
