"""Workers as Ray actors, anywhere in a cluster: the same requests and answers as over pipes.

An actor answers one request at a time. Ray never restarts it: a dead worker has lost its weights, and the run
handles that. The driver joins the cluster named by RAY_ADDRESS, else one running on this machine, else starts
one.
"""

# Ray may be absent where this is checked.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import importlib
import os
import threading
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import ray
import ray.exceptions
import ray.util

from agito.runtime.transport import Handler, answered, pickled, unpickled
from agito.runtime.wire import Request, Response

_WORKER = "agito.runtime.worker"  # imported by name: the asking side never loads torch
_LOOK_S = 0.05
_NOW_S = 0.0
_THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class _WorkerActor:
    """Runs in the actor's process."""

    def __init__(self, rank: int) -> None:
        self._handler: Handler = importlib.import_module(_WORKER).on_cluster(ray.util.get_node_ip_address())
        self._is_over = threading.Event()
        self.rank = rank

    def ask(self, data: bytes) -> bytes:
        return answered(self._handler, data)

    @ray.method(concurrency_group="life")
    def live(self) -> None:
        """Returns when the actor ends; waiting for it reveals the actor's death."""
        self._is_over.wait()

    def end(self) -> None:
        self._is_over.set()
        ray.actor.exit_actor()


@dataclass(slots=True)
class _Actor:
    handle: Any
    life: Any  # a reference to the result of `live`


class RayTransport:
    def __init__(self, started: Future[_Actor]) -> None:
        self._started = started
        self._is_closed = False

    async def ask(self, request: Request) -> Response:
        actor = await self._actor()
        if self._is_closed:
            raise EOFError("the worker was closed")
        try:
            data: bytes = await actor.handle.ask.remote(pickled(request))
        except ray.exceptions.RayActorError as error:
            raise EOFError(f"the worker is gone: {error}") from error
        except ray.exceptions.RayError as error:
            raise ValueError(f"its answer cannot be read: {error}") from error
        return unpickled(data)

    @property
    def ended(self) -> str:
        actor = self._now()
        if actor is None:
            failed = self._started.done() and (self._started.cancelled() or self._started.exception())
            return f"Ray did not start it: {failed!r}" if failed else ""
        done, _ = ray.wait([actor.life], timeout=_NOW_S)
        if not done:
            return ""
        try:
            ray.get(actor.life)
        except ray.exceptions.RayError as error:
            return f"its actor ended: {' '.join(str(error).split())[:200]}"
        return "its actor was closed"

    @property
    def standing(self) -> str:
        if self._now() is None:
            return "Ray has not started it"
        try:
            free = ray.available_resources()
        except Exception as error:  # whatever a cluster raises that is gone
            return f"the cluster does not answer: {error!r}"
        return f"the cluster has {free.get('CPU', 0):.0f} CPUs and {free.get('GPU', 0):.0f} GPUs to spare"

    def close(self) -> None:
        """Answers earlier requests first."""
        actor = self._now()
        if actor is not None and not self._is_closed:
            actor.handle.end.remote()
        self._is_closed = True

    def kill(self) -> None:
        self._is_closed = True
        if not self._started.cancel():
            self._started.add_done_callback(_kill)

    async def wait(self, until: float) -> bool:
        while not self.ended:
            if time.monotonic() >= until:
                return False
            await anyio.sleep(_LOOK_S)
        return True

    async def _actor(self) -> _Actor:
        try:
            # The caller sets the deadline.
            return await anyio.to_thread.run_sync(self._started.result, abandon_on_cancel=True)
        except (CancelledError, Exception) as error:  # whatever a cluster raises that cannot be joined
            raise EOFError(f"Ray did not start it: {error!r}") from error

    def _now(self) -> _Actor | None:
        is_there = (
            self._started.done() and not self._started.cancelled() and self._started.exception() is None
        )
        return self._started.result() if is_there else None


def _kill(started: Future[_Actor]) -> None:
    with suppress(Exception):  # one that never began has nothing to end
        ray.kill(started.result().handle, no_restart=True)


class RayLaunch:
    """A `Launch`. `gpus`: per worker."""

    def __init__(self, *, gpus: float = 0.0) -> None:
        self._gpus = gpus
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ray")  # joining a cluster takes seconds

    def __call__(self, rank: int) -> RayTransport:
        return RayTransport(self._thread.submit(partial(_start, rank, self._gpus)))


def _start(rank: int, gpus: float) -> _Actor:
    if not ray.is_initialized():
        _join()
    actor: Any = ray.remote(
        num_cpus=1,
        num_gpus=gpus,
        max_restarts=0,
        max_task_retries=0,
        concurrency_groups={"life": 1},
        scheduling_strategy="SPREAD",
        runtime_env={"env_vars": _THREADS},
    )(_WorkerActor)
    handle = actor.remote(rank)
    return _Actor(handle=handle, life=handle.live.remote())


def _join() -> None:
    # Otherwise Ray prints a long warning about this default.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    how: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False, "configure_logging": False}
    try:
        ray.init(address="auto", **how)
    except ConnectionError:
        if "RAY_ADDRESS" in os.environ:
            raise
        ray.init(include_dashboard=False, **how)
