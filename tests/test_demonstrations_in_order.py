"""Which demonstrations are shown, and handed on, depends on no machine's speed."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest
from tests.credit.test_leave_one_out import trajectory

from agito.training.cold_start import _DemoBuffer
from agito.types import Attempt, AttemptId, Status, Verdict

pytestmark = pytest.mark.anyio


def attempt(group: int, *, tries: int = 0, is_void: bool = False) -> Attempt:
    made = replace(trajectory(0), attempt=AttemptId(group=group, slot=0, tries=tries))
    verdict = Verdict.void("gone") if is_void else Verdict(status=Status.SCORED, reward=1.0)
    return Attempt(trajectory=made, verdict=verdict)


async def test_what_is_handed_on_is_what_was_shown_whatever_else_has_come() -> None:
    buffer = _DemoBuffer({number: number for number in range(6)}, max_tries=3)
    for number in (5, 1, 0, 4, 2, 3):
        buffer.add(attempt(number))
    await buffer.take([0, 1])
    await buffer.take([2])
    assert [each.trajectory.attempt.group for each in buffer.taken()] == [0, 1, 2]


async def test_one_that_is_void_for_good_keeps_nobody_waiting_and_one_that_comes_again_does() -> None:
    buffer = _DemoBuffer({0: 0, 1: 1}, max_tries=2)
    buffer.add(attempt(0))
    buffer.add(attempt(1, is_void=True))
    with anyio.move_on_after(0.05) as waiting:
        await buffer.take([0, 1])
    assert waiting.cancelled_caught, "it is tried once more"
    buffer.add(attempt(1, tries=1, is_void=True))
    with anyio.fail_after(1):
        samples = await buffer.take([0, 1])
    assert len(samples) == 1
    assert [each.trajectory.attempt.tries for each in buffer.taken()] == [0, 1], "the last try stands"
