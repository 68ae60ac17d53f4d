"""A trained policy from the disk, ready to act: where its checkpoint is, how it was made, its weights in an engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

from pydantic import ValidationError

from agito import config
from agito.errors import CorruptCheckpoint, NotFound
from agito.models.config import CONFIG_NAME, UnsupportedCheckpoint
from agito.models.families import read_config
from agito.recipe import ModelSection, Recipe
from agito.record.commits import newest
from agito.render import Vocabulary
from agito.runtime.run_context import RunContext, open_run_context


def find(path: Path) -> Path:
    """The checkpoint that `path` means: itself, or of a run the final one, else the latest. Raises `NotFound`."""
    if (path / "config.json").is_file():
        return path
    parent = path / "checkpoints"
    if not parent.is_dir():
        raise NotFound(f"{path}: neither a checkpoint (no config.json) nor a run (no checkpoints/)")
    found = newest(parent)
    if found is None:
        raise NotFound(f"{path}: this run has no checkpoint yet; go on with agito train --resume {path}")
    return found


def recipe_of(checkpoint: Path) -> Recipe:
    """The recipe of the run that the checkpoint lies in, else the defaults with its network. Raises `CorruptCheckpoint`, `BadRecipe`,
    and `UnsupportedCheckpoint` for another architecture."""
    beside = checkpoint.resolve().parents[1] / "config.toml"
    if beside.is_file():
        return config.read(Recipe, beside)
    found = read_config(checkpoint)
    if not found.is_plain:
        raise UnsupportedCheckpoint(f"{checkpoint / CONFIG_NAME}: model_type={found.family}: only networks of Agito's own can act so far")
    shape = {name: value for name, value in asdict(found).items() if name in {*ModelSection.model_fields, "max_position"}}
    try:
        return Recipe.model_validate({"compute": {"context": shape.pop("max_position")}, "model": shape})
    except ValidationError as error:
        raise CorruptCheckpoint(f"{checkpoint / CONFIG_NAME}: {str(error).splitlines()[0]}: use another checkpoint") from error


@asynccontextmanager
async def open_trained(checkpoint: Path, recipe: Recipe) -> AsyncGenerator[RunContext]:
    """A run context whose engines hold the checkpoint's weights. Raises `CorruptCheckpoint`, `NotFound` for the environment."""
    async with open_run_context(recipe) as run_context:
        run_context.vocabulary = Vocabulary.read(checkpoint)
        await run_context.open_policy()
        await run_context.policy.learner.load(checkpoint, weights_only=True)
        await run_context.policy.publish(1)
        yield run_context
