"""A recipe beside the environments that it names: what does not go together is said before anything is made, moved or audited."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agito.config import meant
from agito.envs import load
from agito.errors import BadRecipe
from agito.protocols import Environment
from agito.recipe import Recipe, shown
from agito.runtime.placement import require_installed
from agito.runtime.run_context import RunContext, environment_of

_NEEDED = ("train", "heldout")
_STRUCTURAL = "structural"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A recipe that its environments can carry out, and what a person should be told of it."""

    recipe: Recipe
    notes: tuple[str, ...] = ()


def fit(recipe: Recipe) -> Fit:
    """Raises `NotFound` and `BadEnvironment` for an environment that cannot be loaded, and `BadRecipe` for what it does not have,
    or the recipe needs and is not installed.

    An environment without a structural split is not evaluated on one.
    """
    require_installed(recipe.compute.on)
    parts = recipe.env.mix or (recipe.env,)
    environments = [load(part.name) for part in parts]
    for at, (part, environment) in enumerate(zip(parts, environments, strict=True)):
        table = f"env.mix.{at}" if recipe.env.mix else "env"
        require(f"{table}.families", part.families, environment.families, environment)
        require(f"{table}.levels", part.levels, environment.levels, environment)
        lacking = [split for split in _NEEDED if split not in environment.splits]
        if lacking:
            raise BadRecipe(
                f"environment {shown(part.name)} has the splits {', '.join(environment.splits)}: training needs {' and '.join(lacking)} too"
            )
    RunContext(recipe, environment_of(recipe)).weights(recipe.sft.weights)
    without = [part.name for part, each in zip(parts, environments, strict=True) if _STRUCTURAL not in each.splits]
    if not without or not recipe.eval.structural_tasks:
        return Fit(recipe=recipe)
    note = f"{', '.join(map(shown, without))} has no split `structural`: there will be no evaluation on another structure"
    quiet = recipe.eval.model_copy(update={"structural_tasks": 0})
    return Fit(recipe=recipe.model_copy(update={"eval": quiet}), notes=(note,))


def require(option: str, wanted: Iterable[object], known: Sequence[object], environment: Environment) -> None:
    """Raises `BadRecipe` for what `environment` does not have."""
    for value in wanted:
        if value not in known:
            words = [str(each) for each in known]
            raise BadRecipe(f"{option}={value}: {environment.name} has {', '.join(words)}{meant(str(value), words)}")
