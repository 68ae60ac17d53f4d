"""Ways out of an episode: rates of attempts that end void, with proof of cheating, or by a report, compared
with scripts.

A policy that learns to leave when it is about to fail shows here first. Voids are also counted by cell,
including tries that were repeated: where episodes often end void, what is learned depends on which survive.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

from agito.monitor.detector import HackRate
from agito.monitor.evidence import is_report, proofs
from agito.types import Attempt, Json

Exit: TypeAlias = Literal["void", "proof", "report"]
EXITS: tuple[Exit, ...] = ("void", "proof", "report")
_WORDS: Mapping[Exit, str] = {"void": "end void", "proof": "are proved to cheat", "report": "report a flaw"}
_FEW = 3  # voids of a cell that may be chance


class ExitRates:
    """Add scripted attempts first, then the policy's, in an order that depends only on content."""

    def __init__(self, *, void_limit: float) -> None:
        self._void_limit = void_limit
        self._scripts: Counter[str] = Counter()
        self._policy: Counter[str] = Counter()
        self._by_cell: dict[str, list[int]] = {}  # tries, voids
        self._detectors: dict[Exit, HackRate] = {}

    def add_scripts(self, attempts: Iterable[Attempt]) -> None:
        """Call before adding any of the policy's attempts."""
        for attempt in attempts:
            self._count(self._scripts, attempt)

    def add(self, attempt: Attempt) -> Exit | None:
        """The way out whose rate is now found to exceed that of the scripts, if any."""
        if not self._detectors:
            self._detectors = {way: HackRate(limit=2 * self.allowed(way), share=0.0) for way in EXITS}
        cell = self._by_cell.setdefault(attempt.trajectory.task.cell, [0, 0])
        for way, happened in self._count(self._policy, attempt):
            cell[0] += way == "void"
            cell[1] += way == "void" and happened
            self._detectors[way].add(float(happened))
        return next((way for way, detector in self._detectors.items() if detector.is_high), None)

    @property
    def since(self) -> int:
        """Attempts since a rate last began to rise, as `HackRate.since`."""
        return max((detector.since for detector in self._detectors.values()), default=0)

    def allowed(self, way: Exit) -> float:
        """The highest rate compatible with the scripts': three standard errors above theirs, and at least the
        void limit.
        """
        num = self._scripts["tries" if way == "void" else "scored"]
        rate = (self._scripts[way] + 1) / (num + 2)
        return min(
            max(rate + 3 * math.sqrt(rate * (1 - rate) / (num + 2)) if num else 0.0, self._void_limit), 0.45
        )

    def ratio(self, way: Exit, *, of_scripts: bool = False) -> float:
        """NaN before the first attempt."""
        counts = self._scripts if of_scripts else self._policy
        num = counts["tries" if way == "void" else "scored"]
        return counts[way] / num if num else math.nan

    def said(self, way: Exit) -> str:
        """Why the alarm was raised."""
        recent = self._detectors[way].ratio if way in self._detectors else math.nan
        scripts = self.ratio(way, of_scripts=True)
        beside = f", {scripts:.1%} of the scripts' did" if math.isfinite(scripts) else ""
        return (
            f"{recent:.1%} of the policy's last attempts {_WORDS[way]}{beside}: it may have found a way out"
        )

    @property
    def stopped(self) -> dict[str, tuple[int, int]]:
        """Cells excluded from learning until a person has looked: voids and tries."""
        return {
            cell: (voids, tries)
            for cell, (tries, voids) in self._by_cell.items()
            if voids >= _FEW and voids > self._void_limit * tries
        }

    def to_json(self) -> dict[str, Json]:
        return {
            "scripts": dict(self._scripts),
            "policy": dict(self._policy),
            "cells": {name: list(pair) for name, pair in self._by_cell.items()},
            "detectors": {way: detector.to_json() for way, detector in self._detectors.items()},
        }

    def restore(self, data: Mapping[str, Json]) -> None:
        """Restores what `to_json` gave. Raises `AssertionError`, `KeyError` or `ValueError` for anything
        else.
        """
        scripts, policy, cells, detectors = (
            data[name] for name in ("scripts", "policy", "cells", "detectors")
        )
        assert (
            isinstance(scripts, dict)
            and isinstance(policy, dict)
            and isinstance(cells, dict)
            and isinstance(detectors, dict)
        )
        self._scripts, self._policy = (
            Counter({name: int(str(num)) for name, num in each.items()}) for each in (scripts, policy)
        )
        self._by_cell = {
            name: [int(str(each)) for each in pair] for name, pair in cells.items() if isinstance(pair, list)
        }
        self._detectors = {}
        for way in EXITS if detectors else ():
            state = detectors[way]
            assert isinstance(state, dict)
            self._detectors[way] = HackRate(limit=2 * self.allowed(way), share=0.0)
            self._detectors[way].restore(state)

    def _count(self, counts: Counter[str], attempt: Attempt) -> list[tuple[Exit, bool]]:
        """The outcome of every try of the slot; the earlier ones were void."""
        tries = attempt.trajectory.attempt.tries
        happened: list[tuple[Exit, bool]] = [("void", True) for _ in range(tries)]
        happened.append(("void", not attempt.is_scored))
        counts["tries"] += tries + 1
        if attempt.is_scored:
            counts["scored"] += 1
            happened.append(("proof", bool(proofs(attempt.verdict))))
            happened.append(("report", is_report(attempt.trajectory)))
        for way, is_so in happened:
            counts[way] += is_so
        return happened
