"""Does `auto` think where it pays? Its utility beside the best fixed effort and an oracle.

    capture = (U_auto - U_fixed) / (U_oracle - U_fixed)

The oracle takes, for each thing that a prompt can show, the effort that is best there: it knows no more than
a policy can read before it acts. Both it and the best fixed effort are chosen on other tasks than they are
scored on (cross-fitting); a maximum over the same tasks would be too high. The difference of the two is the
adaptivity gap. Where it is small there is nothing to adapt to, and capture says nothing.

Axes: D draws, N tasks, M efforts.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from agito.evaluation.intervals import DRAWS, Estimate
from agito.types import Effort, Json

LEAST_GAP = 0.10  # below it capture is not reported
_FOLDS = 5

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """Utilities of one checkpoint at the same tasks. `shown`: what each task's prompt tells of it. NaN: void;
    such a task is left out."""

    shown: Sequence[str]
    fixed: Mapping[Effort, Sequence[float]]
    auto: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptivity:
    """`capture` is None where the gap is below `LEAST_GAP`."""

    auto: Estimate
    fixed: Estimate
    oracle: Estimate
    gap: Estimate
    capture: Estimate | None
    num: int

    def to_json(self) -> dict[str, Json]:
        named = {"u_auto": self.auto, "u_fixed": self.fixed, "u_oracle": self.oracle, "gap": self.gap}
        return {
            **{name: each.to_json() for name, each in named.items()},
            "capture": self.capture.to_json() if self.capture else None,
            "num": self.num,
        }


def adaptivity(seeds: Sequence[Paired], *, draws: int = DRAWS) -> Adaptivity:
    """Over checkpoints: each has an oracle and a best fixed effort of its own. Intervals: bootstrap, first of
    checkpoints, then of tasks; a task stays in its fold however often it is drawn."""
    tables = [_Table.of(seed) for seed in seeds]
    point = np.mean([table.scores(np.ones((1, table.num)))[0] for table in tables], axis=0)
    rng = np.random.default_rng(len(tables))
    totals_D3 = np.zeros((draws, 3))
    for _ in tables:
        chosen = rng.integers(len(tables), size=draws) if len(tables) > 1 else np.zeros(draws, dtype=np.int64)
        for at, table in enumerate(tables):
            rows = np.flatnonzero(chosen == at)
            counts = rng.multinomial(table.num, np.full(table.num, 1 / table.num), size=len(rows))
            totals_D3[rows] += table.scores(counts.astype(np.float64)) / len(tables)
    auto, fixed, oracle = (Estimate.of(float(point[at]), totals_D3[:, at].tolist()) for at in range(3))
    gaps = totals_D3[:, 2] - totals_D3[:, 1]
    gap = Estimate.of(float(point[2] - point[1]), gaps.tolist())
    captured = (totals_D3[:, 0] - totals_D3[:, 1])[gaps > 0] / gaps[gaps > 0]
    capture = (
        Estimate.of(float((point[0] - point[1]) / gap.value), captured.tolist())
        if gap.value >= LEAST_GAP
        else None
    )
    num = sum(table.num for table in tables)
    return Adaptivity(auto=auto, fixed=fixed, oracle=oracle, gap=gap, capture=capture, num=num)


@dataclass(frozen=True, slots=True)
class _Table:
    places: list[NDArray[np.int64]]  # tasks of each fold and thing shown, fold by fold
    num_shown: int
    fixed_MN: Floats
    auto_N: Floats

    @property
    def num(self) -> int:
        return len(self.auto_N)

    @classmethod
    def of(cls, paired: Paired) -> _Table:
        """Raises `ValueError` without tasks, or without efforts to compare."""
        whole = np.array([list(paired.auto), *map(list, paired.fixed.values())], dtype=np.float64)
        kept: list[int] = np.flatnonzero(np.isfinite(whole).all(axis=0)).tolist()
        if not kept or len(whole) < 2:
            raise ValueError(
                f"{len(kept)} tasks at {len(whole) - 1} fixed efforts: need at least one of each"
            )
        shown = [paired.shown[at] for at in kept]
        places = list[list[list[int]]]()
        for thing in sorted({*shown}):
            own = [at for at, each in enumerate(shown) if each == thing]
            random.Random(f"adaptivity/{thing}").shuffle(own)
            places.append([own[fold::_FOLDS] for fold in range(_FOLDS)])
        flat = [np.array(own[fold], dtype=np.int64) for fold in range(_FOLDS) for own in places]
        return cls(flat, len(places), whole[1:, kept], whole[0, kept])

    def scores(self, counts_DN: Floats) -> Floats:
        """Mean utility of `auto`, the best fixed effort and the oracle; D x 3."""
        folded = (_FOLDS, self.num_shown)
        sums = np.stack([counts_DN[:, own] @ self.fixed_MN[:, own].T for own in self.places], axis=1)
        nums = np.stack([counts_DN[:, own].sum(axis=1) for own in self.places], axis=1)
        sums_DFSM = sums.reshape(len(counts_DN), *folded, -1)
        nums_DFS1 = nums.reshape(len(counts_DN), *folded, 1)
        others_DFSM = sums_DFSM.sum(axis=1, keepdims=True) - sums_DFSM
        others_DFS1 = nums_DFS1.sum(axis=1, keepdims=True) - nums_DFS1
        overall_DF1M = others_DFSM.sum(axis=2, keepdims=True)
        # what the other folds never saw is decided as the best fixed effort
        is_known = np.broadcast_to(others_DFS1 > 0, others_DFSM.shape)
        means_DFSM: Floats = np.broadcast_to(overall_DF1M, others_DFSM.shape).copy()
        np.divide(others_DFSM, others_DFS1, out=means_DFSM, where=is_known)
        oracle = _taken(sums_DFSM, means_DFSM)
        fixed = _taken(sums_DFSM.sum(axis=2, keepdims=True), overall_DF1M)
        total = counts_DN.sum(axis=1)
        return np.stack([counts_DN @ self.auto_N, fixed, oracle], axis=1) / total[:, None]


def _taken(sums_DFSM: Floats, means_DFSM: Floats) -> Floats:
    """Totals of each draw, at the effort with the highest mean."""
    best = np.argmax(means_DFSM, axis=3, keepdims=True)
    return np.take_along_axis(sums_DFSM, best, axis=3).sum(axis=(1, 2, 3))


def spearman(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Correlation of ranks, ties sharing theirs; NaN where either is constant."""
    ranks = [_ranks(values) for values in (xs, ys)]
    means = [fmean(each) for each in ranks]
    one, other = ([rank - middle for rank in each] for each, middle in zip(ranks, means, strict=True))
    spread = math.sqrt(sum(each * each for each in one) * sum(each * each for each in other))
    return sum(a * b for a, b in zip(one, other, strict=True)) / spread if spread else math.nan


def by_difficulty(levels: Iterable[int], values: Iterable[float]) -> dict[int, float]:
    """Means at each difficulty, ascending."""
    found = dict[int, list[float]]()
    for level, value in zip(levels, values, strict=True):
        found.setdefault(level, []).append(value)
    return {level: fmean(own) for level, own in sorted(found.items())}


def _ranks(values: Sequence[float]) -> list[float]:
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2
        for value in values
    ]
