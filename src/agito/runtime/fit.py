"""Checks a recipe against its environments, and reports mismatches before anything is created, moved or
audited."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agito.config import meant
from agito.envs import load
from agito.errors import BadRecipe
from agito.harness import load as load_harness
from agito.models.hub import folder_of
from agito.protocols import MAIN, Environment
from agito.recipe import Recipe, shown
from agito.runtime.placement import require_installed
from agito.runtime.run_context import RunContext, environment_of
from agito.runtime.sources import find

_NEEDED = ("train", "heldout")
_STRUCTURAL = "structural"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A recipe that its environments support, and notices for the user."""

    recipe: Recipe
    notes: tuple[str, ...] = ()


def fit(recipe: Recipe) -> Fit:
    """Raises `NotFound` and `BadEnvironment` for an environment that cannot be loaded; `BadRecipe` for
    something that it lacks, or that the recipe needs and is not installed.

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
                f"environment {shown(part.name)} has the splits {', '.join(environment.splits)}: training "
                f"needs {' and '.join(lacking)} too"
            )
    RunContext(recipe, environment_of(recipe)).weights(recipe.sft.weights)
    recipe = _with_models(recipe)
    _require_roles(recipe)
    without = [
        part.name for part, each in zip(parts, environments, strict=True) if _STRUCTURAL not in each.splits
    ]
    if not without or not recipe.eval.structural_tasks:
        return Fit(recipe=recipe)
    note = (
        f"{', '.join(map(shown, without))} has no split `structural`: there will be no evaluation on "
        "another structure"
    )
    quiet = recipe.eval.model_copy(update={"structural_tasks": 0})
    return Fit(recipe=recipe.model_copy(update={"eval": quiet}), notes=(note,))


def _with_models(recipe: Recipe) -> Recipe:
    """Resolves the folders of its models, so that the run continues from any directory. Raises `NotFound` for
    a missing one."""
    if recipe.model.path:
        path = str(folder_of(recipe.model.path))
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": path})})
    others = {
        name: each.model_copy(update={"path": str(find(Path(each.path)).absolute())})
        for name, each in recipe.policies.items()
    }
    return recipe.model_copy(update={"policies": others})


def _require_roles(recipe: Recipe) -> None:
    """Raises `NotFound`, `BadHarness`, and `BadRecipe` for an agent in a role that the harness does not
    have."""
    roles = load_harness(**recipe.harness.model_dump()).roles
    for role in recipe.agents:
        if role not in roles:
            raise BadRecipe(
                f"agents.{role}: the harness {recipe.harness.name} has the roles "
                f"{', '.join(roles)}{meant(role, roles)}"
            )
    players = [recipe.agents[role].policy if role in recipe.agents else MAIN for role in roles]
    if MAIN not in players:
        raise BadRecipe(f"agents: no role is played by {MAIN}, so nothing would be learned")


def require(option: str, wanted: Iterable[object], known: Sequence[object], environment: Environment) -> None:
    """Raises `BadRecipe` for something that `environment` does not have."""
    for value in wanted:
        if value not in known:
            words = [str(each) for each in known]
            raise BadRecipe(
                f"{option}={value}: {environment.name} has {', '.join(words)}{meant(str(value), words)}"
            )
