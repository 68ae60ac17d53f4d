"""Evaluates a checkpoint: success on held-out tasks, by family and level, beside scripts on the same
tasks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from agito.envs import isolation_of
from agito.errors import BadRecipe
from agito.evaluation import policies as evaluation
from agito.evaluation.passes import Passes, passes
from agito.plugins import absolute
from agito.protocols import Environment, Finite
from agito.recipe import Recipe
from agito.record import Rate, rate, rate_over_all, rates_by_cell
from agito.record.events import EventLog, OnEvent
from agito.record.usage import causes
from agito.runtime import load_policy
from agito.runtime.recipe_check import require
from agito.runtime.run_context import environment_of
from agito.types import Attempt, Effort, Json

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Success over scored attempts, in total and by shared properties; `over_all` counts void attempts as
    failures."""

    overall: Rate
    over_all: Rate
    families: Mapping[str, Rate]
    levels: Mapping[str, Rate]
    cells: Mapping[str, Rate]  # such as `find-2`, `find-2+fallback`
    void: int
    void_causes: Mapping[str, int]  # the commonest, with counts
    passes: Passes | None = None  # if tasks were attempted several times

    def to_json(self) -> dict[str, Json]:
        return {
            **_json(self.overall),
            **{f"{name}_all": value for name, value in _json(self.over_all).items()},
            **(self.passes.to_json() if self.passes else {}),
            "void": self.void,
            "void_causes": dict(self.void_causes),
            "by_family": {name: _json(each) for name, each in self.families.items()},
            "by_level": {name: _json(each) for name, each in self.levels.items()},
            "by_cell": {name: _json(each) for name, each in self.cells.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What was measured, and how."""

    checkpoint: str  # its path, or where it is served
    env: str
    split: str
    num_tasks: int
    temperature: float
    seed: int

    def to_json(self) -> dict[str, Json]:
        return {
            "schema_version": SCHEMA_VERSION,
            "checkpoint": self.checkpoint,
            "env": self.env,
            "split": self.split,
            "num_tasks": self.num_tasks,
            "temperature": self.temperature,
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation(Conditions):
    """A checkpoint's results, or an endpoint's, and the conditions under which they were measured."""

    isolation_tier: str
    policy: Scores
    baselines: Mapping[str, Scores]
    wall_s: float

    @classmethod
    def of(
        cls,
        checkpoint: str,
        recipe: Recipe,
        environment: Environment,
        attempts: Sequence[Attempt],
        scripts: Mapping[str, Sequence[Attempt]],
        *,
        split: str,
        temperature: float,
        began: float,
    ) -> Evaluation:
        """`began`: when, on the monotonic clock."""
        return cls(
            checkpoint=checkpoint,
            env=recipe.env.name_measured,
            split=split,
            num_tasks=len({attempt.trajectory.attempt.group for attempt in attempts}),
            temperature=temperature,
            seed=recipe.seed,
            isolation_tier=isolation_of(environment),
            policy=_scores(attempts),
            baselines={name: _scores(each) for name, each in scripts.items()},
            wall_s=round(time.monotonic() - began, 3),
        )

    def to_json(self) -> dict[str, Json]:
        return {
            **Conditions.to_json(self),
            "isolation_tier": self.isolation_tier,
            "policy": self.policy.to_json(),
            "baselines": {name: each.to_json() for name, each in self.baselines.items()},
            "wall_s": self.wall_s,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Overrides for the evaluation. Fields left unset keep the values of the checkpoint's run, so its tasks
    stay the same."""

    env: str | None = None
    families: tuple[str, ...] = ()
    levels: tuple[int, ...] = ()
    seed: int | None = None
    effort: Effort | None = None

    def applied_to(self, recipe: Recipe) -> Recipe:
        section = recipe.env
        if self.env is not None and (section.mix or (absolute(self.env),) != section.names):
            named = {"name": absolute(self.env), "vocabulary": "terse"}
            section = section.model_copy(update=named | {"families": (), "levels": (), "mix": ()})
        chosen = {"families": self.families, "levels": self.levels}
        section = section.model_copy(update={name: value for name, value in chosen.items() if value})
        changed: dict[str, object] = {"env": section}
        if self.seed is not None:
            changed["seed"] = self.seed
        if self.effort is not None:
            asked = {"acts_at": self.effort, "settings": recipe.effort.settings or (self.effort,)}
            changed["effort"] = recipe.effort.model_copy(update=asked)
        return recipe.model_copy(update=changed)


def check(environment: Environment, recipe: Recipe, split: str) -> None:
    """Raises `BadRecipe` for a split, family or level that the environment does not have."""
    if recipe.env.mix and (recipe.env.families or recipe.env.levels):
        names = " or ".join(f"--env {quote(name)}" for name in recipe.env.names)
        raise BadRecipe(
            f"this is a mixture, whose families and levels are those of its environments; choose one: {names}"
        )
    require("split", (split,), environment.splits, environment)
    require("family", recipe.env.families, environment.families, environment)
    require("level", recipe.env.levels, environment.levels, environment)


async def evaluate_checkpoint(
    directory: Path,
    recipe: Recipe,
    on_event: OnEvent,
    *,
    split: str,
    num_tasks: int,
    temperature: float,
    baselines: bool = True,
    num_attempts: int = 1,
) -> Evaluation:
    """`num_attempts` at each of `num_tasks` tasks, or of all if there are fewer. Raises `CorruptCheckpoint`,
    and `BadRecipe` for an unknown split, family or level."""
    began, environment = time.monotonic(), environment_of(recipe)
    check(environment, recipe, split)
    num_tasks = num_tasks_of(environment, split, num_tasks)
    async with load_policy.open_trained(directory, recipe) as run_context:
        events = EventLog(on_event)
        events.begin("policy", num_tasks * num_attempts)
        attempts = await evaluation.policy(
            run_context,
            split,
            num_tasks,
            temperature=temperature,
            on_attempt=lambda attempt: events.advance(evaluation.metrics(attempt)),
            num_attempts=num_attempts,
        )
        events.emit(evaluation.finished("policy", "policy", attempts))
        scripts: Mapping[str, Sequence[Attempt]] = {}
        if baselines:
            events.begin("baselines", 0)
            scripts = await evaluation.scripts(
                run_context, split, num_tasks, demonstrator_skill=recipe.sft.skill
            )
            for name, each in scripts.items():
                events.emit(evaluation.finished("baselines", name, each))
        return Evaluation.of(
            str(directory),
            recipe,
            run_context.environment,
            attempts,
            scripts,
            split=split,
            temperature=temperature,
            began=began,
        )


def num_tasks_of(environment: Environment, split: str, asked: int) -> int:
    """No more than there are."""
    return min(asked, environment.num_tasks(split)) if isinstance(environment, Finite) else asked


def _scores(attempts: Sequence[Attempt]) -> Scores:
    return Scores(
        overall=rate(attempts),
        over_all=rate_over_all(attempts),
        families=_split(attempts, [attempt.trajectory.task.family for attempt in attempts]),
        levels=_split(attempts, [str(attempt.trajectory.task.level) for attempt in attempts]),
        cells=rates_by_cell(attempts),
        void=sum(not attempt.is_scored for attempt in attempts),
        void_causes=causes(attempts),
        passes=passes(attempts),
    )


def _split(attempts: Iterable[Attempt], names: Iterable[str]) -> dict[str, Rate]:
    parts: dict[str, list[Attempt]] = {}
    for attempt, name in zip(attempts, names, strict=True):
        parts.setdefault(name, []).append(attempt)
    return {name: rate(parts[name]) for name in sorted(parts)}


def _json(each: Rate) -> dict[str, Json]:
    has_any = each.num > 0
    return {
        "success": each.success if has_any else None,
        "success_low": each.low if has_any else None,
        "success_high": each.high if has_any else None,
        "num": each.num,
    }
