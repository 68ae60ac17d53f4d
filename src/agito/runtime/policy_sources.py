"""Sources of a policy: a run, a checkpoint, a Hugging Face folder or hub id; its renderer, and its recipe."""

from __future__ import annotations

import os
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from shlex import quote
from typing import Literal

from pydantic import ValidationError

from agito import config
from agito.errors import CorruptCheckpoint, NotFound
from agito.models.config import CONFIG_NAME
from agito.models.families import read_config
from agito.models.fetch import MODELS
from agito.models.hub import folder_of, is_hub_id
from agito.models.recipe_sections import ModelSection
from agito.protocols import Renderer
from agito.recipe import Recipe
from agito.record.commits import newest
from agito.render import Vocabulary, read_chat, renderer
from agito.render.hf_folder import network_config
from agito.render.vocabulary import is_own

_MARKS = (CONFIG_NAME, "adapter_config.json")  # every checkpoint has one of them
_LEVELS_UP = 4  # folders above this one in which a run is looked for


def find(path: Path) -> Path:
    """The checkpoint that `path` names: itself, a run's final or else latest one, or a hub id. Raises
    `NotFound`."""
    if not path.exists():
        if path.name not in MODELS and not is_hub_id(str(path)):
            raise NotFound(f"{path}: no run and no checkpoint at {path.absolute()}{_near(path)}")
        try:
            return folder_of(str(path))
        except NotFound as error:
            raise NotFound(f"{path}: neither a checkpoint nor a run is there ({error})") from None
    if any((path / name).is_file() for name in _MARKS):
        return path
    parent = path / "checkpoints"
    if not parent.is_dir():
        raise NotFound(f"{path}: neither a checkpoint (no {CONFIG_NAME}) nor a run (no checkpoints/)")
    found = newest(parent)
    if found is None:
        raise NotFound(
            f"{path}: this run has no checkpoint yet; go on with agito train --resume {quote(str(path))}"
        )
    return found


def _near(path: Path) -> str:
    """Runs that may be meant: of a like name beside it, in `runs` here, or under the same path further up."""
    beside = [each.parent for each in sorted(path.parent.glob("*/run.json"))]
    here = [each.parent for each in sorted(Path("runs").glob("*/run.json"))]
    names = {str(each): each for each in [*beside, *here]}
    like = [
        str(each)
        for each in names.values()
        if each.name == path.name or get_close_matches(path.name, [each.name], cutoff=0.6)
    ]
    above = [
        os.path.relpath(parent / path)
        for parent in list(Path.cwd().parents)[:_LEVELS_UP]
        if not path.is_absolute() and (parent / path / "run.json").is_file()
    ]
    found = [*like, *above][:3]
    return f"; did you mean {' or '.join(found)}?" if found else ""


def beside(checkpoint: Path, policy: str) -> Path:
    """Where another learning policy is saved with `checkpoint`:
    `runs/NAME/policies/POLICY/checkpoints/step-N`."""
    checkpoint = checkpoint.resolve()
    return checkpoint.parents[1] / "policies" / policy / "checkpoints" / checkpoint.name


def positions_of(folder: Path, otherwise: int) -> int:
    """Tokens that a model, or the base of an adapter, can hold; `otherwise` if it does not say."""
    said = network_config(folder).get("max_position_embeddings")
    return said if isinstance(said, int) and said > 0 else otherwise


def recipe_of(checkpoint: Path) -> Recipe:
    """The recipe of the run that contains the checkpoint, with the precision of the policy that it is of; or
    else the defaults with its network. Raises `CorruptCheckpoint`, `BadRecipe`, and `UnsupportedCheckpoint`
    for an unimplemented architecture."""
    whole = checkpoint.resolve()
    for at in (1, 3):  # for `main`, and for a policy that learned with it
        if len(whole.parents) > at and (whole.parents[at] / "config.toml").is_file():
            recipe = config.read(Recipe, whole.parents[at] / "config.toml")
            section = recipe.policies.get(whole.parents[1].name) if at == 3 else None
            return recipe if section is None else _in_precision(recipe, section.dtype)
    if not is_own(checkpoint):
        recipe = Recipe.model_validate({"model": {"path": str(checkpoint)}})
        asked = recipe.compute.context
        context = min(asked, positions_of(checkpoint, asked))
        return recipe.model_copy(update={"compute": recipe.compute.model_copy(update={"context": context})})
    found = read_config(checkpoint)
    shape = {
        name: value
        for name, value in asdict(found).items()
        if name in {*ModelSection.model_fields, "max_position"}
    }
    try:
        return Recipe.model_validate({"compute": {"context": shape.pop("max_position")}, "model": shape})
    except ValidationError as error:
        raise CorruptCheckpoint(
            f"{checkpoint / CONFIG_NAME}: {str(error).splitlines()[0]}: use another checkpoint"
        ) from error


def _in_precision(recipe: Recipe, dtype: Literal["float32", "bfloat16"]) -> Recipe:
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"dtype": dtype})})


def renderer_of(checkpoint: Path, recipe: Recipe) -> Renderer:
    """The renderer for a folder's tokenizer: our own vocabulary in the recipe's dialect, or a pre-trained
    model's with its chat template.

    Raises `CorruptCheckpoint` and `UnsupportedTemplate`.
    """
    if is_own(checkpoint):
        return renderer(recipe.env.dialect, Vocabulary.read(checkpoint))
    return read_chat(checkpoint, tool_format=recipe.model.tool_format)
