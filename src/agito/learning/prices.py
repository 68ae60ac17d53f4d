"""What thinking costs: a price for each effort in each cell, learned by dual ascent.

An effort is a declared share of `high`'s mean cost in the same cell. Its price rises while the effort costs
more than that, and falls while it costs less, never below zero. A fixed price would depend on units, and
reaches some shares not at all.
"""

from __future__ import annotations

from collections.abc import Iterable

from agito.errors import CorruptCheckpoint
from agito.learning.effort import EffortSection
from agito.types import Attempt, Effort, Group, Json, Trajectory, mean

_NEW_WEIGHT = 0.3  # of a step's mean cost


class Prices:
    """By cell and effort. Checkpoints carry their state."""

    def __init__(self, section: EffortSection, *, lowest: float = 0.0) -> None:
        """`lowest`: the environment's lowest reward."""
        self._section, self._lowest = section, lowest
        self._prices, self._costs = dict[str, float](), dict[str, float]()

    def of(self, attempt: Attempt) -> float:
        """λ·C, in reward: what an attempt pays for its thinking, its calls and its turns. One that earned
        the lowest reward pays what its effort costs on average: to fail briefly is no better than to fail at
        length."""
        trajectory = attempt.trajectory
        key = _key(trajectory.task.cell, _effort(trajectory))
        price = self._prices.get(key, 0.0)
        if not price:
            return 0.0
        has_earned = attempt.verdict.reward > self._lowest
        return price * (self._section.cost(trajectory) if has_earned else self._costs[key])

    def update(self, groups: Iterable[Group], *, is_free: bool) -> None:
        """From a step's trusted attempts. `is_free`: costs are followed, prices stay at zero."""
        costs = dict[str, list[float]]()
        for group in groups:
            for attempt in group.trusted:
                key = _key(group.task.cell, _effort(attempt.trajectory))
                costs.setdefault(key, []).append(self._section.cost(attempt.trajectory))
        for key, found in sorted(costs.items()):
            before = self._costs.get(key, mean(found))
            self._costs[key] = before + _NEW_WEIGHT * (mean(found) - before)
        for key in sorted(costs) if not is_free else ():
            cell, _, effort = key.rpartition("/")
            share = self._section.shares.get(Effort(effort))
            full = self._costs.get(_key(cell, Effort.HIGH))
            if share is None or not full:
                continue
            rise = self._section.price_step * (self._costs[key] / (share * full) - 1)
            self._prices[key] = min(max(self._prices.get(key, 0.0) + rise, 0.0), self._section.price_most)

    def metrics(self) -> dict[str, float]:
        """Mean price and mean cost of each effort, over cells."""
        found = dict[str, float]()
        for effort in self._section.settings:
            for name, table in (("price", self._prices), ("cost", self._costs)):
                own = [value for key, value in table.items() if key.endswith(f"/{effort}")]
                if own:
                    found[f"effort/{effort}_{name}_mean"] = mean(own)
        return found

    def to_json(self) -> dict[str, Json]:
        return {"prices": dict(self._prices), "costs": dict(self._costs)}

    def restore(self, data: Json) -> None:
        """Takes over the state that `to_json` returned; a checkpoint from before there were prices has none.
        Raises `CorruptCheckpoint`."""
        tables = [data.get(name) if isinstance(data, dict) else None for name in ("prices", "costs")]
        if data is None:
            return
        for table, own in zip(tables, (self._prices, self._costs), strict=True):
            if not isinstance(table, dict):
                raise CorruptCheckpoint(f"the prices are {data}: need prices and costs by cell and effort")
            own.clear()
            own.update({key: float(str(value)) for key, value in table.items()})


def _key(cell: str, effort: Effort) -> str:
    return f"{cell}/{effort}"


def _effort(trajectory: Trajectory) -> Effort:
    return trajectory.turns[0].effort if trajectory.turns else Effort.NONE
