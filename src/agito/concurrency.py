"""Async work from synchronous code: one event loop, the first meaningful error, signals that end
it in order.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Sequence
from signal import Signals
from typing import TypeVar

import anyio
import anyio.lowlevel

from agito.errors import AgitoError, WorkerDied, WorkerFailed

Result = TypeVar("Result")


class Interrupted(BaseException):
    """A signal asked the process to end; everything has been closed."""

    def __init__(self, signal: Signals) -> None:
        super().__init__(signal.name)
        self.signal = signal


def run(function: Callable[[], Awaitable[Result]], *, signals: Sequence[Signals] = ()) -> Result:
    """Runs to the end and raises the first meaningful error bare, never a group.

    The first of `signals` cancels everything, waits for it to be closed, and raises `Interrupted`; that needs
    the main thread. Inside a running event loop, such as a notebook's, the work is done in a thread of its
    own.
    """
    if _is_in_a_loop():
        return _in_thread(function)
    caught: list[Signals] = []
    try:
        return anyio.run(_heeding, function, signals, caught)
    except BaseException as error:
        if caught:
            raise Interrupted(caught[0]) from None
        if isinstance(error, BaseExceptionGroup):
            raise first_error(error) from None  # pyright: ignore[reportUnknownArgumentType]
        raise


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The most informative error: one of ours that is not just a worker's death, else any of ours, else the
    first.
    """
    flat: list[BaseException] = []
    stack: list[BaseException] = [group]
    while stack:
        error = stack.pop(0)
        if isinstance(error, BaseExceptionGroup):
            stack[:0] = error.exceptions  # pyright: ignore[reportUnknownMemberType]
        else:
            flat.append(error)
    ours = [error for error in flat if isinstance(error, AgitoError)]
    telling = [
        error for error in ours if isinstance(error, WorkerFailed) or not isinstance(error, WorkerDied)
    ]
    return next(iter([*telling, *ours]), flat[0])


async def _heeding(
    function: Callable[[], Awaitable[Result]], signals: Sequence[Signals], caught: list[Signals]
) -> Result:
    async with anyio.create_task_group() as tasks:
        if signals:
            ready = anyio.Event()
            tasks.start_soon(_watch, signals, caught, tasks.cancel_scope, ready)
            await ready.wait()
        result = await function()
        tasks.cancel_scope.cancel()
        return result
    raise AssertionError("cancelled from outside")


async def _watch(
    signals: Sequence[Signals], caught: list[Signals], scope: anyio.CancelScope, ready: anyio.Event
) -> None:
    with anyio.open_signal_receiver(*signals) as received:
        ready.set()
        async for signal in received:
            caught.append(signal)
            scope.cancel()


def _is_in_a_loop() -> bool:
    try:
        anyio.lowlevel.current_token()
    except anyio.NoEventLoopError:
        return False
    return True


def _in_thread(function: Callable[[], Awaitable[Result]]) -> Result:
    results: list[Result] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(run(function))
        except BaseException as error:  # handed to the caller's thread
            errors.append(error)

    thread = threading.Thread(target=work, name="agito")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
