"""Which of several engines a group of attempts goes to, so that none has more to do than the others."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

from agito.types import AttemptId


@dataclass(slots=True)
class _Mean:
    num: int = 0
    total: int = 0

    def add(self, value: int) -> None:
        self.num += 1
        self.total += value


@dataclass(slots=True)
class _Home:
    """Where a group's attempts are that are out, and of what kind each is."""

    engine: int
    out: dict[AttemptId, Hashable] = field(default_factory=dict[AttemptId, Hashable])


class Balance:
    """A group goes to the engine with the least to do: the tokens that the attempts there are expected to
    take.

    An attempt is expected to take what those of its kind, a cell of the task space, say, took on average so
    far; until one has ended, what any took. Nothing here looks at a clock or counts groups off: engines that
    have the same to do are chosen by lot, so that cells that come in turn are dealt out evenly too. All
    attempts of a group go to one engine, where its prompt is computed once.
    """

    def __init__(self, engines: int, *, rows: int) -> None:
        """An engine with `rows` attempts is full, and gets more only when all are."""
        if engines < 1 or rows < 1:
            raise ValueError(f"engines={engines}, rows={rows}: need at least one of each")
        self._rows = rows
        self._homes: dict[int, _Home] = {}  # by group
        self._out = [Counter[Hashable]() for _ in range(engines)]  # attempts by kind
        self._took: dict[Hashable, _Mean] = {}
        self._took_any = _Mean()

    def place(self, attempt: AttemptId, kind: Hashable = None) -> int:
        """The engine for an attempt that starts now."""
        home = self._homes.get(attempt.group)
        if home is None:
            engine = min(range(len(self._out)), key=lambda engine: self._standing(engine, attempt.group))
            home = self._homes[attempt.group] = _Home(engine)
        home.out[attempt] = kind
        self._out[home.engine][kind] += 1
        return home.engine

    def ended(self, attempt: AttemptId, tokens: int) -> None:
        """It is over; so many tokens were read and sampled in it."""
        home = self._homes[attempt.group]
        kind = home.out.pop(attempt)
        self._out[home.engine][kind] -= 1
        self._took.setdefault(kind, _Mean()).add(tokens)
        self._took_any.add(tokens)
        if not home.out:
            del self._homes[attempt.group]

    def load(self, engine: int) -> float:
        """Tokens that the attempts there are expected to take."""
        return sum(num * self._expected(kind) for kind, num in self._out[engine].items())

    def _expected(self, kind: Hashable) -> float:
        mean = self._took.get(kind, self._took_any)
        return mean.total / mean.num if mean.num else 1.0

    def _standing(self, engine: int, group: int) -> tuple[bool, float, float]:
        return (
            self._out[engine].total() >= self._rows,
            self.load(engine),
            random.Random(f"balance/{group}/{engine}").random(),
        )
