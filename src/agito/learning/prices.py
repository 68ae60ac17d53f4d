"""What an attempt pays, in reward: for its thinking, and for its critical path.

**Thinking.** An effort is a declared share of `high`'s mean cost in the same cell. Its price rises while the
effort costs more than that, and falls while it costs less, never below zero. A fixed price would depend on
units, and reaches some shares not at all. `auto` has one price over all cells: where to think is its own to
decide.

**Critical path.** Tokens that are sampled one after the other are paid for in proportion to the mean of those
attempts of the cell that earned something. So the price needs no unit: to shorten the path by a tenth is
worth as much in any cell, by any tokenizer. One agent and a team pay alike.

Whoever earned the environment's lowest reward pays what the mean costs, of either: to fail briefly is no
better than to fail at length. Nobody pays so much that to earn nothing would have been better. A group is
asked for one price and keeps it: its attempts are compared with one another, however prices move between the
first that ends and the last.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agito.errors import CorruptCheckpoint
from agito.learning.effort import EffortSection
from agito.learning.modes import Modes, effort_of, mode_of
from agito.types import Attempt, Effort, Group, Json, Mode, Trajectory, mean

_NEW_WEIGHT = 0.3  # of a step's mean
_ALL = "all"  # cells, in the key of the price of `auto`


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quote:
    """A group's price of a think token; what its effort costs on average, by mode at `auto`; and the mean
    tokens on its critical path, 0 while there is no mean."""

    price: float
    costs: Mapping[Mode | None, float]
    path: float


class Prices:
    """By cell and effort. Checkpoints carry their state; groups that are begun anew after a resume are quoted
    anew."""

    def __init__(self, section: EffortSection, *, critical: float = 0.0, lowest: float = 0.0) -> None:
        """`critical`: what a critical path of mean length costs, in reward; the first step has no mean yet,
        and pays nothing. `lowest`: the environment's lowest reward."""
        self._section, self._critical, self._lowest = section, critical, lowest
        self._prices, self._costs = dict[str, float](), dict[str, float]()
        self._paths = dict[str, float]()  # mean tokens on the critical path
        self._quotes = dict[int, _Quote]()  # by group, until it is learned from

    @property
    def are_on(self) -> bool:
        """Whether anything may come to cost anything."""
        return self._section.is_on or self._critical > 0

    def of(self, attempt: Attempt) -> float:
        """What an attempt pays at the prices of now, in reward."""
        return self._paid(attempt, self._quote(attempt.trajectory))

    def in_group(self, attempt: Attempt) -> float:
        """The same, at the prices that its group was asked for when the first of its attempts had ended."""
        group, trajectory = attempt.trajectory.attempt.group, attempt.trajectory
        if not trajectory.turns:  # at which effort, nobody knows
            return self._paid(attempt, self._quotes.get(group) or self._quote(trajectory))
        return self._paid(attempt, self._quotes.setdefault(group, self._quote(trajectory)))

    def _paid(self, attempt: Attempt, quote: _Quote) -> float:
        return self._of_thinking(attempt, quote) + self._of_path(attempt, quote)

    def _of_thinking(self, attempt: Attempt, quote: _Quote) -> float:
        """λ·C, for think tokens, calls and turns, but never so much that to earn nothing would have been
        better."""
        if not quote.price:
            return 0.0
        own = self._section.cost(attempt.trajectory)
        mean_cost = quote.costs.get(mode_of(attempt.trajectory), own)
        if not self._earns(attempt):
            return quote.price * mean_cost
        earned = attempt.verdict.reward - self._lowest
        return min(quote.price * own, quote.price * mean_cost + earned)

    def _of_path(self, attempt: Attempt, quote: _Quote) -> float:
        """In proportion to its critical path, but never so much that to earn nothing would have been
        better."""
        if not quote.path or not self._earns(attempt):
            return self._critical if quote.path else 0.0
        earned = attempt.verdict.reward - self._lowest
        return min(self._critical * attempt.trajectory.num_critical / quote.path, self._critical + earned)

    def _earns(self, attempt: Attempt) -> bool:
        return attempt.verdict.reward > self._lowest

    def update(self, groups: Iterable[Group], *, is_free: bool) -> None:
        """From a step's trusted attempts. `is_free`: what thinking costs is followed, and its price stays at
        zero."""
        costs, paths = dict[str, list[float]](), dict[str, list[float]]()
        for group in groups:
            self._quotes.pop(group.id, None)
            for key, found in self._costs_of(group):
                costs.setdefault(key, []).extend(found)
            for attempt in filter(self._earns, group.trusted if self._critical else ()):
                key = _key(group.task.cell, effort_of(attempt.trajectory))
                paths.setdefault(key, []).append(float(attempt.trajectory.num_critical))
        _follow(self._costs, costs)
        _follow(self._paths, paths)
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
            path=self._paths.get(_key(cell, effort), 0.0),
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
            yield _key(group.task.cell, effort), found if math.isnan(chosen) else [chosen] * len(own)
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

    def metrics(self, groups: Iterable[Group]) -> dict[str, float]:
        """Mean price and mean cost of each effort and the mean critical path, over cells; and what these
        groups' attempts paid."""
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


def _key(cell: str, effort: Effort, mode: Mode | None = None) -> str:
    return f"{cell}/{effort}" + (f"/{mode}" if mode else "")


def _parts(costs: Iterable[str]) -> set[tuple[str, Effort]]:
    """Cells and efforts whose prices move."""
    efforts = tuple(map(str, Effort))
    found = [key.rpartition("/") for key in costs if key.endswith(efforts)]
    return {(_ALL if effort == Effort.AUTO else cell, Effort(effort)) for cell, _, effort in found}
