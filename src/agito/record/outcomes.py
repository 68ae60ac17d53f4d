"""How conversations turned out, as whoever had them says so: a reward, whether it was a success, or both."""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agito.errors import BadEnvironment
from agito.record.files import disk_full, reports_full_disk
from agito.types import Json

OUTCOMES = "outcomes.jsonl"  # beside the conversations
MOST_SESSION = 80  # characters of its name that count, as a gateway keeps no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """At least one of them is given."""

    reward: float | None = None
    success: bool | None = None

    def passes(self, least_reward: float | None) -> bool:
        """Without `least_reward`: whether it was a success, which a reward of 1 is where nothing else is
        said. A success without a reward is one of 1, a failure one of 0.
        """
        reward = float(bool(self.success)) if self.reward is None else self.reward
        if least_reward is not None:
            return reward >= least_reward
        return reward >= 1.0 if self.success is None else self.success


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """An outcome, and whose it is: that of the conversation with this answer, or of all of one session."""

    outcome: Outcome
    answer: str = ""
    session: str = ""


def outcome_of(raw: Mapping[str, object]) -> Outcome | None:
    """By `reward` and `success`; None without either. Raises `ValueError` for what is neither."""
    reward, success = raw.get("reward"), raw.get("success")
    if reward is None and success is None:
        return None
    if reward is not None and (
        isinstance(reward, bool) or not isinstance(reward, int | float) or not math.isfinite(reward)
    ):
        raise ValueError(f"reward: a finite number, not {reward!r}")
    if success is not None and success not in (0, 1):
        raise ValueError(f"success: true or false, not {success!r}")
    return Outcome(
        reward=None if reward is None else float(reward), success=None if success is None else bool(success)
    )


def reported(raw: Json) -> Reported:
    """Raises `ValueError` unless it says whose outcome it is, and which."""
    if not isinstance(raw, dict):
        raise ValueError("an outcome is an object")
    if unknown := sorted(raw.keys() - {"id", "session", "reward", "success"}):
        raise ValueError(f"{unknown[0]}: an outcome has an id or a session, and a reward or success")
    answer, session = raw.get("id", ""), raw.get("session", "")
    if not isinstance(answer, str) or not isinstance(session, str) or bool(answer) is bool(session):
        raise ValueError("give either the id of an answer, or a session")
    outcome = outcome_of(raw)
    if outcome is None:
        raise ValueError("give a reward, or success")
    name = answer_name(answer) if answer else ""
    return Reported(outcome=outcome, answer=name, session=session[:MOST_SESSION])


def answer_name(answer: str, choice: int = 0) -> str:
    """An answer with one of its choices; the first where none is named."""
    return answer if "/" in answer else f"{answer}/{choice}"


def report_outcome(folder: Path, raw: Json) -> None:
    """Appends it in one write. Raises `ValueError` for what is no outcome, and `DiskFull`, with the file as
    it was.
    """
    reported(raw)
    path = folder / OUTCOMES
    line = json.dumps(raw, ensure_ascii=True).encode() + b"\n"
    with reports_full_disk(path), path.open("ab", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        if file.write(line) != len(line):
            file.truncate(size)
            raise disk_full(path)


def read_outcomes(folder: Path) -> list[Reported]:
    """In the order in which they were reported; none where nobody did. Raises `BadEnvironment`, which names
    the line.
    """
    path, found = folder / OUTCOMES, list[Reported]()
    lines = path.read_text(encoding="utf-8-sig").splitlines() if path.exists() else []
    for at, line in enumerate(lines, 1):
        try:
            found += [reported(json.loads(line))] if line.strip() else []
        except (ValueError, RecursionError) as error:
            raise BadEnvironment(f"{path}, line {at}: {error}") from None
    return found
