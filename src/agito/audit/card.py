"""An environment's card: eight measured qualities, the gates that training insists on, and the
failed cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from textwrap import shorten

from pydantic import TypeAdapter, ValidationError

SCHEMA = 2  # version of the card's JSON
MAX_CASES = 12  # kept per quality


class Mark(StrEnum):
    """The overall result of a quality."""

    GOOD = "good"
    DOUBT = "doubt"  # worth a look, but training is not refused
    BAD = "bad"  # a gate fails


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One number; `value` is None if there was nothing to measure."""

    name: str
    value: float | None
    low: float | None = None  # of the 95 % interval, if the number has one
    high: float | None = None
    num: int = 0  # sample size
    unit: str = ""  # such as "ms"; empty for a share or a count
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A condition that an environment must meet to be trained on."""

    name: str
    value: float | None
    limit: float
    holds: bool
    found: str  # one line
    remedy: str
    doubt: str = ""  # why it is worth a look although it holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One failure, recorded so that a person can look at it."""

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
    """The result of an audit. It is valid only for the environment with this `digest`."""

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
    # exceptions raised by the environment in honest episodes: where and how often
    broke: tuple[Case, ...] = ()
    qualities: tuple[Quality, ...]

    @property
    def gates(self) -> tuple[Gate, ...]:
        return tuple(gate for quality in self.qualities for gate in quality.gates)

    @property
    def failed(self) -> tuple[Gate, ...]:
        """Gates that fail; training refuses the environment while there are any."""
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
    """None if there is no card, or its schema version is not this one."""
    try:
        card = _ADAPTER.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return card if card.schema == SCHEMA else None


def clipped(text: str, most: int) -> str:
    """On one line, cut between words."""
    return shorten(text, most, placeholder=" …")


def judged(
    name: str,
    says: str,
    measures: tuple[Measure, ...],
    gates: tuple[Gate, ...],
    cases: list[Case],
    *,
    doubt: bool,
) -> Quality:
    """Builds a quality: bad if a gate fails, doubtful if `doubt`, else good."""
    is_bad = not all(gate.holds for gate in gates)
    mark = Mark.BAD if is_bad else Mark.DOUBT if doubt else Mark.GOOD
    return Quality(
        name=name, mark=mark, says=says, measures=measures, gates=gates, cases=tuple(cases[:MAX_CASES])
    )


def with_gates(quality: Quality, gates: Sequence[Gate], cases: Sequence[Case]) -> Quality:
    """The same quality with more gates; their cases come first."""
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
