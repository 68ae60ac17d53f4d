"""Sampler and learner of a policy in workers: each method is a request to one worker, or to all that
learn."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio

from agito.learning.trainer.config import Phase
from agito.protocols import StepStats
from agito.runtime.client import WorkerClient, call_all
from agito.runtime.wire import (
    BeginPhase,
    Done,
    ExportWeights,
    LearnerRequest,
    LearnerResponse,
    LoadState,
    PolicyId,
    PullWeights,
    PushWeights,
    SaveCheckpoint,
    SaveState,
    SftStep,
    ShortenPhase,
    Stepped,
    SyncWeights,
    TakeStep,
    WeightsExported,
    WeightsPulled,
)
from agito.sampling.wire import EngineRequest, EngineResponse, ScoreRequest, ScoreResponse
from agito.types import Json, Sample

Answer = TypeVar("Answer", bound=LearnerResponse)


class RemoteSampler:
    """Implements `Sampler`."""

    def __init__(self, policy: PolicyId, worker: WorkerClient) -> None:
        self._policy, self._worker = policy, worker

    async def advance(self, exchange: EngineRequest) -> EngineResponse:
        return await self._worker.ask(self._policy, exchange, EngineResponse)

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        return await self._worker.ask(self._policy, request, ScoreResponse)

    async def pull(self, version: int, *, keep_rows: bool) -> float:
        pulled = await self._worker.ask(
            self._policy, PullWeights(version=version, keep_rows=keep_rows), WeightsPulled
        )
        return pulled.paused_s


class RemoteLearner:
    """Implements `Learner`: each of `workers` holds all weights and takes a part of every batch."""

    def __init__(
        self,
        policy: PolicyId,
        workers: Sequence[WorkerClient],
        turn: anyio.Lock,
        *,
        keeps_groups: bool = False,
    ) -> None:
        """`turn`: a lock, since one learner of a pool at a time may ask all workers. `keeps_groups`: whole
        groups stay on one worker, since their attempts share a prefix."""
        self._policy, self._workers, self._turn, self._keeps_groups = policy, workers, turn, keeps_groups
        self._num_active = len(workers)

    async def begin_phase(self, phase: Phase, total_steps: int, *, is_alone: bool = False) -> None:
        self._num_active = 1 if is_alone else len(self._workers)
        await self._all(
            BeginPhase(phase=phase, total_steps=total_steps, is_alone=is_alone), num=self._num_active
        )

    async def shorten_phase(self, total_steps: int) -> None:
        await self._all(ShortenPhase(total_steps=total_steps), num=self._num_active)

    async def join(self) -> None:
        if self._num_active == len(self._workers):
            return
        self._num_active = len(self._workers)
        with tempfile.TemporaryDirectory(prefix="agito-") as directory:
            await self._all(SaveState(directory=Path(directory)), num=1)
            await self.load(Path(directory))

    async def sft_step(self, batches: Sequence[Sequence[Sample]]) -> Sequence[StepStats]:
        shares = [spread(batch, self._num_active) for batch in batches]
        totals = tuple(sum(sample.num_trainable for sample in batch) for batch in batches)
        requests = [
            SftStep(batches=tuple(tuple(share[rank]) for share in shares), num_tokens=totals)
            for rank in range(self._num_active)
        ]
        return (await self._each(requests, Stepped, patience=max(len(batches), 1)))[0].stats

    async def sync(self) -> None:
        if len(self._workers) > 1:
            await self._all(SyncWeights())

    async def step(self, samples: Sequence[Sample], *, rate: float = 1.0) -> StepStats:
        shares = spread(samples, len(self._workers), by_group=self._keeps_groups)
        return (await self._each([TakeStep(samples=tuple(share), rate=rate) for share in shares], Stepped))[
            0
        ].stats[0]

    async def push(self, version: int) -> None:
        await self._all(PushWeights(version=version))

    async def export(self, request: ExportWeights) -> WeightsExported:
        async with self._turn:
            exported = await self._workers[0].ask(self._policy, request, WeightsExported)
            for worker in self._workers[1:]:  # the others have the same weights: they are of this version too
                await worker.ask(self._policy, PushWeights(version=request.version), Done)
            return exported

    async def save(
        self,
        directory: Path,
        *,
        meta: Mapping[str, Json],
        tokenizer: Mapping[str, str],
        eos_ids: Sequence[int] = (),
    ) -> None:
        await self._all(
            SaveCheckpoint(directory=directory, meta=meta, tokenizer=tokenizer, eos_ids=tuple(eos_ids)), num=1
        )

    async def load(self, directory: Path, *, weights_only: bool = False) -> None:
        await self._all(LoadState(directory=directory, weights_only=weights_only))

    async def _all(self, request: LearnerRequest, *, num: int | None = None) -> None:
        """Sends the same request to each worker, or to the first `num`."""
        await self._each([request] * (num or len(self._workers)), Done)

    async def _each(
        self, requests: Sequence[LearnerRequest], expected: type[Answer], *, patience: int = 1
    ) -> list[Answer]:
        """Sends one request to each worker, from the first on. `patience` multiplies the usual deadline."""
        workers = self._workers[: len(requests)]
        calls = [
            partial(worker.ask, self._policy, request, expected, deadline_s=worker.silence_s * patience)
            for worker, request in zip(workers, requests, strict=True)
        ]
        async with self._turn:
            return await call_all(self._workers, calls)


def spread(samples: Sequence[Sample], num: int, *, by_group: bool = False) -> list[list[Sample]]:
    """Assigns samples longest first, each to the part with the fewest tokens so far; depends on content only.

    `by_group` keeps samples with a common prefix together, so it is computed once, if there are groups for
    every part.
    """
    ordered = sorted(samples, key=lambda sample: (-len(sample.ids), sample.attempt, sample.segment))
    groups: dict[int, list[Sample]] = {}
    for sample in ordered:
        groups.setdefault(sample.attempt.group, []).append(sample)
    units = list(groups.values()) if by_group and len(groups) >= num else [[sample] for sample in ordered]
    shares: list[list[Sample]] = [[] for _ in range(num)]
    loads = [0] * num
    for unit in sorted(units, key=lambda unit: -sum(len(sample.ids) for sample in unit)):
        lightest = loads.index(min(loads))
        shares[lightest] += unit
        loads[lightest] += sum(len(sample.ids) for sample in unit)
    return shares
