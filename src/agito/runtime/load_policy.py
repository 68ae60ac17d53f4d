"""Loads a trained policy from disk, ready to act."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from agito.recipe import Recipe
from agito.runtime.policy_sources import find, recipe_of
from agito.runtime.run_context import RunContext, open_run_context

__all__ = ["find", "open_trained", "recipe_of"]


@asynccontextmanager
async def open_trained(checkpoint: Path, recipe: Recipe) -> AsyncGenerator[RunContext]:
    """A run context whose engines hold the checkpoint's weights, without a learner.

    Raises as `Policies.open_frozen`, and `NotFound` for the environment.
    """
    async with open_run_context(recipe) as run_context:
        await run_context.policies.open_frozen(checkpoint)
        yield run_context
