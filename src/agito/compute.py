"""The torch processes as seen from the rollout process: one worker a rank, tokens over pipes, no torch on this side.

Every rank holds an engine and a trainer. Where all learn together, they hold the same weights, a training batch is spread over them by
tokens, and they sum their gradients among themselves. Where the first learns alone, the others sample, with weights that it offers.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from agito.engine.wire import Advance, Advanced
from agito.errors import AgitoError, WorkerDied, WorkerFailed
from agito.protocols import StepStats
from agito.running import first_error
from agito.types import Sample

_ANSWER_DEADLINE_S = 300.0
_ENDING_S = 0.5  # until a process that was killed has ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What a worker sends instead of an answer."""

    error: BaseException
    trace: str


class Compute:
    """All ranks. Methods without a rank go to every one of them and return the answer of the first."""

    def __init__(self, workers: Sequence[_Worker], context: int, meeting: Path) -> None:
        self._workers, self._meeting = workers, meeting
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
    def start(cls, *, ranks: int, context: int) -> Compute:
        """Starts the workers, which then import what they need; `setup` comes next."""
        meeting = Path(tempfile.mkdtemp(prefix="agito-"))
        return cls([_Worker(rank, ranks, meeting / "ranks") for rank in range(ranks)], context, meeting)

    async def setup(self, *, learn_alone: bool = False, **setup: Any) -> None:
        """Makes model, engine and trainer: see `agito.worker.Worker.setup`. Raises `WorkerDied` when a worker did not come up."""
        self._num_learners = 1 if learn_alone else self.num_ranks
        await self._all("setup", context=self.context, learners=self._num_learners, **setup)

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
        return (await self._each("imitate", arguments, {}, deadline_s=_ANSWER_DEADLINE_S * max(len(batches), 1)))[0]

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

    async def save(self, directory: Path, *, meta: dict[str, Any], tokenizer: dict[str, str]) -> None:
        """Commits a checkpoint: weights, tokenizer, optimizer, `meta`. The rename is the commit. Raises `DiskFull`."""
        await self._workers[0].call("save", directory, meta, tokenizer)

    async def load(self, directory: Path, *, weights_only: bool = False) -> None:
        """Raises `CorruptCheckpoint`."""
        await self._all("load", directory, weights_only)

    async def aclose(self) -> None:
        """Idempotent. Afterwards the workers' CPU time is in this process's children's."""
        for worker in self._workers:
            worker.hang_up()
        for worker in self._workers:
            worker.bury()
        shutil.rmtree(self._meeting, ignore_errors=True)

    async def _all(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return (await self._each(method, [args] * self.num_ranks, kwargs))[0]

    async def _each(
        self, method: str, arguments: Sequence[tuple[Any, ...]], kwargs: dict[str, Any], *, deadline_s: float = _ANSWER_DEADLINE_S
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
    """One process and the pipe to it. It dies with this process: its pipe closes."""

    def __init__(self, rank: int, ranks: int, meeting: Path) -> None:
        self._rank = rank
        self._pipe, theirs = multiprocessing.Pipe()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        fd = theirs.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "agito.worker", str(fd), str(rank), str(ranks), str(meeting)],
            pass_fds=[fd], env=environment, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        theirs.close()
        self._turn = anyio.Lock()
        self._has_answered = False

    async def call(self, method: str, *args: Any, deadline_s: float = _ANSWER_DEADLINE_S, **kwargs: Any) -> Any:
        async with self._turn:
            try:
                self._pipe.send((method, args, kwargs))
                with anyio.fail_after(deadline_s):
                    await anyio.wait_readable(self._pipe.fileno())
                answer = self._pipe.recv()
            except TimeoutError:
                raise WorkerDied(f"worker {self._rank} has not answered {method} for {deadline_s:.0f} s") from None
            except (EOFError, OSError) as error:
                raise WorkerDied(f"worker {self._rank} ended during {method} ({self._ending()})") from error
        self._has_answered = True
        if isinstance(answer, Failure):
            if isinstance(answer.error, AgitoError):
                raise answer.error
            raise WorkerFailed(f"worker {self._rank} failed in {method}: {answer.error!r}\n{answer.trace}") from answer.error
        return answer

    @property
    def ended(self) -> str:
        """How the process ended; empty while it runs."""
        return "" if self._process.poll() is None else f"worker {self._rank} ended ({self._ending()})"

    def _ending(self) -> str:
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "its pipe closed"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def hang_up(self) -> None:
        """A worker that has not answered yet still comes up, with nothing to lose: it is not waited for."""
        if not self._pipe.closed:
            self._pipe.close()
        if not self._has_answered:
            self._process.kill()

    def bury(self) -> None:
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


__all__ = ["Compute", "Failure", "spread"]
