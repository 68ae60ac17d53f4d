"""The scorecard: an environment's exact measures of a policy's decisions, beside the optimum, doing nothing,
and chance.

All columns cover the same tasks. Intervals treat attempts as independent: exact for binary shares, normal for
means.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agito.config import meant
from agito.errors import BadRecipe
from agito.evaluation import endpoint
from agito.evaluation import policies as evaluation
from agito.evaluation.saved_policy import check
from agito.harness.endpoint import ChatHarness
from agito.protocols import Environment, Measure, Measured, ScriptFactory
from agito.recipe import EnvSection, Recipe
from agito.record import Rate, rate, rate_over_all
from agito.record.events import EventLog, OnEvent
from agito.record.usage import causes
from agito.rollout import EpisodeDriver, scripted
from agito.runtime import load_policy
from agito.runtime.run_context import RunContext, environment_of, open_run_context
from agito.types import Attempt, AttemptId, Json, Target, Task, mean

SCHEMA_VERSION = 1
SUITES = ("decisions",)
DECISIONS = {
    "a": "when to stop thinking and act",
    "b": "which tool, in which order",
    "c": "integrating noisy observations",
    "d": "revising the plan after failure",
    "e": "staying coherent",
}
_Z = statistics.NormalDist().inv_cdf(0.975)
_LEVELS = (1, 2, 3)  # for a checkpoint trained elsewhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over `num` attempts with its 95 % interval; NaN when `num` is 0."""

    value: float
    low: float
    high: float
    num: int

    def to_json(self) -> dict[str, Json]:
        named = {"value": self.value, "low": self.low, "high": self.high}
        return {
            **{name: each if math.isfinite(each) else None for name, each in named.items()},
            "num": self.num,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One attempt at one task: its outcome, and its measures by name."""

    attempt: Attempt
    measures: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One agent on all tasks, in their order."""

    name: str
    readings: tuple[Reading, ...]

    @property
    def success(self) -> Rate:
        return rate(reading.attempt for reading in self.readings)

    @property
    def over_all(self) -> Rate:
        """Success over all tasks; void attempts count as failures."""
        return rate_over_all([reading.attempt for reading in self.readings])

    @property
    def void(self) -> int:
        return self.over_all.num - self.success.num

    def estimate(self, measure: str) -> Estimate:
        return estimate(
            [reading.measures[measure] for reading in self.readings if measure in reading.measures]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorecard:
    """`columns`: the given policies, then the optimum, null and random."""

    suite: str
    split: str
    families: tuple[str, ...]
    levels: tuple[int, ...]
    num_tasks: int
    measures: tuple[Measure, ...]  # those with a value in at least one column
    columns: tuple[Column, ...]
    num_policies: int

    def difference(self, measure: str) -> Estimate | None:
        """Second policy minus first, over the tasks for which both have the measure."""
        if self.num_policies < 2:
            return None
        pairs = zip(self.columns[0].readings, self.columns[1].readings, strict=True)
        return estimate(
            [
                two.measures[measure] - one.measures[measure]
                for one, two in pairs
                if measure in one.measures and measure in two.measures
            ],
            is_difference=True,
        )

    def to_json(self) -> dict[str, Json]:
        rates = {column.name: column.success for column in self.columns}
        every = {column.name: column.over_all for column in self.columns}
        return {
            "schema_version": SCHEMA_VERSION,
            "suite": self.suite,
            "split": self.split,
            "families": list(self.families),
            "levels": list(self.levels),
            "num_tasks": self.num_tasks,
            "success": {
                name: Estimate(value=each.success, low=each.low, high=each.high, num=each.num).to_json()
                for name, each in rates.items()
            },
            "success_all": {
                name: Estimate(value=each.success, low=each.low, high=each.high, num=each.num).to_json()
                for name, each in every.items()
            },
            "void": {column.name: column.void for column in self.columns},
            "void_causes": {
                **causes(reading.attempt for column in self.columns for reading in column.readings)
            },
            "measures": {
                measure.name: {
                    "decision": measure.decision,
                    "title": measure.title,
                    **{column.name: column.estimate(measure.name).to_json() for column in self.columns},
                    **({"difference": found.to_json()} if (found := self.difference(measure.name)) else {}),
                }
                for measure in self.measures
            },
        }


def estimate(values: Sequence[float], *, is_difference: bool = False) -> Estimate:
    """Exact for values that are all 0 or 1 (Clopper–Pearson), otherwise mean ± 1.96 · s / √n."""
    num = len(values)
    if not num:
        return Estimate(value=math.nan, low=math.nan, high=math.nan, num=0)
    if not is_difference and all(value in (0.0, 1.0) for value in values):
        found = Rate(successes=int(sum(values)), num=num)
        return Estimate(value=found.success, low=found.low, high=found.high, num=num)
    middle = mean(values)
    half = _Z * statistics.stdev(values) / math.sqrt(num) if num > 1 else math.inf
    return Estimate(value=middle, low=middle - half, high=middle + half, num=num)


def recipe_for(suite: str, recipe: Recipe) -> Recipe:
    """The checkpoint's own families and levels if it was trained on the suite's environment. Raises
    `BadRecipe` for an unknown suite."""
    if suite not in SUITES:
        raise BadRecipe(f"suite={suite}: there is {', '.join(SUITES)}{meant(suite, SUITES)}")
    if recipe.env.names == (suite,):
        return recipe
    return recipe.model_copy(
        update={"env": EnvSection(name=suite, levels=_LEVELS, dialect=recipe.env.dialect)}
    )


async def of_checkpoints(
    named: Mapping[str, Path],
    recipe: Recipe,
    on_event: OnEvent,
    *,
    suite: str,
    split: str,
    num_tasks: int,
    temperature: float,
) -> Scorecard:
    """The scorecard of one or two checkpoints on the tasks of `recipe`. Raises `CorruptCheckpoint`, and
    `BadRecipe` for an unknown split, family or level."""
    check(environment_of(recipe), recipe, split)
    columns, events = list[Column](), EventLog(on_event)
    for name, directory in named.items():
        events.begin(name, num_tasks)
        own = load_policy.recipe_of(directory).model_copy(update={"env": recipe.env, "seed": recipe.seed})
        async with load_policy.open_trained(directory, own) as run_context:
            attempts = await evaluation.policy(
                run_context,
                split,
                num_tasks,
                temperature=temperature,
                on_attempt=lambda attempt: events.advance(evaluation.metrics(attempt)),
            )
            columns.append(column(name, run_context, split, attempts))
        events.emit(evaluation.finished(name, "policy", attempts))
    return await complete(columns, recipe, suite, split, num_tasks)


async def of_endpoint(
    harness: ChatHarness,
    name: str,
    recipe: Recipe,
    on_event: OnEvent,
    *,
    suite: str,
    split: str,
    num_tasks: int,
) -> Scorecard:
    """The scorecard of a served model, in the natural dialect. An attempt that the endpoint fails is void.

    Raises `EndpointFailed` as soon as it is clear that the endpoint never answers.
    """
    check(environment_of(recipe), recipe, split)
    events = EventLog(on_event)
    events.begin(name, num_tasks)
    async with open_run_context(recipe) as run_context:
        attempts = await endpoint.attempts(
            harness,
            run_context,
            split,
            num_tasks,
            on_attempt=lambda attempt: events.advance(evaluation.metrics(attempt)),
        )
        policy = column(name, run_context, split, attempts)
    events.emit(evaluation.finished(name, "policy", attempts))
    return await complete([policy], recipe, suite, split, num_tasks)


async def complete(
    columns: Sequence[Column], recipe: Recipe, suite: str, split: str, num_tasks: int
) -> Scorecard:
    """Adds the columns of scripts on the same tasks."""
    async with open_run_context(recipe) as run_context:
        environment = measured(run_context.environment)
        ways: dict[str, Callable[[Task, Target], ScriptFactory]] = {
            "optimum": lambda task, target: environment.solutions(task, target)[0],
            "null": lambda task, target: environment.negative_controls(task)["null"],
            "random": lambda task, target: environment.negative_controls(task)["random"],
        }
        scripts = [
            column(name, run_context, split, await _acted(run_context, split, num_tasks, way))
            for name, way in ways.items()
        ]
        every = (*columns, *scripts)
        said = {name for each in every for reading in each.readings for name in reading.measures}
        cells = run_context.cells
    return Scorecard(
        suite=suite,
        split=split,
        families=tuple(dict.fromkeys(family for family, _ in cells)),
        levels=tuple(dict.fromkeys(level for _, level in cells)),
        num_tasks=num_tasks,
        measures=tuple(measure for measure in environment.measured if measure.name in said),
        columns=every,
        num_policies=len(columns),
    )


def column(name: str, run_context: RunContext, split: str, attempts: Sequence[Attempt]) -> Column:
    """`attempts` cover the first tasks of the split, in order; a void one has no measures."""
    environment = measured(run_context.environment)
    readings: list[Reading] = []
    for index, attempt in enumerate(attempts):
        task, target = run_context.task(split, index)
        found = (
            environment.measures(task, target, attempt.trajectory)
            if attempt.is_scored
            else dict[str, float]()
        )
        readings.append(Reading(attempt=attempt, measures=found))
    return Column(name=name, readings=tuple(readings))


class _MeasuredEnvironment(Environment, Measured, Protocol):
    pass


def measured(environment: Environment) -> _MeasuredEnvironment:
    """Raises `BadRecipe` for an environment without measures."""
    if not isinstance(environment, Measured):
        raise BadRecipe(
            f"env={environment.name}: it has no measures; give it what agito.protocols.Measured asks for"
        )
    return environment  # type: ignore[return-value]


async def _acted(
    run_context: RunContext, split: str, num_tasks: int, way: Callable[[Task, Target], ScriptFactory]
) -> list[Attempt]:
    """Attempts by a script, without tokens."""
    driver, attempts = (
        EpisodeDriver(run_context.environment, noise_seed=run_context.recipe.seed),
        list[Attempt](),
    )
    for index in range(num_tasks):
        task, target = run_context.task(split, index)
        attempt = AttemptId(group=evaluation.BASELINE_BASE + index, slot=0)
        finished = await driver.run(task, target, attempt, scripted(way(task, target), task, attempt))
        attempts.append(Attempt(trajectory=finished.trajectory, verdict=finished.verdict))
    return attempts
