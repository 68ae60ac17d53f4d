"""What the rollout process asks of a policy: to sample, and to learn. Where and in how many processes that is
done is not seen here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import anyio

from agito.concurrency import first_error
from agito.learning.trainer.config import Phase
from agito.protocols import StepStats
from agito.runtime.wire import ExportWeights, WeightsExported
from agito.sampling.wire import EngineRequest, EngineResponse, ScoreRequest, ScoreResponse
from agito.types import Json, Sample


class Sampler(Protocol):
    """One policy in one process, with the weights that it pulled last."""

    async def advance(self, exchange: EngineRequest) -> EngineResponse: ...
    async def score(self, request: ScoreRequest) -> ScoreResponse:
        """Under the weights that it pulled last. Raises `WorkerFailed` where a learner in its process has
        learned on since.
        """
        ...

    async def pull(self, version: int, *, keep_rows: bool) -> float:
        """Goes on with weights that were pushed. Returns for how many seconds nothing was sampled."""
        ...


class Learner(Protocol):
    """One policy's weights that learn, however many processes hold them."""

    async def begin_phase(self, phase: Phase, total_steps: int, *, is_alone: bool = False) -> None:
        """A new optimizer and schedule. `is_alone`: in the first process only, so that something else may be
        done beside it.
        """
        ...

    async def join(self) -> None:
        """From here on every process that learns takes part, beginning where the first one is."""
        ...

    async def imitate(self, batches: Sequence[Sequence[Sample]]) -> Sequence[StepStats]:
        """A supervised step for each batch, without a round trip between them."""
        ...

    async def sync(self) -> None:
        """Every process takes the weights of the first."""
        ...

    async def step(self, samples: Sequence[Sample], *, rate: float = 1.0) -> StepStats: ...
    async def push(self, version: int) -> None:
        """The weights become this version, which must be new. Samplers may pull it until the version after
        the next is pushed, and those in the learner's own process until it learns on.
        """
        ...

    async def export(self, request: ExportWeights) -> WeightsExported:
        """The weights become a new version, as files."""
        ...

    async def save(
        self,
        directory: Path,
        *,
        meta: Mapping[str, Json],
        tokenizer: Mapping[str, str],
        eos_ids: Sequence[int] = (),
    ) -> None:
        """Commits a checkpoint: weights, tokenizer, optimizer, `meta`. The rename is the commit. `eos_ids`
        end a turn, for servers.

        Raises `DiskFull`.
        """
        ...

    async def load(self, directory: Path, *, weights_only: bool = False) -> None:
        """Raises `CorruptCheckpoint`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyHandle:
    """A policy that learns. `learns_alone`: its first sampler shares a process with the learner and rests
    while that learns.
    """

    learner: Learner
    samplers: tuple[Sampler, ...]
    learns_alone: bool = False

    @property
    def busy_samplers(self) -> tuple[Sampler, ...]:
        """Those that sample while the learner learns."""
        return self.samplers[1:] if self.learns_alone else self.samplers

    async def push(self, version: int) -> None:
        """The learner's weights become this version, for samplers to pull."""
        await self.learner.push(version)

    async def pull(self, version: int) -> float:
        """Samplers that are busy go on with this version, rows and all. Returns for how many seconds nothing
        was sampled, summed.
        """
        return sum([await sampler.pull(version, keep_rows=True) for sampler in self.busy_samplers])

    async def publish(self, version: int) -> None:
        """The learner's weights become every sampler's, under this version; their rows are dropped."""
        await self.push(version)
        try:
            async with anyio.create_task_group() as tasks:
                for sampler in self.samplers:
                    tasks.start_soon(partial(sampler.pull, version, keep_rows=False))
        except BaseExceptionGroup as group:
            raise first_error(group) from None
