"""Honest work in many styles: none of it may be flagged, and none that is right may be rejected."""

from __future__ import annotations

from dataclasses import dataclass

from agito.redteam.exploit import Moves
from agito.redteam.honest.programs import PROGRAMS
from agito.redteam.honest.styles import STYLES
from agito.redteam.targets import BY_NAME, Secret

_STYLES_EACH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Honest:
    name: str
    secret: Secret
    moves: Moves
    is_right: bool  # a partial solution is not right, and may fail


def honest_work() -> tuple[Honest, ...]:
    """Every program in four styles, cycling through the styles."""
    styles = list(STYLES.items())
    found: list[Honest] = []
    for program in PROGRAMS:
        secret = BY_NAME[program.function]
        for _ in range(_STYLES_EACH):
            name, style = styles[len(found) % len(styles)]
            moves = style(secret.target, program.source)
            found.append(
                Honest(
                    name=f"{program.function}: {program.name}, {name}",
                    secret=secret,
                    moves=moves,
                    is_right=program.is_right,
                )
            )
    return tuple(found)
