"""Held-out success of a policy, and of scripts that mark the floor and the ceiling."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from agito.monitor import Monitor
from agito.protocols import ScriptFactory, Unscripted
from agito.record import rate
from agito.record.events import EvaluationFinished
from agito.record.trajectories import is_success
from agito.rollout import Observed
from agito.runtime.run_context import RunContext
from agito.scheduling.sync_scheduler import Quota
from agito.types import Attempt, AttemptId, Effort, Target, Task

Way: TypeAlias = Callable[[Task, Target, AttemptId], ScriptFactory]
HELDOUT_BASE, STRUCTURAL_BASE, BASELINE_BASE = 1_000_000, 3_000_000, 4_000_000


def base_of(split: str) -> int:
    """The group of the split's first task."""
    return STRUCTURAL_BASE if split == "structural" else HELDOUT_BASE


async def policy(
    run_context: RunContext,
    split: str,
    num_tasks: int,
    *,
    temperature: float,
    num_attempts: int = 1,
    on_attempt: Callable[[Attempt], None] = lambda _: None,
    monitor: Monitor | None = None,
    observed: Observed | None = None,
    effort: Effort | None = None,
) -> tuple[Attempt, ...]:
    """`num_attempts` at each of the first `num_tasks` tasks of the split, in order, with the same tasks,
    random draws and faults every time.

    With a monitor, the environment's validator judges as large a share of them as in training.
    """
    base = base_of(split)
    bounds = [
        num_tasks * rank // run_context.recipe.compute.ranks
        for rank in range(run_context.recipe.compute.ranks + 1)
    ]
    quotas = [
        Quota(
            ids=range(base + start, base + stop),
            group_size=num_attempts,
            max_live=run_context.recipe.compute.max_num_seqs,
        )
        for start, stop in itertools.pairwise(bounds)
        if stop > start
    ]
    collected = await run_context.attempts(
        run_context.plan(split, base, effort=effort or run_context.recipe.effort.default),
        quotas,
        temperature=temperature,
        on_attempt=on_attempt,
        monitor=monitor,
        observed=observed,
    )
    return collected.attempts


def metrics(attempt: Attempt) -> dict[str, float]:
    """One attempt, as the event log counts it."""
    outcome, is_scored = is_success(attempt), math.isfinite(attempt.verdict.reward)
    return {
        "success/num": float(is_scored),
        "success/successes": float(is_scored and bool(outcome)),
        "attempt/void_num": float(outcome is None),
        "tokens/sampled_num": float(attempt.trajectory.num_sampled),
    }


def finished(phase: str, agent: str, attempts: Sequence[Attempt]) -> EvaluationFinished:
    """The results of one agent."""
    found = rate(attempts)
    return EvaluationFinished(
        phase=phase, agent=agent, successes=found.successes, num=found.num, num_all=len(attempts)
    )


async def scripts(
    run_context: RunContext, split: str, num_tasks: int, *, demonstrator_skill: float
) -> dict[str, tuple[Attempt, ...]]:
    """The same tasks by every negative control, the demonstrator and the oracle."""
    found: dict[str, tuple[Attempt, ...]] = {}
    for number, (name, script) in enumerate(ways(run_context, split, demonstrator_skill).items()):
        base = BASELINE_BASE + number * 100_000
        quota = Quota(ids=range(base, base + num_tasks), group_size=1, max_live=8)
        found[name] = (await run_context.attempts(run_context.plan(split, base, script), [quota])).attempts
    return found


def ways(run_context: RunContext, split: str, demonstrator_skill: float) -> Mapping[str, Way]:
    """What `scripts` plays."""
    environment = run_context.environment

    def control(name: str) -> Way:
        return lambda task, target, attempt: environment.negative_controls(task)[name]

    found = {name: control(name) for name in environment.negative_controls(run_context.task(split, 0)[0])}
    if isinstance(environment, Unscripted):
        return found
    found["demonstrator"] = lambda task, target, attempt: environment.demonstrator(
        task, target, skill=demonstrator_skill, seed=attempt.group
    )
    found["oracle"] = lambda task, target, attempt: environment.solutions(task, target)[0]
    return found
