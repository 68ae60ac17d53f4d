"""Success against compute: the same tasks at every effort, with intervals; and how well `auto` adapts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from agito.evaluation import policies as evaluation
from agito.evaluation.adaptivity import Adaptivity, Paired, adaptivity, by_difficulty, spearman
from agito.evaluation.intervals import Estimate, estimate
from agito.evaluation.saved_policy import Conditions, check
from agito.learning.effort import EffortSection
from agito.learning.leaks import leaked
from agito.learning.modes import mode_of
from agito.protocols import Environment, ShowsDifficulty
from agito.recipe import Recipe
from agito.record.events import EventLog, OnEvent
from agito.record.trajectories import is_success
from agito.runtime import load_policy
from agito.runtime.run_context import environment_of
from agito.types import Attempt, Effort, Json, Mode, Trajectory

MEASURES = ("success", "u", "think_tokens", "cost", "calls", "turns", "leaked", "seconds")


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
class Auto:
    """What `auto` makes of a task: by difficulty, how often it thinks, and how much over `high`. `adaptivity`
    is None without a fixed effort beside it."""

    adaptivity: Adaptivity | None
    p_think: Mapping[int, float]
    think_ratio: Mapping[int, float]

    @property
    def follows(self) -> dict[str, float]:
        """Spearman's rank correlation of either with difficulty; NaN where it is constant or unknown."""
        named = {"p_think": self.p_think, "think_ratio": self.think_ratio}
        return {
            name: spearman([*map(float, each)], [*each.values()]) if len(each) > 1 else math.nan
            for name, each in named.items()
        }

    def to_json(self) -> dict[str, Json]:
        return {
            **(self.adaptivity.to_json() if self.adaptivity else {}),
            "p_think": {str(level): round(each, 4) for level, each in self.p_think.items()},
            "think_ratio": {str(level): round(each, 4) for level, each in self.think_ratio.items()},
            "spearman": {
                name: round(each, 4) if math.isfinite(each) else None for name, each in self.follows.items()
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EffortCurve(Conditions):
    """What thinking buys: one checkpoint at several efforts. `auto` is None where it was not asked for."""

    efforts: Mapping[Effort, AtEffort]
    auto: Auto | None = None

    def to_json(self) -> dict[str, Json]:
        return {
            **Conditions.to_json(self),
            "efforts": {effort.value: each.to_json() for effort, each in self.efforts.items()},
            "auto": self.auto.to_json() if self.auto else None,
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
    environment = environment_of(recipe)
    check(environment, recipe, split)
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
        checkpoint=str(directory),
        env=recipe.env.name_measured,
        split=split,
        num_tasks=num_tasks,
        temperature=temperature,
        seed=recipe.seed,
        efforts={effort: at_effort(each, recipe.effort) for effort, each in found.items()},
        auto=auto_of(found, environment, lambda each: measures_of(each, recipe.effort)["u"]),
    )
    return curve, found


def auto_of(
    found: Mapping[Effort, Sequence[Attempt]],
    environment: Environment,
    utility: Callable[[Attempt], float],
) -> Auto | None:
    """None without `auto`."""
    attempts = found.get(Effort.AUTO)
    if not attempts:
        return None
    has_fixed = any(effort is not Effort.AUTO for effort in found)
    try:
        adapts = adaptivity([paired(found, environment, utility)]) if has_fixed else None
    except ValueError:  # every task is void at some effort
        adapts = None
    return Auto(adaptivity=adapts, p_think=p_think(attempts), think_ratio=think_ratio(found))


def paired(
    found: Mapping[Effort, Sequence[Attempt]],
    environment: Environment,
    utility: Callable[[Attempt], float],
) -> Paired:
    tasks = [attempt.trajectory.task for attempt in found[Effort.AUTO]]
    shows = environment if isinstance(environment, ShowsDifficulty) else None
    values = {
        effort: [utility(each) if each.is_scored else math.nan for each in attempts]
        for effort, attempts in found.items()
    }
    return Paired(
        shown=[shows.shown(task) if shows else task.cell for task in tasks],
        auto=values.pop(Effort.AUTO),
        fixed=values,
    )


def p_think(attempts: Sequence[Attempt]) -> dict[int, float]:
    """How often it thinks first, by level."""
    scored = [attempt for attempt in attempts if attempt.is_scored]
    return by_difficulty(
        (attempt.trajectory.task.level for attempt in scored),
        (float(mode_of(attempt.trajectory) is Mode.THINK) for attempt in scored),
    )


def think_ratio(found: Mapping[Effort, Sequence[Attempt]]) -> dict[int, float]:
    """Think tokens at `auto` over those at `high`, by level; empty without both."""
    means = [
        by_difficulty(
            (each.trajectory.task.level for each in own if each.is_scored),
            (float(num_thought(each.trajectory)) for each in own if each.is_scored),
        )
        for own in (found.get(Effort.AUTO, ()), found.get(Effort.HIGH, ()))
    ]
    return {level: each / means[1][level] for level, each in means[0].items() if means[1].get(level)}


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
    trajectory, cost = attempt.trajectory, section.cost(attempt.trajectory)
    return {
        "success": float(bool(is_success(attempt))),
        "u": attempt.verdict.reward - section.utility_price * cost,
        "think_tokens": float(num_thought(trajectory)),
        "cost": cost,
        "calls": float(len(trajectory.events)),
        "turns": float(trajectory.num_turns),
        "leaked": float(leaked(trajectory)),
        "seconds": trajectory.wall_s,
    }


def num_thought(trajectory: Trajectory) -> int:
    return sum(turn.num_thought for turn in trajectory.turns)
