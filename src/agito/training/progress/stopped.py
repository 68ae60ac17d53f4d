"""What to say of a run that has come to a halt: where, what is kept of it, and how to go on."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from agito.record import RunDir, RunState
from agito.record.commits import load_meta, newest
from agito.training.progress.board import RunProgress


def stopped(board: RunProgress, path: Path, *, interrupted: bool) -> str:
    """Empty where there is nothing to go on with: no run is there, or it has ended."""
    if RunDir.state(path) is not RunState.UNFINISHED:
        return ""
    now = board.current
    begun = "" if board.has_begun else " before its first phase"
    at = f" in {now.title}, {now.done}/{now.total}" if now else begun
    how = "To go on" if interrupted else "Once its cause is mended"
    return f"stopped{at}; {_committed(path)}. {how}: {resume_command(path)}"


def resume_command(path: Path) -> str:
    return f"agito train --resume {quote(str(path))}"


def _committed(path: Path) -> str:
    """Where a resumed run begins."""
    checkpoint = newest(path / "checkpoints")
    if checkpoint is None:
        return "nothing is committed yet, so the cold start begins again"
    step = load_meta(checkpoint)["step"]
    return f"{checkpoint.name} is committed: it goes on from RL step {step}, and what came after is repeated"
