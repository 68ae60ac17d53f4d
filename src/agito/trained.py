"""A trained policy from the disk, ready to act: where its checkpoint is, how it was made, its weights in an engine."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import ValidationError

from agito import config
from agito.errors import CorruptCheckpoint, NotFound
from agito.recipe import Recipe
from agito.record.commits import newest
from agito.render import Vocabulary
from agito.studio import Studio, open_studio

_SHAPE = {  # our names of what `config.json` holds
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "rope_theta": "rope_theta",
    "tie_embeddings": "tie_word_embeddings",
}


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
    """The recipe of the run that the checkpoint lies in, else the defaults with its network. Raises `CorruptCheckpoint`, `BadRecipe`."""
    beside = checkpoint.resolve().parents[1] / "config.toml"
    if beside.is_file():
        return config.read(Recipe, beside)
    path = checkpoint / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        shape = {ours: found[theirs] for ours, theirs in _SHAPE.items() if theirs in found}
        compute = {"context": found["max_position_embeddings"]} if "max_position_embeddings" in found else {}
        return Recipe.model_validate({"model": shape, "compute": compute})
    except (OSError, ValueError, TypeError, ValidationError) as error:
        raise CorruptCheckpoint(f"{path}: {str(error).splitlines()[0]}: use another checkpoint") from error


@asynccontextmanager
async def open_trained(checkpoint: Path, recipe: Recipe) -> AsyncGenerator[Studio]:
    """A studio whose engines hold the checkpoint's weights. Raises `CorruptCheckpoint`, `NotFound` for the environment."""
    async with open_studio(recipe) as studio:
        studio.vocabulary = Vocabulary.read(checkpoint)
        await studio.open_compute()
        assert studio.compute is not None
        await studio.compute.load(checkpoint, weights_only=True)
        await studio.compute.publish(1)
        yield studio
