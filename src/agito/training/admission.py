"""Whether an environment may be trained on: its card, and the gates on it.

A card is found by the environment's digest: the person's own (made by an earlier audit on this machine), else
the one that Agito ships. Where there is none, a short audit makes one and keeps it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from shlex import quote

import anyio

from agito.audit import FULL, SHORT, Card, Depth, audit, digest_of, needed_splits, read_card
from agito.envs import load
from agito.errors import NotAdmitted
from agito.plugins import shown
from agito.protocols import Environment
from agito.types import Json

SHIPPED = Path(__file__).parents[1] / "audit" / "cards"


class Source(StrEnum):
    """Where a card came from."""

    OWN = "own"  # an earlier audit on this machine
    SHIPPED = "shipped"
    AUDITED = "audited"  # just now
    NONE = "none"  # admitted anyway, unseen


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """Why a run may train on its environment. Written into the run."""

    digest: str
    source: Source
    failed: tuple[str, ...] = ()  # gates
    anyway: bool = False
    doubts: tuple[str, ...] = ()  # gates that hold and are worth a look

    def to_json(self) -> dict[str, Json]:
        return {
            "digest": self.digest,
            "card": str(self.source),
            "failed": list(self.failed),
            "anyway": self.anyway,
        }


async def admit(
    *names: str,
    anyway: bool = False,
    begins: Callable[[str], None] = lambda name: None,
    depth: Depth = SHORT,
) -> Admission:
    """One environment, or all of a mixture. Raises `NotAdmitted` with every gate that does not hold, unless
    `anyway`.

    With `anyway` nothing is audited; what a card says that is there already is noted. `begins` is called
    before an audit.
    """
    each = [await _admit(name, anyway, begins, depth) for name in names]
    if len(each) == 1:
        return each[0]
    failed = tuple(f"{name}: {gate}" for name, one in zip(names, each, strict=True) for gate in one.failed)
    weakest = max((one.source for one in each), key=list(Source).index)
    return Admission(
        digest="+".join(one.digest for one in each),
        source=weakest,
        failed=failed,
        anyway=any(one.anyway for one in each),
        doubts=tuple(doubt for one in each for doubt in one.doubts),
    )


async def admit_again(path: Path, names: Sequence[str], begun_with: Json) -> None:
    """Raises `NotAdmitted` when the source is not the one that the run in `path` began with."""
    now = await admit(*names, anyway=True)
    if isinstance(begun_with, dict) and begun_with["digest"] != now.digest:
        raise NotAdmitted(
            f"{path}: the source of {', '.join(names)} is not what this run began with, so its tasks may be "
            "others.\n"
            f"  Go back to that source, or begin anew: agito train {quote(str(path / 'config.toml'))}"
        )


async def _admit(name: str, anyway: bool, begins: Callable[[str], None], depth: Depth) -> Admission:
    environment = load(name)
    try:
        missing = [split for split in needed_splits(environment) if split not in environment.splits]
        if missing and not anyway:
            raise NotAdmitted(without_splits(name, environment, missing))
        digest = digest_of(environment)
        card, source = known_card(environment)
    finally:
        with anyio.CancelScope(shield=True):
            await environment.aclose()
    if card is None and not anyway:
        begins(name)
        card, source = await audit(lambda: load(name), depth=depth), Source.AUDITED
        keep(card)
    failed = [gate.name for gate in card.failed] if card else ["splits"] if missing else []
    if failed and not anyway:
        raise NotAdmitted(refusal(name, card))
    return Admission(
        digest=digest,
        source=source,
        failed=tuple(failed),
        anyway=anyway and (card is None or bool(failed)),
        doubts=tuple(
            f"{shown(name)} is worth a look before it is trained on for long: {gate.found}"
            for gate in (card.gates if card else ())
            if gate.holds and gate.doubt
        ),
    )


def without_splits(name: str, environment: Environment, missing: Sequence[str]) -> str:
    """Said before anything is audited: training would notice after it has trained, when it evaluates."""
    return (
        f"environment {shown(name)} has the splits {', '.join(environment.splits)} and lacks "
        f"{', '.join(missing)}. Remedy: let "
        "`splits` and `task()` know train, heldout (other seeds) and structural (another structure, such "
        "as other parts). To train all "
        "the same, with a note in the run: --admit-anyway"
    )


def refusal(name: str, card: Card | None) -> str:
    """Which gates do not hold, and what to do about each."""
    failed = card.failed if card else ()
    raised = [f"  It raised, {case.where}: {case.what}" for case in card.broke[:3]] if card else []
    lines = [f"  {gate.name}: {gate.found}. Remedy: {gate.remedy}." for gate in failed]
    return "\n".join(
        [
            f"environment {shown(name)} is not fit to train on: {', '.join(gate.name for gate in failed)}",
            *raised,
            *lines,
            f"  Look at the cases: agito audit {quote(shown(name))}. To train all the same, with a note in "
            "the run: --admit-anyway",
        ]
    )


def known_card(environment: Environment) -> tuple[Card | None, Source]:
    """The person's own card of this very source, else the shipped one."""
    digest = digest_of(environment)
    own = read_card(cache() / f"{digest}.json")
    if own is not None:
        return own, Source.OWN
    for path in sorted(SHIPPED.glob("*.json")):
        card = read_card(path)
        if card is not None and card.digest == digest:
            return card, Source.SHIPPED
    return None, Source.NONE


def keep(card: Card) -> bool:
    """Among the person's own cards; whether it is there now. Where these cannot be written, the next run
    audits again. A short audit takes the place of a full one only when it found what that had not.
    """
    path = cache() / f"{card.digest}.json"
    there = read_card(path)
    if (
        there is not None
        and there.depth == FULL.name != card.depth
        and {gate.name for gate in card.failed} <= {g.name for g in there.failed}
    ):
        return False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_bytes(card.to_json())
        beside.replace(path)
    except OSError:
        return False
    return True


def cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "agito" / "cards"
