"""The torch processes as seen from the rollout process: one worker a rank, tokens over sockets, no torch on this side.

Every rank holds an engine and a trainer. Where all learn together, they hold the same weights, a training batch is spread over them by
tokens, and they sum their gradients among themselves. Where the first learns alone, the others sample, with weights that it offers.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from agito.channel import Asking
from agito.engine.wire import Advance, Advanced
from agito.errors import AgitoError, WorkerDied, WorkerFailed
from agito.protocols import StepStats
from agito.running import first_error
from agito.types import Sample

SILENCE_S = 300.0  # after which a worker that has not answered is given up
_START_S = 300.0  # the same for its first answer: it imports torch first
_ENDING_S = 0.5  # until a process that was killed has ended
_LOOK_S = 0.01
_FAREWELL_S = 5.0  # for a process whose connection has closed to end by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What a worker sends instead of an answer."""

    error: BaseException
    trace: str


class Compute:
    """All ranks. Methods without a rank go to every one of them and return the answer of the first."""

    def __init__(self, workers: Sequence[_Worker], context: int, meeting: Path, silence_s: float = SILENCE_S) -> None:
        self._workers, self._meeting, self._silence_s = workers, meeting, silence_s
        self._num_learners = len(workers)
        self._num_imitating = 1
        self.context = context

    @property
    def num_ranks(self) -> int:
        return len(self._workers)

    @property
    def learns_alone(self) -> bool:
        """The first rank learns, and the others do nothing but sample."""
        return self._num_learners < self.num_ranks

    @classmethod
    def start(cls, *, ranks: int, context: int, silence_s: float = SILENCE_S) -> Compute:
        """Starts the workers, which then import what they need; `setup` comes next. One that has not answered a call for `silence_s` is
        given up: the call, and every later one, raises `WorkerDied`."""
        meeting = Path(tempfile.mkdtemp(prefix="agito-"))
        return cls([_Worker(rank, ranks, meeting / "ranks", silence_s) for rank in range(ranks)], context, meeting, silence_s)

    async def setup(self, *, learn_alone: bool = False, **setup: Any) -> None:
        """Makes model, engine and trainer: see `agito.worker.Worker.setup`. Raises `WorkerDied` when a worker did not come up."""
        self._num_learners = 1 if learn_alone else self.num_ranks
        arguments = {"context": self.context, "learners": self._num_learners, **setup}
        await self._each("setup", [()] * self.num_ranks, arguments, deadline_s=max(self._silence_s, _START_S))

    async def advance(self, rank: int, exchange: Advance) -> Advanced:
        return await self._workers[rank].call("advance", exchange)

    async def begin_phase(self, phase: str, total_steps: int) -> None:
        await self._all("begin_phase", phase, total_steps)

    async def begin_imitation(self, total_steps: int) -> None:
        """On the first rank alone, so that something else may be done beside it."""
        self._num_imitating = 1
        await self._workers[0].call("begin_imitation", total_steps)

    async def join_imitation(self) -> None:
        """From here on every rank that learns takes part, beginning where the first one is."""
        self._num_imitating = self._num_learners
        if self._num_learners > 1:
            with tempfile.TemporaryDirectory(prefix="agito-") as directory:
                await self._workers[0].call("store", Path(directory))
                await self.load(Path(directory))

    async def imitate(self, batches: Sequence[Sequence[Sample]]) -> list[StepStats]:
        """A supervised step for each batch, without a round trip between them."""
        shares = [spread(batch, self._num_imitating) for batch in batches]
        totals = [sum(sample.num_trainable for sample in batch) for batch in batches]
        arguments = [([share[rank] for share in shares], totals) for rank in range(self._num_imitating)]
        return (await self._each("imitate", arguments, {}, deadline_s=self._silence_s * max(len(batches), 1)))[0]

    async def share(self) -> None:
        """Every rank takes the weights of the first."""
        await self._all("share")

    async def step(self, samples: Sequence[Sample], *, rate: float = 1.0) -> StepStats:
        shares = spread(samples, self._num_learners)
        return (await self._each("step", [(share,) for share in shares], {"rate": rate}))[0]

    async def publish(self, version: int) -> None:
        """The trainer's weights become every engine's, under this version; every row of the engines is dropped."""
        if self.learns_alone:
            await self.share()
        await self._all("publish", version)

    async def offer(self, version: int) -> None:
        """The first rank's weights become this version. Engines of other ranks may take it until the version after the next is offered."""
        await self._workers[0].call("offer", version)

    async def take(self, rank: int, version: int) -> float:
        """A rank's engine goes on with an offered version, its rows as they are. Returns for how many seconds it stood still."""
        return await self._workers[rank].call("take", version)

    async def save(self, directory: Path, *, meta: dict[str, Any], tokenizer: dict[str, str], eos_ids: Sequence[int] = ()) -> None:
        """Commits a checkpoint: weights, tokenizer, optimizer, `meta`. The rename is the commit. `eos_ids` end a turn, for servers.

        Raises `DiskFull`.
        """
        await self._workers[0].call("save", directory, meta, tokenizer, tuple(eos_ids))

    async def load(self, directory: Path, *, weights_only: bool = False) -> None:
        """Raises `CorruptCheckpoint`."""
        await self._all("load", directory, weights_only)

    async def aclose(self) -> None:
        """Idempotent. Afterwards the workers' CPU time is in this process's children's."""
        for worker in self._workers:
            worker.hang_up()
        until = time.monotonic() + _FAREWELL_S
        for worker in self._workers:
            await worker.bury(until)
        shutil.rmtree(self._meeting, ignore_errors=True)

    async def _all(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return (await self._each(method, [args] * self.num_ranks, kwargs))[0]

    async def _each(
        self, method: str, arguments: Sequence[tuple[Any, ...]], kwargs: dict[str, Any], *, deadline_s: float | None = None
    ) -> list[Any]:
        answers: list[Any] = [None] * len(arguments)

        async def call(rank: int) -> None:
            answers[rank] = await self._workers[rank].call(method, *arguments[rank], deadline_s=deadline_s, **kwargs)

        try:
            async with anyio.create_task_group() as tasks:
                for rank in range(len(arguments)):
                    tasks.start_soon(call, rank)
        except BaseExceptionGroup as group:
            error = first_error(group)
            if isinstance(error, WorkerFailed):  # perhaps only because a rank that it was summing with has died
                await anyio.sleep(_ENDING_S)
                gone = next((ending for worker in self._workers if (ending := worker.ended)), "")
                error = WorkerDied(f"{gone}, during {method}") if gone else error
            raise error from None
        return answers


def spread(samples: Sequence[Sample], ranks: int) -> list[list[Sample]]:
    """Longest first, each to the rank with the fewest tokens so far: a function of content."""
    shares: list[list[Sample]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for sample in sorted(samples, key=lambda sample: (-len(sample.ids), sample.attempt, sample.segment)):
        rank = loads.index(min(loads))
        shares[rank].append(sample)
        loads[rank] += len(sample.ids)
    return shares


class _Worker:
    """One process and the connection to it. It dies with this process: its connection closes."""

    def __init__(self, rank: int, ranks: int, meeting: Path, silence_s: float) -> None:
        self._rank, self._silence_s = rank, silence_s
        ours, theirs = socket.socketpair()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        with theirs:
            fd = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "agito.worker", str(fd), str(rank), str(ranks), str(meeting)],
                pass_fds=[fd], env=environment, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self._channel = Asking(ours)
        self._turn = anyio.Lock()
        self._has_answered = False
        self._lost = ""  # why nothing more is asked of it

    async def call(self, method: str, *args: Any, deadline_s: float | None = None, **kwargs: Any) -> Any:
        """Raises `WorkerDied` when it has ended, or sends no answer in time; then nobody else waits for it any more."""
        deadline_s = self._silence_s if deadline_s is None else deadline_s
        async with self._turn:  # whoever has it is under a deadline too
            if self._lost:
                raise WorkerDied(f"{self._lost}; {method} was not asked of it")
            try:
                with anyio.fail_after(deadline_s):
                    answer = await self._channel.ask((method, args, kwargs))
            except TimeoutError:
                self._lost = f"worker {self._rank} has not answered {method} for {deadline_s:.0f} s{self._standing()}"
                raise WorkerDied(self._lost) from None
            except EOFError as error:
                self._lost = f"worker {self._rank} ended during {method} ({await self._ending()})"
                raise WorkerDied(self._lost) from error
            except ValueError as error:
                raise WorkerFailed(f"worker {self._rank}, {method}: {error}") from error
        self._has_answered = True
        if isinstance(answer, Failure):
            if isinstance(answer.error, AgitoError):
                raise answer.error
            raise WorkerFailed(f"worker {self._rank} failed in {method}: {answer.error!r}\n{answer.trace}") from answer.error
        return answer

    @property
    def ended(self) -> str:
        """How the process ended; empty while it runs."""
        return "" if self._process.poll() is None else f"worker {self._rank} ended ({_how(self._process.returncode)})"

    def hang_up(self) -> None:
        """A worker that has not answered yet still comes up, with nothing to lose, and one that was given up is past hearing: neither is
        waited for."""
        self._channel.close()
        if self._lost or not self._has_answered:
            self._process.kill()

    async def bury(self, until: float) -> None:
        """Waits for its end, and brings it about at `until`."""
        if not await self._has_ended(until):
            self._process.kill()
            await self._has_ended(time.monotonic() + _FAREWELL_S)

    async def _ending(self) -> str:
        has_ended = await self._has_ended(time.monotonic() + _FAREWELL_S)
        return _how(self._process.returncode) if has_ended else "its connection closed"

    async def _has_ended(self, until: float) -> bool:
        while self._process.poll() is None:
            if time.monotonic() >= until:
                return False
            await anyio.sleep(_LOOK_S)
        return True

    def _standing(self) -> str:
        """What the kernel says of a process that says nothing itself."""
        try:
            state = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return ""
        return {"T": ": it is stopped", "t": ": a debugger holds it", "D": ": it waits for a device"}.get(state, "")


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


__all__ = ["Compute", "Failure", "spread"]
