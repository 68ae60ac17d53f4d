"""Loads a trained policy from disk, ready to act."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from agito.protocols import MAIN, Engine, Renderer
from agito.recipe import Recipe
from agito.runtime.policy_sources import find, recipe_of
from agito.runtime.run_context import RunContext, open_run_context
from agito.runtime.vllm_policy import served
from agito.sampling.continuous_batching import ContinuousBatching
from agito.sampling.vllm import KnownLogprobs
from agito.sampling.wire import ScoreRequest

__all__ = ["find", "open_engine", "open_trained", "recipe_of"]


@asynccontextmanager
async def open_trained(checkpoint: Path, recipe: Recipe) -> AsyncGenerator[RunContext]:
    """A run context whose engines hold the checkpoint's weights, without a learner.

    Raises as `Policies.open_frozen`, and `NotFound` for the environment.
    """
    async with open_run_context(recipe) as run_context:
        await run_context.policies.open_frozen(checkpoint)
        yield run_context


@asynccontextmanager
async def open_engine(checkpoint: Path, recipe: Recipe) -> AsyncGenerator[tuple[Engine, Renderer]]:
    """One policy for requests that come when they will: on the embedded engine or, with
    `compute.sampler=vllm`, on a server whose log-probabilities were found to be the embedded engine's.

    Raises as `open_trained` and `vllm_policy.served`.
    """
    async with open_trained(checkpoint, recipe) as run_context:
        policies = run_context.policies
        renderer = policies.renderers[MAIN]
        if recipe.compute.sampler != "vllm":
            async with anyio.create_task_group() as tasks:
                engine = ContinuousBatching(policies.clients(0)[MAIN], steps=recipe.compute.decode_steps)
                tasks.start_soon(engine.run)
                yield engine, renderer
                tasks.cancel_scope.cancel()
            return
        text = policies.known_text()
        (scores,) = await policies.score(MAIN, ScoreRequest(sequences=(text,)))
    known = KnownLogprobs(ids=text, logprobs=scores.logprobs)
    async with served(checkpoint, recipe, known) as sampler:
        yield sampler, renderer
