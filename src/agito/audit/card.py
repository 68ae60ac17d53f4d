"""An environment's card: eight qualities in numbers, the gates that training insists on, and the cases that
failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

SCHEMA = 2  # of a card's JSON
MAX_CASES = 12  # of one quality that the card keeps


class Mark(StrEnum):
    """What a quality comes to."""

    GOOD = "good"
    DOUBT = "doubt"  # worth a look; nothing that training refuses
    BAD = "bad"  # a gate does not hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One number. None: there was nothing to measure it on."""

    name: str
    value: float | None
    low: float | None = None  # of the 95 % interval, where the number has one
    high: float | None = None
    num: int = 0  # what it was measured on
    unit: str = ""  # such as "ms"; empty: a share or a count
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What an environment must keep to be trained on."""

    name: str
    value: float | None
    limit: float
    holds: bool
    found: str  # one line
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Something that failed, so that a person can look at it."""

    what: str
    where: str = ""  # such as a task's id


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    name: str
    mark: Mark
    says: str  # one line
    measures: tuple[Measure, ...]
    gates: tuple[Gate, ...] = ()
    cases: tuple[Case, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What an audit found. It speaks of the environment whose `digest` it carries and of no other."""

    schema: int = SCHEMA
    environment: str
    version: str
    digest: str
    chance_level: float
    depth: str  # "short" or "full"
    seconds: float
    episodes: int
    seed: int
    machine: Mapping[str, str]
    # what the environment raised in honest episodes, with its place, and how often
    broke: tuple[Case, ...] = ()
    qualities: tuple[Quality, ...]

    @property
    def gates(self) -> tuple[Gate, ...]:
        return tuple(gate for quality in self.qualities for gate in quality.gates)

    @property
    def failed(self) -> tuple[Gate, ...]:
        """Training refuses the environment while there are any."""
        return tuple(gate for gate in self.gates if not gate.holds)

    def measure(self, quality: str, name: str) -> Measure:
        """Raises `KeyError`."""
        for each in self.qualities:
            for measure in each.measures:
                if (each.name, measure.name) == (quality, name):
                    return measure
        raise KeyError(f"{quality}/{name}")

    def to_json(self) -> bytes:
        return _ADAPTER.dump_json(self, indent=1) + b"\n"


_ADAPTER: TypeAdapter[Card] = TypeAdapter(Card)


def read_card(path: Path) -> Card | None:
    """None when there is no card, or one that this version of Agito does not understand."""
    try:
        card = _ADAPTER.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return card if card.schema == SCHEMA else None


def judged(
    name: str,
    says: str,
    measures: tuple[Measure, ...],
    gates: tuple[Gate, ...],
    cases: list[Case],
    *,
    doubt: bool,
) -> Quality:
    """Bad when a gate does not hold; doubtful when the audit says so."""
    is_bad = not all(gate.holds for gate in gates)
    mark = Mark.BAD if is_bad else Mark.DOUBT if doubt else Mark.GOOD
    return Quality(
        name=name, mark=mark, says=says, measures=measures, gates=gates, cases=tuple(cases[:MAX_CASES])
    )


def with_gates(quality: Quality, gates: Sequence[Gate], cases: Sequence[Case]) -> Quality:
    """The same quality, which these decide too; their cases come first."""
    first = [case for case in cases if case not in quality.cases]
    whole = judged(
        quality.name,
        quality.says,
        quality.measures,
        (*quality.gates, *gates),
        [*first, *quality.cases],
        doubt=quality.mark is Mark.DOUBT,
    )
    return whole if whole.mark is Mark.BAD or quality.mark is not Mark.BAD else replace(whole, mark=Mark.BAD)
