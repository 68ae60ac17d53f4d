"""What the rollout process asks of a policy: sampling and learning, wherever and in however many processes
that happens."""

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
    """One policy in one process, with the weights that it last pulled."""

    async def advance(self, exchange: EngineRequest) -> EngineResponse: ...
    async def score(self, request: ScoreRequest) -> ScoreResponse:
        """Scores under the weights that it last pulled. Raises `WorkerFailed` when a learner in its process
        has taken steps since."""
        ...

    async def pull(self, version: int, *, keep_rows: bool) -> float:
        """Continues with pushed weights. Returns the seconds during which nothing was sampled."""
        ...


class Learner(Protocol):
    """The learning weights of one policy, in however many processes."""

    async def begin_phase(self, phase: Phase, total_steps: int, *, is_alone: bool = False) -> None:
        """Starts a new optimizer and schedule. `is_alone`: in the first process only, so that others stay
        free."""
        ...

    async def shorten_phase(self, total_steps: int) -> None:
        """The schedule ends after `total_steps` steps of the phase, which are fewer than planned."""
        ...

    async def join(self) -> None:
        """From here on all learning processes take part, starting from the first one's state."""
        ...

    async def sft_step(self, batches: Sequence[Sequence[Sample]]) -> Sequence[StepStats]:
        """One supervised step per batch, without a round trip between them."""
        ...

    async def sync(self) -> None:
        """All processes take over the weights of the first."""
        ...

    async def step(self, samples: Sequence[Sample], *, rate: float = 1.0) -> StepStats: ...
    async def push(self, version: int) -> None:
        """Publishes the weights as a new `version`. Samplers may pull it until the version after the next is
        pushed; samplers in the learner's own process, until the next step."""
        ...

    async def export(self, request: ExportWeights) -> WeightsExported:
        """Writes the weights as a new version, as files."""
        ...

    async def save(
        self,
        directory: Path,
        *,
        meta: Mapping[str, Json],
        tokenizer: Mapping[str, str],
        eos_ids: Sequence[int] = (),
    ) -> None:
        """Commits a checkpoint (weights, tokenizer, optimizer, `meta`) by a rename. `eos_ids` end a turn, for
        servers.

        Raises `DiskFull`.
        """
        ...

    async def load(self, directory: Path, *, weights_only: bool = False) -> None:
        """Raises `CorruptCheckpoint`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyHandle:
    """A learning policy. `learns_alone`: its first sampler shares a process with the learner and pauses while
    it learns."""

    learner: Learner
    samplers: tuple[Sampler, ...]
    learns_alone: bool = False

    @property
    def busy_samplers(self) -> tuple[Sampler, ...]:
        """Samplers that run while the learner learns."""
        return self.samplers[1:] if self.learns_alone else self.samplers

    async def push(self, version: int) -> None:
        """Publishes the learner's weights as this version, for samplers to pull."""
        await self.learner.push(version)

    async def pull(self, version: int) -> float:
        """Busy samplers continue with this version and keep their rows. Returns the seconds during which
        nothing was sampled, summed."""
        return sum([await sampler.pull(version, keep_rows=True) for sampler in self.busy_samplers])

    async def publish(self, version: int) -> None:
        """Publishes the learner's weights to every sampler, under this version; drops their rows."""
        await self.push(version)
        try:
            async with anyio.create_task_group() as tasks:
                for sampler in self.samplers:
                    tasks.start_soon(partial(sampler.pull, version, keep_rows=False))
        except BaseExceptionGroup as group:
            raise first_error(group) from None
