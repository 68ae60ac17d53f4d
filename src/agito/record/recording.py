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
from agito.record.answers import Answers, named
from agito.record.files import write_atomically
from agito.record.outcomes import Outcome, read_outcomes
from agito.record.reading import read_trajectories
from agito.types import Attempt

SERVED = "served"  # phase, split and family of what it holds
_ABOUT = "recording.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """`outcomes`: by the conversation's group, and by the turn that is the answer each is of.
    `num_strange`: of outcomes whose answer is not here.
    """

    vocabulary: str
    attempts: tuple[Attempt, ...]
    outcomes: Mapping[int, Mapping[int, Outcome]]
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
    """Each conversation once, as it was last written. An outcome replaces what was said before of the same
    answer, and of those before and behind it, as long as no client went on from one of them in two ways.
    That of a session is of the answer that was given last in each of its conversations. Raises
    `BadEnvironment`.
    """
    latest = dict[int, Attempt]()
    places = dict[str, dict[int, int | None]]()  # turns by answer and conversation: a part names only its own
    for path in sorted(folder.glob(f"{SERVED}-*.parquet")):
        for each in read_trajectories(path):
            trajectory = each.attempt.trajectory
            latest[trajectory.attempt.group] = each.attempt
            for name, turn in named(trajectory).items():
                places.setdefault(name, {})[trajectory.attempt.group] = turn
    answers = {group: Answers(attempt.trajectory) for group, attempt in latest.items()}
    sessions = dict[str, list[int]]()
    for group, attempt in latest.items():
        for name in {each.agent for each in attempt.trajectory.segments if each.agent != each.role}:
            sessions.setdefault(name, []).append(group)
    outcomes, num_strange = dict[int, dict[int, Outcome]](), 0
    for each in read_outcomes(folder):
        meant = (
            [(group, answers[group].end_of(turn)) for group, turn in places.get(each.answer, {}).items()]
            if each.answer
            else [(group, answers[group].last_of(each.session)) for group in sessions.get(each.session, ())]
        )
        num_strange += all(turn is None for _, turn in meant)
        for group, turn in meant:
            if turn is not None:
                outcomes.setdefault(group, {})[turn] = each.outcome
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
