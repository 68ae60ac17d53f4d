"""A policy that is sampled by a vLLM server: one that learns in workers, or one that has learned."""

from __future__ import annotations

import time
from array import array
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from anyio import to_thread

from agito.errors import BadRecipe
from agito.models.config import WEIGHTS_NAME
from agito.protocols import MAIN
from agito.recipe import Recipe
from agito.runtime.export import export
from agito.runtime.roles import Learner, Sampler
from agito.runtime.wire import ExportWeights, WeightsExported
from agito.sampling.vllm import AdapterSlots, KnownLogprobs, VllmSampler, VllmSpec, installed, serving


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


def server_spec(recipe: Recipe, model: Path, adapters: AdapterSlots | None) -> VllmSpec:
    """Of a server for `model` as the recipe has it. Raises `BadRecipe` where there is no vLLM."""
    program = installed()
    if program is None:
        raise BadRecipe("compute.sampler=vllm: vLLM is not there: make vllm, or AGITO_VLLM=PATH/bin/vllm")
    return VllmSpec(
        model=model,
        context=recipe.compute.context,
        max_num_seqs=recipe.compute.max_num_seqs,
        dtype=recipe.model.dtype,
        adapters=adapters,
        program=program,
        threads=recipe.vllm.threads,
        kv_cache_gb=recipe.vllm.kv_cache_gb,
        options=recipe.vllm.options,
    )


@asynccontextmanager
async def served(checkpoint: Path, recipe: Recipe, known: KnownLogprobs) -> AsyncGenerator[VllmSampler]:
    """A checkpoint's policy behind a server of its own, with all weights, an adapter merged in. Nothing is
    sampled before the server has answered with the log-probabilities that are `known`.

    Raises `BadRecipe` without vLLM, `WorkerFailed` where server and checkpoint differ by more than the
    precision explains, and as `export`.
    """
    with TemporaryDirectory(prefix="agito-served-") as room:
        spec = server_spec(recipe, Path(room) / "model", None)
        await to_thread.run_sync(export, checkpoint, spec.model)
        async with serving(spec) as server:
            sampler = VllmSampler(server, MAIN)
            await sampler.publish(1, spec.model / WEIGHTS_NAME, known)
            yield sampler
