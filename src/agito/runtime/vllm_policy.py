"""A policy that learns in workers and is sampled by a vLLM server."""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass, field
from pathlib import Path

from agito.runtime.roles import Learner, Sampler
from agito.runtime.wire import ExportWeights, WeightsExported
from agito.sampling.vllm import KnownLogprobs, VllmSampler


@dataclass(slots=True, kw_only=True)
class ServedPolicy:
    """In the place of a `PolicyHandle`. Learner and server must agree on `text` after each publication."""

    learner: Learner
    sampler: VllmSampler
    directory: Path  # of its weights, as files
    text: array[int]  # 'i'
    learns_alone: bool = False
    samplers: tuple[Sampler, ...] = ()  # none in workers
    _pushed: dict[int, WeightsExported] = field(default_factory=dict[int, WeightsExported])

    async def push(self, version: int) -> None:
        """As `PolicyHandle.push`."""
        request = ExportWeights(
            directory=self.directory,
            name=self.sampler.policy,
            version=version,
            is_adapter=self.sampler.capabilities.adapters,
            text=self.text,
        )
        self._pushed = {version: await self.learner.export(request)}

    async def pull(self, version: int) -> float:
        """The server goes on with this version, and its log-probabilities are compared with the learner's.
        Requests under way go on as `SamplerCapabilities` says. Returns how many seconds it took.

        Raises `WorkerFailed` where they differ by more than the precision explains.
        """
        began, pushed = time.monotonic(), self._pushed[version]
        known = KnownLogprobs(ids=self.text, logprobs=pushed.logprobs)
        await self.sampler.publish(version, pushed.path, known)
        return time.monotonic() - began

    async def publish(self, version: int) -> None:
        """Both."""
        await self.push(version)
        await self.pull(version)
