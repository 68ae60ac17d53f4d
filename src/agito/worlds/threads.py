"""Runs slow work (a simulator's step, a query, third-party code) on a thread outside the event loop, with a
deadline.

Work past its deadline is stopped, first by the caller's `stop`, then by an exception in its thread. Only
compiled code that never returns survives both; it keeps its thread until the process ends. Code that never
releases the GIL (such as one long regular-expression match) blocks the loop too; run it in a process of its
own.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeAlias, TypeVar, cast

import anyio
import anyio.from_thread
import anyio.lowlevel

T = TypeVar("T")
_Jobs: TypeAlias = "SimpleQueue[_Job[Any] | None]"
_GRACE_S = 0.25  # time to stop after being told to
_MOST_IDLE = 32  # idle threads kept; no limit on running ones


class DeadlinePassed(Exception):
    """The deadline has passed. `is_over`: the work has stopped completely."""

    def __init__(self, *, is_over: bool) -> None:
        super().__init__("out of time")
        self.is_over = is_over


class WorkerThread:
    """A dedicated thread, for work that must stay on one thread. It starts with the first job."""

    def __init__(self) -> None:
        self._jobs: _Jobs = SimpleQueue()
        self._thread: threading.Thread | None = None

    async def run(
        self, work: Callable[[], T], *, timeout_s: float, stop: Callable[[], None] = lambda: None
    ) -> T:
        """Raises `DeadlinePassed`, and whatever the work raises.

        `stop` is called in the loop if the deadline passes or the caller is cancelled.
        """
        job = _Job(work, anyio.lowlevel.current_token())
        thread = self._begin(job)
        try:
            with anyio.move_on_after(timeout_s):
                await job.over.wait()
                return job.result()
        except anyio.get_cancelled_exc_class():
            await self._stop(job, thread, stop)
            raise
        raise DeadlinePassed(is_over=await self._stop(job, thread, stop))

    def wait(self, work: Callable[[], T]) -> T:
        """Blocks the caller, for work that a constructor must do on this thread."""
        job = _Job(work, None)
        self._begin(job)
        job.done.wait()
        return job.result()

    def close(self) -> None:
        """Does not wait for running work."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread = None

    def _begin(self, job: _Job[Any]) -> threading.Thread:
        if self._thread is None:
            self._thread = threading.Thread(
                target=_work, args=(self._jobs,), name="agito-worker", daemon=True
            )
            self._thread.start()
        self._jobs.put(job)
        return self._thread

    async def _stop(self, job: _Job[Any], thread: threading.Thread, stop: Callable[[], None]) -> bool:
        """Whether it has stopped. The thread is abandoned in either case, so that a late exception cannot hit
        another job.
        """
        self._jobs.put(None)
        self._jobs, self._thread = SimpleQueue(), None
        with anyio.CancelScope(shield=True):
            for tell in (stop, lambda: job.interrupt(thread)):
                tell()
                with anyio.move_on_after(_GRACE_S):
                    await job.over.wait()
                    return True
        return False


async def in_thread(work: Callable[[], T], *, timeout_s: float, stop: Callable[[], None] = lambda: None) -> T:
    """Runs one job on any thread; otherwise as `WorkerThread.run`."""
    thread = _idle.pop() if _idle else WorkerThread()
    try:
        return await thread.run(work, timeout_s=timeout_s, stop=stop)
    finally:
        if len(_idle) < _MOST_IDLE:
            _idle.append(thread)
        else:
            thread.close()


_idle: list[WorkerThread] = []


class _Stop(BaseException):
    """Raised in a thread from outside; `except Exception` does not catch it."""


class _Job(Generic[T]):
    def __init__(self, work: Callable[[], T], token: anyio.lowlevel.EventLoopToken | None) -> None:
        self._work, self._token = work, token
        self.over, self.done = anyio.Event(), threading.Event()
        self._value: T | None = None
        self._error: BaseException | None = None
        self._ending = threading.Lock()

    def do(self) -> None:
        """Runs in the thread."""
        try:
            self._value = self._work()
        except BaseException as error:  # handed to the waiter
            self._error = error
        with self._ending:
            self.done.set()
        if self._token is not None:
            try:
                anyio.from_thread.run_sync(self.over.set, token=self._token)
            except anyio.RunFinishedError:
                return  # the event loop has ended: nobody waits

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return cast("T", self._value)

    def interrupt(self, thread: threading.Thread) -> None:
        with self._ending:
            if not self.done.is_set() and thread.ident is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread.ident), ctypes.py_object(_Stop)
                )


def _work(jobs: _Jobs) -> None:
    while (job := jobs.get()) is not None:
        try:
            job.do()
        except _Stop:
            return  # it came after the work was done
