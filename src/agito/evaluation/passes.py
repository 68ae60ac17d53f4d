"""pass@k and pass^k: is a task solved in one of k attempts, and in all of them. Intervals are over tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb

from agito.record.intervals import clopper_pearson
from agito.record.trajectories import is_success
from agito.types import Attempt, Json, mean

_MOST = 8  # k that are told: 1, 2, 4, 8 and as many as there are attempts


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """With its 95 % interval over tasks: Clopper and Pearson's at that mean, which no values between 0 and 1
    make too narrow.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """By name, `pass@2` and `pass^2`, over the tasks that have at least so many scored attempts."""

    num_tasks: int
    estimates: Mapping[str, Estimate]

    def to_json(self) -> dict[str, Json]:
        told: dict[str, Json] = {
            name: [each.value, each.low, each.high] for name, each in self.estimates.items()
        }
        return told | {"num_tasks": self.num_tasks}


def passes(attempts: Sequence[Attempt]) -> Passes | None:
    """None where every task was attempted once. A void attempt counts as none."""
    tasks: dict[str, list[bool]] = {}
    for attempt in attempts:
        outcome = is_success(attempt)
        tasks.setdefault(attempt.trajectory.task.id, []).extend([] if outcome is None else [outcome])
    scored = [each for each in tasks.values() if each]
    most = max(map(len, scored), default=0)
    if most < 2:
        return None
    found: dict[str, Estimate] = {}
    for k in sorted({k for k in (1, 2, 4, _MOST) if k <= most} | {most}):
        counts = [(sum(each), len(each)) for each in scored if len(each) >= k]
        found[f"pass@{k}"] = _over_tasks(counts, k, at_least_one)
        found[f"pass^{k}"] = _over_tasks(counts, k, every_one)
    return Passes(num_tasks=len(scored), estimates=found)


def at_least_one(successes: int, num: int, k: int) -> float:
    """Of k of the `num` attempts, drawn without putting back: 1 − C(n−c, k) / C(n, k). Unbiased. Source:
    arXiv:2107.03374.
    """
    return 1.0 - comb(num - successes, k) / comb(num, k)


def every_one(successes: int, num: int, k: int) -> float:
    """C(c, k) / C(n, k). Unbiased. Source: arXiv:2406.12045."""
    return comb(successes, k) / comb(num, k)


def _over_tasks(
    counts: Sequence[tuple[int, int]], k: int, estimate: Callable[[int, int, int], float]
) -> Estimate:
    values = [estimate(successes, num, k) for successes, num in counts]
    total = sum(values)
    low, high = (
        clopper_pearson(math.floor(total + 1e-9), len(values))[0],
        clopper_pearson(math.ceil(total - 1e-9), len(values))[1],
    )
    return Estimate(value=mean(values), low=low, high=high)
