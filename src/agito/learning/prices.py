"""What an attempt pays, in reward: for its thinking, and for its critical path.

**Thinking.** An effort is a declared share of `high`'s mean cost in the same cell. Its price rises while the
effort costs more than that, and falls while it costs less, never below zero. A fixed price would depend on
units, and reaches some shares not at all.

**Critical path.** Tokens that are sampled one after the other are paid for in proportion to the mean of those
attempts of the cell that earned something. So the price needs no unit: to shorten the path by a tenth is
worth as much in any cell, by any tokenizer. One agent and a team pay alike.

Whoever earned the environment's lowest reward pays what the mean costs, of either: to fail briefly is no
better than to fail at length.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from agito.errors import CorruptCheckpoint
from agito.learning.effort import EffortSection
from agito.types import Attempt, Effort, Group, Json, Trajectory, mean

_NEW_WEIGHT = 0.3  # of a step's mean


class Prices:
    """By cell and effort. Checkpoints carry their state."""

    def __init__(self, section: EffortSection, *, critical: float = 0.0, lowest: float = 0.0) -> None:
        """`critical`: what a critical path of mean length costs, in reward; the first step has no mean yet,
        and pays nothing. `lowest`: the environment's lowest reward.
        """
        self._section, self._critical, self._lowest = section, critical, lowest
        self._prices, self._costs = dict[str, float](), dict[str, float]()
        self._paths = dict[str, float]()  # mean tokens on the critical path

    @property
    def are_on(self) -> bool:
        """Whether anything may come to cost anything."""
        return self._section.is_on or self._critical > 0

    def of(self, attempt: Attempt) -> float:
        """What an attempt pays, in reward."""
        key = _key(attempt.trajectory.task.cell, _effort(attempt.trajectory))
        return self._of_thinking(attempt, key) + self._of_path(attempt, key)

    def anew(self, attempts: Iterable[Attempt]) -> tuple[Attempt, ...]:
        """The same attempts, all at the prices of now, whenever they ended: for those that are compared."""
        return tuple(
            replace(each, cost=self.of(each)) if self.are_on and each.is_scored else each for each in attempts
        )

    def _of_thinking(self, attempt: Attempt, key: str) -> float:
        """λ·C, for think tokens, calls and turns."""
        price = self._prices.get(key, 0.0)
        if not price:
            return 0.0
        return price * (self._section.cost(attempt.trajectory) if self._earns(attempt) else self._costs[key])

    def _of_path(self, attempt: Attempt, key: str) -> float:
        """In proportion to its critical path, but never so much that to earn nothing would have been
        better.
        """
        usual = self._paths.get(key, 0.0)
        if not usual or not self._critical or not self._earns(attempt):
            return self._critical if usual else 0.0
        earned = attempt.verdict.reward - self._lowest
        return min(self._critical * attempt.trajectory.num_critical / usual, self._critical + earned)

    def _earns(self, attempt: Attempt) -> bool:
        return attempt.verdict.reward > self._lowest

    def update(self, groups: Sequence[Group], *, is_free: bool) -> None:
        """From a step's trusted attempts. `is_free`: what thinking costs is followed, and its price stays at
        zero.
        """
        costs, paths = dict[str, list[float]](), dict[str, list[float]]()
        for group in groups:
            for attempt in group.trusted:
                key = _key(group.task.cell, _effort(attempt.trajectory))
                costs.setdefault(key, []).append(self._section.cost(attempt.trajectory))
                if self._critical and self._earns(attempt):
                    paths.setdefault(key, []).append(float(attempt.trajectory.num_critical))
        _follow(self._costs, costs)
        _follow(self._paths, paths)
        for key in sorted(costs) if not is_free else ():
            cell, _, effort = key.rpartition("/")
            share = self._section.shares.get(Effort(effort))
            full = self._costs.get(_key(cell, Effort.HIGH))
            if share is None or not full:
                continue
            rise = self._section.price_step * (self._costs[key] / (share * full) - 1)
            self._prices[key] = min(max(self._prices.get(key, 0.0) + rise, 0.0), self._section.price_most)

    def metrics(self, groups: Iterable[Group]) -> dict[str, float]:
        """Mean price and mean cost of each effort and the mean critical path, over cells; and what these
        groups' attempts paid.
        """
        found = dict[str, float]()
        for effort in self._section.settings:
            for name, table in (("price", self._prices), ("cost", self._costs)):
                own = [value for key, value in table.items() if key.endswith(f"/{effort}")]
                if own:
                    found[f"effort/{effort}_{name}_mean"] = mean(own)
        if self._paths:
            found["price/critical_tokens_mean"] = mean(self._paths.values())
        if paid := [attempt.cost for group in groups for attempt in group.trusted]:
            found["price/paid_mean"] = mean(paid)
        return found

    def to_json(self) -> dict[str, Json]:
        return {name: dict(table) for name, table in self._tables.items()}

    def restore(self, data: Json) -> None:
        """Takes over the state that `to_json` returned; a checkpoint from before there were prices has none.
        Raises `CorruptCheckpoint`.
        """
        if data is None:
            return
        for name, own in self._tables.items():
            table = data.get(name, {} if own is self._paths else None) if isinstance(data, dict) else None
            if not isinstance(table, dict):
                raise CorruptCheckpoint(
                    f"the prices are {data}: need {', '.join(self._tables)} by cell and effort"
                )
            own.clear()
            own.update({key: float(str(value)) for key, value in table.items()})

    @property
    def _tables(self) -> dict[str, dict[str, float]]:
        return {"prices": self._prices, "costs": self._costs, "paths": self._paths}


def _follow(means: dict[str, float], found: dict[str, list[float]]) -> None:
    """Moves each running mean towards what was found."""
    for key, values in sorted(found.items()):
        before = means.get(key, mean(values))
        means[key] = before + _NEW_WEIGHT * (mean(values) - before)


def _key(cell: str, effort: Effort) -> str:
    return f"{cell}/{effort}"


def _effort(trajectory: Trajectory) -> Effort:
    return trajectory.turns[0].effort if trajectory.turns else Effort.NONE
