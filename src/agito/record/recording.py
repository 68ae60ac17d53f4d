"""What a gateway served, in a folder: conversations as trajectories, their outcomes, and whose vocabulary
their tokens are of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agito.errors import AgitoError, BadEnvironment
from agito.protocols import Renderer
from agito.record.files import write_atomically
from agito.record.outcomes import Outcome, read_outcomes
from agito.record.reading import read_trajectories
from agito.types import Attempt

SERVED = "served"  # phase, split and family of what it holds
_ABOUT = "recording.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """`outcomes`: by the conversation's group. `num_strange`: of outcomes whose conversation is not here."""

    vocabulary: str
    attempts: tuple[Attempt, ...]
    outcomes: Mapping[int, Outcome]
    num_strange: int


def vocabulary_of(renderer: Renderer) -> str:
    """Equal for policies whose tokens mean the same, and whose conversations are written in one format."""
    said = json.dumps([renderer.dialect.value, sorted(renderer.files().items())])
    return hashlib.blake2b(said.encode("utf-8", "replace"), digest_size=16).hexdigest()


def is_recording(folder: Path) -> bool:
    return (folder / _ABOUT).is_file()


def begin(folder: Path, renderer: Renderer) -> None:
    """Makes the folder of a recording, or goes on with it. Raises `AgitoError` for one of another model's,
    and `OSError` for one that cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = vocabulary_of(renderer)
    if not is_recording(folder):
        write_atomically(folder / _ABOUT, json.dumps({"version": 1, "vocabulary": own}).encode())
    elif _vocabulary(folder) != own:
        raise AgitoError(f"{folder}: holds what a model of another vocabulary served; choose another folder")


def read(folder: Path) -> Recording:
    """Each conversation once, as it was last written. Raises `BadEnvironment`."""
    latest = dict[int, Attempt]()
    names = dict[int, set[str]]()  # of answers, by conversation: a later part names only its own
    for path in sorted(folder.glob(f"{SERVED}-*.parquet")):
        for each in read_trajectories(path):
            trajectory = each.attempt.trajectory
            latest[trajectory.attempt.group] = each.attempt
            names.setdefault(trajectory.attempt.group, set()).update(trajectory.task.tags)
    sessions = {
        group: {segment.agent for segment in attempt.trajectory.segments if segment.agent != segment.role}
        for group, attempt in latest.items()
    }
    outcomes, num_strange = dict[int, Outcome](), 0
    for each in read_outcomes(folder):
        meant = (
            [group for group, found in names.items() if each.answer in found]
            if each.answer
            else [group for group, found in sessions.items() if each.session in found]
        )
        num_strange += not meant
        outcomes |= dict.fromkeys(meant, each.outcome)
    return Recording(
        vocabulary=_vocabulary(folder),
        attempts=tuple(latest.values()),
        outcomes=outcomes,
        num_strange=num_strange,
    )


def _vocabulary(folder: Path) -> str:
    try:
        return str(json.loads((folder / _ABOUT).read_text())["vocabulary"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadEnvironment(f"{folder / _ABOUT}: cannot be read: {error}") from error
