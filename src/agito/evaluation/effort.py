"""Success against compute: the same tasks at every effort, with intervals."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from agito.evaluation import policies as evaluation
from agito.evaluation.saved_policy import check
from agito.learning.effort import EffortSection
from agito.recipe import Recipe
from agito.record.events import EventLog, OnEvent
from agito.record.trajectories import is_success
from agito.runtime import load_policy
from agito.runtime.run_context import environment_of
from agito.types import Attempt, Effort, Json

SCHEMA_VERSION = 1
_DRAWS = 2000
MEASURES = ("success", "think_tokens", "cost", "calls", "turns", "leaked", "seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean and its 95 % interval, by bootstrap over tasks."""

    value: float
    low: float
    high: float

    def to_json(self) -> list[Json]:
        return [round(self.value, 4), round(self.low, 4), round(self.high, 4)]


@dataclass(frozen=True, slots=True, kw_only=True)
class AtEffort:
    """One effort. A void attempt counts nowhere; `over_budget` is counted over all turns."""

    measures: Mapping[str, Estimate]
    by_level: Mapping[str, Mapping[str, float]]  # success and cost
    num: int
    void: int
    num_turns: int
    over_budget: int

    def to_json(self) -> dict[str, Json]:
        return {
            **{name: each.to_json() for name, each in self.measures.items()},
            "by_level": {level: dict(each) for level, each in self.by_level.items()},
            "num": self.num,
            "void": self.void,
            "turns_num": self.num_turns,
            "over_budget": self.over_budget,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EffortCurve:
    """What thinking buys: one checkpoint at several efforts."""

    checkpoint: Path
    env: str
    split: str
    num_tasks: int
    temperature: float
    efforts: Mapping[Effort, AtEffort]

    def to_json(self) -> dict[str, Json]:
        return {
            "schema_version": SCHEMA_VERSION,
            "checkpoint": str(self.checkpoint),
            "env": self.env,
            "split": self.split,
            "num_tasks": self.num_tasks,
            "temperature": self.temperature,
            "efforts": {effort.value: each.to_json() for effort, each in self.efforts.items()},
        }


async def evaluate_efforts(
    directory: Path,
    recipe: Recipe,
    on_event: OnEvent,
    *,
    split: str,
    num_tasks: int,
    temperature: float,
    efforts: Sequence[Effort] = (),
) -> tuple[EffortCurve, dict[Effort, tuple[Attempt, ...]]]:
    """The curve, and the attempts. `efforts`: by default all that the checkpoint was trained at. Raises as
    `evaluate_checkpoint`."""
    check(environment_of(recipe), recipe, split)
    found, events = dict[Effort, tuple[Attempt, ...]](), EventLog(on_event)
    async with load_policy.open_trained(directory, recipe) as run_context:
        for effort in efforts or recipe.effort.settings:
            events.begin(effort.value, num_tasks)
            found[effort] = await evaluation.policy(
                run_context,
                split,
                num_tasks,
                temperature=temperature,
                on_attempt=lambda attempt: events.advance(evaluation.metrics(attempt)),
                effort=effort,
            )
            events.emit(evaluation.finished(effort.value, "policy", found[effort]))
    curve = EffortCurve(
        checkpoint=directory,
        env=recipe.env.name,
        split=split,
        num_tasks=num_tasks,
        temperature=temperature,
        efforts={effort: at_effort(each, recipe.effort) for effort, each in found.items()},
    )
    return curve, found


def at_effort(attempts: Sequence[Attempt], section: EffortSection) -> AtEffort:
    scored = [attempt for attempt in attempts if attempt.is_scored]
    rows = [measures_of(attempt, section) for attempt in scored]
    levels = sorted({attempt.trajectory.task.level for attempt in scored})
    by_level = dict[str, dict[str, float]]()
    for level in levels:
        own = [row for row, each in zip(rows, scored, strict=True) if each.trajectory.task.level == level]
        by_level[str(level)] = {
            name: fmean(row[name] for row in own) for name in ("success", "think_tokens", "cost")
        }
    turns = [turn for attempt in attempts for turn in attempt.trajectory.turns if not turn.continues]
    return AtEffort(
        measures={name: estimate([row[name] for row in rows]) for name in MEASURES if rows},
        by_level=by_level,
        num=len(scored),
        void=len(attempts) - len(scored),
        num_turns=len(turns),
        over_budget=sum(
            turn.think_budget is not None and turn.num_thought > turn.think_budget for turn in turns
        ),
    )


def measures_of(attempt: Attempt, section: EffortSection) -> dict[str, float]:
    trajectory = attempt.trajectory
    turns = [turn for turn in trajectory.turns if not turn.continues]
    return {
        "success": float(bool(is_success(attempt))),
        "think_tokens": float(sum(turn.num_thought for turn in turns)),
        "cost": section.cost(trajectory),
        "calls": float(len(trajectory.events)),
        "turns": float(len(turns)),
        "leaked": float(sum(turn.num_leaked for turn in turns)),
        "seconds": trajectory.wall_s,
    }


def estimate(values: Sequence[float], *, draws: int = _DRAWS) -> Estimate:
    rng = random.Random(f"effort/{len(values)}")
    means = sorted(fmean(rng.choices(values, k=len(values))) for _ in range(draws))
    return Estimate(
        value=fmean(values), low=means[round(0.025 * (draws - 1))], high=means[round(0.975 * (draws - 1))]
    )
