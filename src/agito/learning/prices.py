"""What thinking costs: a price for each effort in each cell, learned by dual ascent.

An effort is a declared share of `high`'s mean cost in the same cell. Its price rises while the effort costs
more than that, and falls while it costs less, never below zero. A fixed price would depend on units, and
reaches some shares not at all. `auto` has one price over all cells: where to think is its own to decide.

A group is asked for one price and keeps it: its attempts are compared with one another, however the price
moves between the first that ends and the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agito.errors import CorruptCheckpoint
from agito.learning.effort import EffortSection
from agito.learning.modes import Modes, effort_of, mode_of
from agito.types import Attempt, Effort, Group, Json, Mode, Trajectory, mean

_NEW_WEIGHT = 0.3  # of a step's mean cost
_ALL = "all"  # cells, in the key of the price of `auto`


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quote:
    """A group's price of a think token, and what its effort costs on average, by mode at `auto`."""

    price: float
    costs: Mapping[Mode | None, float]


class Prices:
    """By cell and effort. Checkpoints carry their state; groups that are begun anew after a resume are quoted
    anew."""

    def __init__(self, section: EffortSection, *, lowest: float = 0.0) -> None:
        """`lowest`: the environment's lowest reward."""
        self._section, self._lowest = section, lowest
        self._prices, self._costs = dict[str, float](), dict[str, float]()
        self._quotes = dict[int, _Quote]()  # by group, until it is learned from

    def of(self, attempt: Attempt) -> float:
        """λ·C at today's price, in reward: what an attempt pays for its thinking, its calls and its turns.
        One that earned the lowest reward pays what its effort, or its mode, costs on average: to fail briefly
        is no better than to fail at length."""
        return self._paid(attempt, self._quote(attempt.trajectory))

    def in_group(self, attempt: Attempt) -> float:
        """The same, at the price that its group was asked for when the first of its attempts had ended."""
        if not attempt.trajectory.turns:
            return 0.0
        group = attempt.trajectory.attempt.group
        return self._paid(attempt, self._quotes.setdefault(group, self._quote(attempt.trajectory)))

    def _paid(self, attempt: Attempt, quote: _Quote) -> float:
        if not quote.price:
            return 0.0
        own = self._section.cost(attempt.trajectory)
        has_earned = attempt.verdict.reward > self._lowest
        return quote.price * (own if has_earned else quote.costs.get(mode_of(attempt.trajectory), own))

    def update(self, groups: Iterable[Group], *, is_free: bool) -> None:
        """From a step's trusted attempts. `is_free`: costs are followed, prices stay at zero."""
        costs = dict[str, list[float]]()
        for group in groups:
            self._quotes.pop(group.id, None)
            for key, found in self._costs_of(group):
                costs.setdefault(key, []).extend(found)
        for key, found in sorted(costs.items()):
            before = self._costs.get(key, mean(found))
            self._costs[key] = before + _NEW_WEIGHT * (mean(found) - before)
        for cell, effort in sorted(_parts(costs)) if not is_free else ():
            share = self._section.shares.get(effort)
            spent, full = self._spent(cell, effort)
            if share is None or not full:
                continue
            key, rise = _key(cell, effort), self._section.price_step * (spent / (share * full) - 1)
            self._prices[key] = min(max(self._prices.get(key, 0.0) + rise, 0.0), self._section.price_most)

    def _quote(self, trajectory: Trajectory) -> _Quote:
        cell, effort = trajectory.task.cell, effort_of(trajectory)
        keys: dict[Mode | None, str] = {None: _key(cell, effort)}
        if effort is Effort.AUTO:
            keys |= {mode: _key(cell, effort, mode) for mode in Mode}
        return _Quote(
            price=self._prices.get(_key(_ALL if effort is Effort.AUTO else cell, effort), 0.0),
            costs={mode: self._costs[key] for mode, key in keys.items() if key in self._costs},
        )

    def _costs_of(self, group: Group) -> Iterable[tuple[str, list[float]]]:
        """At `auto` what it costs as the policy itself chooses, and what either mode costs."""
        by_effort = dict[Effort, list[Attempt]]()
        for attempt in group.trusted:
            by_effort.setdefault(effort_of(attempt.trajectory), []).append(attempt)
        for effort, own in by_effort.items():
            found = [self._section.cost(attempt.trajectory) for attempt in own]
            if effort is not Effort.AUTO:
                yield _key(group.task.cell, effort), found
                continue
            chosen = Modes.of(group).mean(lambda each: self._section.cost(each.trajectory))
            yield _key(group.task.cell, effort), [chosen] * len(own)
            for mode in Mode:
                part = [
                    cost for cost, each in zip(found, own, strict=True) if mode_of(each.trajectory) is mode
                ]
                if part:
                    yield _key(group.task.cell, effort, mode), part

    def _spent(self, cell: str, effort: Effort) -> tuple[float, float]:
        """What the effort and `high` cost in the cell; for all cells, in those that have both."""
        if cell != _ALL:
            return self._costs[_key(cell, effort)], self._costs.get(_key(cell, Effort.HIGH), 0.0)
        pairs = [
            (cost, self._costs[high])
            for key, cost in sorted(self._costs.items())
            if key.endswith(f"/{effort}")
            and (high := _key(key.removesuffix(f"/{effort}"), Effort.HIGH)) in self._costs
        ]
        return sum(cost for cost, _ in pairs), sum(high for _, high in pairs)

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


def _key(cell: str, effort: Effort, mode: Mode | None = None) -> str:
    return f"{cell}/{effort}" + (f"/{mode}" if mode else "")


def _parts(costs: Iterable[str]) -> set[tuple[str, Effort]]:
    """Cells and efforts whose prices move."""
    efforts = tuple(map(str, Effort))
    found = [key.rpartition("/") for key in costs if key.endswith(efforts)]
    return {(_ALL if effort == Effort.AUTO else cell, Effort(effort)) for cell, _, effort in found}
