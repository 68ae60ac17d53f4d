"""Checks a recipe against its environments, and reports mismatches before anything is created, moved or
audited."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agito.config import meant
from agito.envs import bundled, load
from agito.errors import BadRecipe
from agito.harness import TeamHarness
from agito.models.hub import folder_of
from agito.plugins import shown
from agito.protocols import MAIN, Environment, Finite, Unscripted
from agito.recipe import Recipe
from agito.record import tracking
from agito.runtime.imitation_data import sifted
from agito.runtime.placement import require_installed
from agito.runtime.policy_sources import find, positions_of
from agito.runtime.run_context import RunContext, environment_of, harness_of
from agito.sampling.vllm import installed
from agito.types import Effort

_NEEDED = ("train", "heldout")
_STRUCTURAL = "structural"
_PEERS = 4  # attempts at one effort


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
    tracking.require(recipe.track.to)
    _require_peers(recipe)
    _require_server(recipe)
    parts = recipe.env.mix or (recipe.env,)
    if recipe.env.vocabulary == "realistic" and (lacking := set(recipe.env.names) - {*bundled()}):
        named = ", ".join(sorted(shown(name.removesuffix("-realistic")) for name in lacking))
        speak = ", ".join(name.removesuffix("-realistic") for name in bundled() if "realistic" in name)
        raise BadRecipe(f"env.vocabulary='realistic': {named} has only terse words; there is {speak}")
    environments = [load(name) for name in recipe.env.names]
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
    recipe, shorter = _within_models(_with_models(recipe))
    _require_roles(recipe)
    recipe, notes = _with_prompts(recipe, environments)
    notes = (*shorter, *notes)
    without = [
        part.name
        for part, each in zip(parts, environments, strict=True)
        if _STRUCTURAL not in each.splits and not isinstance(each, Unscripted)
    ]
    if not without or not recipe.eval.structural_tasks:
        return Fit(recipe=recipe, notes=notes)
    note = (
        f"{', '.join(map(shown, without))} has no split `structural`: there will be no evaluation on "
        "another structure"
    )
    quiet = recipe.eval.model_copy(update={"structural_tasks": 0})
    return Fit(recipe=recipe.model_copy(update={"eval": quiet}), notes=(*notes, note))


def _with_prompts(recipe: Recipe, environments: Sequence[Environment]) -> tuple[Recipe, tuple[str, ...]]:
    """What has no scripts cannot be demonstrated; a finite set is evaluated on as many tasks as it holds out,
    and has no other structure.

    Raises `BadRecipe`.
    """
    if recipe.sft.messages and not recipe.model.path:
        raise BadRecipe("sft.messages: conversations are for a pre-trained model; name one by model.path")
    if recipe.sft.messages:
        sifted(recipe.sft)
    unscripted = [each for each in environments if isinstance(each, Unscripted)]
    if unscripted and not recipe.model.path:
        raise BadRecipe(
            f"{unscripted[0].name}: prompts are for a pre-trained model; name one by model.path (--model)"
        )
    if unscripted and recipe.sft.demos and not recipe.sft.messages:
        remedy = "set it to 0, or name conversations by sft.messages"
        raise BadRecipe(f"sft.demos={recipe.sft.demos}: nobody demonstrates {unscripted[0].name}; {remedy}")
    changes, notes = dict[str, int](), tuple[str, ...]()
    if unscripted:
        changes["structural_tasks"] = 0
    if unscripted and len(environments) > 1:  # no script plays in all of them
        changes["baseline_tasks"] = 0
    sizes = [each.num_tasks("heldout") for each in environments if isinstance(each, Finite)]
    if len(sizes) == len(environments) and sum(sizes) < recipe.eval.tasks:
        changes["tasks"] = sum(sizes)
        notes = (f"each evaluation is on all {sum(sizes)} held-out prompts",)
    return recipe.model_copy(update={"eval": recipe.eval.model_copy(update=changes)}), notes


def _require_peers(recipe: Recipe) -> None:
    """Raises `BadRecipe` where efforts cannot be compared."""
    section = recipe.effort
    if section.is_on and recipe.rl.steps and recipe.rl.group_size < _PEERS:
        raise BadRecipe(
            f"rl.group_size={recipe.rl.group_size}: with [effort] a baseline needs {_PEERS} attempts at a "
            "task at one effort"
        )
    if Effort.AUTO in section.settings and section.tries_modes and recipe.compute.sampler == "vllm":
        raise BadRecipe(
            "effort.settings: a vLLM server cannot be told which mode to try at auto; set "
            "effort.tries_modes=false"
        )


def _require_server(recipe: Recipe) -> None:
    """Raises `BadRecipe` where vLLM should sample and is not there, or has no whole model to start with."""
    if recipe.compute.sampler != "vllm":
        return
    if installed() is None:
        raise BadRecipe("compute.sampler=vllm: vLLM is not there: make vllm, or AGITO_VLLM=PATH/bin/vllm")
    if (folder_of(recipe.model.path) / "adapter_config.json").is_file():
        raise BadRecipe(
            f"model.path={recipe.model.path}: an adapter; vLLM starts with a whole model: name its base"
        )


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


def _within_models(recipe: Recipe) -> tuple[Recipe, tuple[str, ...]]:
    """With a context that every model holds, and a note where that is less than was asked for."""
    paths = filter(None, (recipe.model.path, *(each.path for each in recipe.policies.values())))
    asked = recipe.compute.context
    most, path = min(((positions_of(Path(path), asked), path) for path in paths), default=(asked, ""))
    if most >= asked:
        return recipe, ()
    compute = recipe.compute.model_copy(update={"context": most})
    note = f"compute.context is {most}: the model in {path} holds no more tokens"
    return recipe.model_copy(update={"compute": compute}), (note,)


def _require_roles(recipe: Recipe) -> None:
    """Raises `NotFound`, `BadHarness`, and `BadRecipe` for an agent in a role that the harness does not
    have."""
    harness = harness_of(recipe)
    roles = harness.roles
    if recipe.effort.is_on and isinstance(harness, TeamHarness):
        raise BadRecipe("effort.settings: the agents of a team are not asked for efforts")
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
