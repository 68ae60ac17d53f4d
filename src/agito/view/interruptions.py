"""What interrupted a run, and what a person was told of it, from `events.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_MOST = 100  # on the page: the last ones


def read_happened(path: Path) -> list[dict[str, Any]]:
    """In order, each with its Unix time. Lines that are damaged or unknown are skipped."""
    found: list[dict[str, Any]] = []
    for raw in path.read_bytes().split(b"\n") if path.exists() else []:
        try:
            event: Mapping[str, Any] = json.loads(raw)
            if text := _told(event):
                found.append({"at": float(event["at"]), "text": text})
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return found[-_MOST:]


def _told(event: Mapping[str, Any]) -> str:
    """Nothing for what is on the page anyway."""
    match event["type"]:
        case "run_resumed":
            return f"resumed from {event['checkpoint'] or 'the beginning'}"
        case "run_stopped":
            return f"stopped: {event['why']}"
        case "run_failed":
            return f"failed: {event['error']}: {event['why']}"
        case "recovered":
            return f"{event['why']}; went on from RL step {event['step']}"
        case "notice":
            return f"{event['level']}: {event['text']}"
        case _:
            return ""
