"""Assigns groups of attempts to engines so that loads stay balanced."""

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
    """The engine of a group's running attempts, and the kind of each."""

    engine: int
    out: dict[AttemptId, Hashable] = field(default_factory=dict[AttemptId, Hashable])


class Balance:
    """A group goes to the engine with the smallest load: the tokens that its attempts are expected to take.

    An attempt is expected to take the average of its kind (such as a cell of the task space) so far; until
    one has ended, the average of all. Nothing depends on a clock or a count of groups: ties are broken at
    random, so that cells which arrive in turn are spread evenly too. All attempts of a group go to one
    engine, which computes their prompt once.
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
        """Records an attempt's end; `tokens` were read and sampled in it."""
        home = self._homes[attempt.group]
        kind = home.out.pop(attempt)
        self._out[home.engine][kind] -= 1
        self._took.setdefault(kind, _Mean()).add(tokens)
        self._took_any.add(tokens)
        if not home.out:
            del self._homes[attempt.group]

    def load(self, engine: int) -> float:
        """Tokens that its attempts are expected to take."""
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
