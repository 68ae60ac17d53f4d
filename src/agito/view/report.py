"""`report.html`: one self-contained page for a run, readable offline.

Text from a run reaches the page as data, never as markup.
"""

from __future__ import annotations

import base64
import errno
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from agito.errors import DiskFull, NotFound
from agito.view.diagnosis import read_diagnosis
from agito.view.episodes import read_episodes
from agito.view.interruptions import read_happened
from agito.view.rundata import read_curves, read_run
from agito.view.suspects import read_suspects
from agito.view.teams import read_teams

_EPISODE_BYTES = 1_600_000  # compressed; a third more on the page
_SUSPECTS = 40  # attempts on the page
_TEAMS = 12
_SCRIPTS = (
    "uPlot.iife.min.js",
    "base.js",
    "charts.js",
    "results.js",
    "diagnosis.js",
    "suspects.js",
    "teams.js",
    "episodes.js",
    "main.js",
)


def write_report(run_dir: Path) -> Path:
    """Writes `report.html` into a run directory, finished or not. Raises `NotFound`, `DiskFull`."""
    if not (run_dir / "run.json").exists():
        raise NotFound(f"{run_dir}: no run there; give a run directory such as runs/quickstart")
    episodes = read_episodes(run_dir / "trajectories", limit_bytes=_EPISODE_BYTES)
    data = read_run(run_dir)
    data["episodes"] = {
        "num_shown": episodes.num_shown,
        "num_total": episodes.num_total,
        "outcomes": dict(episodes.outcomes),
    }
    curve = read_curves(run_dir / "metrics.jsonl").get("rl")
    data["diagnosis"] = read_diagnosis(curve, run_dir / "trajectories")
    data["happened"] = read_happened(run_dir / "events.jsonl")
    data["suspects"] = read_suspects(run_dir / "trajectories", most=_SUSPECTS)
    data["teams"] = read_teams(run_dir / "trajectories", most=_TEAMS)
    page = _fill(
        _asset("index.html"),
        {
            "title": _escape(f"{data['name']} · Agito"),
            "style": _asset("uPlot.min.css") + _asset("style.css"),
            "licence": _asset("uPlot.LICENSE.txt"),
            "data": _as_script(data),
            "episodes": base64.b64encode(episodes.data).decode(),
            "script": "\n".join(_asset(name) for name in _SCRIPTS),
        },
    )
    return _write(run_dir / "report.html", page.encode())


def _fill(page: str, parts: dict[str, str]) -> str:
    """Replaces each `{{name}}` once; inserted text is not expanded."""
    pieces: list[str] = []
    for name, part in parts.items():
        head, found, page = page.partition(f"{{{{{name}}}}}")
        assert found, f"index.html has no {{{{{name}}}}} after the one before it"
        pieces += [head, part]
    return "".join([*pieces, page])


def _as_script(data: Any) -> str:
    """JSON that cannot close its script element."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _asset(name: str) -> str:
    return (files("agito.view") / "page" / name).read_text(encoding="utf-8")


def _write(path: Path, data: bytes) -> Path:
    beside = path.with_name(f".{path.name}.partial")
    try:
        beside.write_bytes(data)
        return beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"{path}: no space left on this disk; free some and write the report again with `agito view`"
            ) from error
        raise
