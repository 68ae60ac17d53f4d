"""Async work from synchronous code."""

from __future__ import annotations

import os
from signal import SIGUSR1, SIGUSR2

import anyio
import pytest

from agito.concurrency import Interrupted, first_error, run
from agito.errors import AgitoError, BadRecipe, SandboxFailure, WorkerDied


def test_the_first_meaningful_error_leaves_a_group_bare() -> None:
    silence, cause = WorkerDied("silent"), SandboxFailure("no pool")
    assert (
        first_error(BaseExceptionGroup("", [ValueError("x"), BaseExceptionGroup("", [silence, cause])]))
        is cause
    )
    assert first_error(BaseExceptionGroup("", [ValueError("x"), silence])) is silence

    async def fail(error: Exception) -> None:
        raise error

    async def work() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail, BadRecipe("rl.steps"))

    with pytest.raises(BadRecipe, match=r"rl\.steps"):
        run(work)


def test_a_signal_cancels_the_work_waits_for_its_cleanup_and_is_named() -> None:
    cleaned: list[bool] = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), SIGUSR1)
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
                cleaned.append(True)

    with pytest.raises(Interrupted) as caught:
        run(work, signals=(SIGUSR1, SIGUSR2))
    assert caught.value.signal is SIGUSR1
    assert cleaned == [True]


def test_an_error_during_the_cleanup_does_not_hide_the_signal() -> None:
    async def work() -> None:
        try:
            os.kill(os.getpid(), SIGUSR2)
            await anyio.sleep_forever()
        finally:
            raise AgitoError("also this")

    with pytest.raises(Interrupted):
        run(work, signals=(SIGUSR2,))


async def test_inside_a_running_loop_the_work_is_done_in_a_thread() -> None:
    async def work() -> str:
        await anyio.lowlevel.checkpoint()
        return "done"

    async def fail() -> None:
        raise BadRecipe("bad")

    assert run(work) == "done"
    with pytest.raises(BadRecipe):
        run(fail)
