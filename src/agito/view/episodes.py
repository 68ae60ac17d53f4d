"""Held-out tasks before and after training, compressed for embedding in a page.

Reads `trajectories/{before,after}-*.parquet`; `record/schema.py` documents the columns. If not all pairs fit,
cells and outcomes get equal numbers as far as possible.
"""

# pyarrow ships no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from __future__ import annotations

import gzip
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow.parquet as pq

from agito.view.teams import agents_of

Row: TypeAlias = Mapping[str, Any]
Packed: TypeAlias = dict[str, Any]

OUTCOMES = ("fixed", "wrong", "regressed", "right", "void")
_COLUMNS = """group slot tries task_id family level tags prompt end fault detail status success reward
evidence quarantine wall_s num_sampled ids pieces logprobs segments turns events""".split()  # noqa: SIM905


@dataclass(frozen=True, slots=True, kw_only=True)
class Episodes:
    """`data` is gzip of JSON: `{"pieces": [...], "pairs": [...]}`."""

    data: bytes
    num_shown: int
    num_total: int
    outcomes: Mapping[str, int]  # over all pairs


def read_episodes(trajectories: Path, *, limit_bytes: int) -> Episodes:
    """As many pairs as fit into `limit_bytes` of compressed data."""
    pairs = _pairs(_last_tries(trajectories, "before"), _last_tries(trajectories, "after"))
    ordered = _in_turns(pairs)
    shown = len(ordered)
    data = _compress(ordered)
    while len(data) > limit_bytes and shown > 1:
        shown = min(shown - 1, math.floor(shown * limit_bytes / len(data) * 0.97))
        data = _compress(ordered[: max(shown, 1)])
    counts = {outcome: sum(pair["outcome"] == outcome for pair in pairs) for outcome in OUTCOMES}
    return Episodes(
        data=data, num_shown=min(max(shown, 1), len(pairs)), num_total=len(pairs), outcomes=counts
    )


def _last_tries(trajectories: Path, phase: str) -> dict[tuple[str, int], Row]:
    """By task and repetition; of a retried slot, the last try."""
    slots: dict[tuple[int, int], Row] = {}
    for path in sorted(trajectories.glob(f"{phase}-*.parquet")):
        known = set(pq.read_schema(path).names)
        for row in pq.read_table(path, columns=[name for name in _COLUMNS if name in known]).to_pylist():
            at = (row["group"], row["slot"])
            if at not in slots or slots[at]["tries"] <= row["tries"]:
                slots[at] = row
    by_task: dict[str, list[Row]] = defaultdict(list)
    for at in sorted(slots):
        by_task[slots[at]["task_id"]].append(slots[at])
    return {(task, number): row for task, rows in by_task.items() for number, row in enumerate(rows)}


def _pairs(before: Mapping[tuple[str, int], Row], after: Mapping[tuple[str, int], Row]) -> list[Packed]:
    both = [at for at in before if at in after]
    return [{**_pair(at[1], before[at], after[at]), "number": number} for number, at in enumerate(both)]


def _pair(repeat: int, before: Row, after: Row) -> Packed:
    cell = "+".join(
        [f"{after['family']}-{after['level']}", *(["fallback"] if "fallback" in after["tags"] else [])]
    )
    return {
        "task": f"{after['task_id']}#{repeat}" if repeat else after["task_id"],
        "cell": cell,
        "tags": after["tags"],
        "prompt": after["prompt"],
        "outcome": _outcome(before["success"], after["success"]),
        "before": before,
        "after": after,
    }


def _outcome(before: bool | None, after: bool | None) -> str:
    if before is None or after is None:
        return "void"
    return {
        (False, True): "fixed",
        (False, False): "wrong",
        (True, False): "regressed",
        (True, True): "right",
    }[before, after]


def _in_turns(pairs: Iterable[Packed]) -> list[Packed]:
    """Round-robin over cells and outcomes, so that any prefix of the list is balanced."""
    kinds: dict[tuple[str, str], list[Packed]] = defaultdict(list)
    for pair in pairs:
        kinds[pair["cell"], pair["outcome"]].append(pair)
    rounds = max((len(members) for members in kinds.values()), default=0)
    return [
        members[turn] for turn in range(rounds) for _, members in sorted(kinds.items()) if turn < len(members)
    ]


def _compress(pairs: Sequence[Packed]) -> bytes:
    words: dict[str, int] = {}
    packed = [
        {**pair, "before": _episode(pair["before"], words), "after": _episode(pair["after"], words)}
        for pair in pairs
    ]
    packed.sort(key=lambda pair: (pair["cell"], pair["number"]))
    text = json.dumps(
        {"pieces": list(words), "pairs": packed}, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return gzip.compress(text.encode(), compresslevel=6, mtime=0)


def _episode(row: Row, words: dict[str, int]) -> Packed:
    """One attempt. `words` collects token pieces; tokens refer to them by number."""
    start_of = {part["id"]: part["start"] for part in row["segments"]}
    role_of = {part["id"]: part["agent"] for part in row["segments"]}
    shown: set[int] = set()
    turns: list[Packed] = []
    for turn in row["turns"]:
        shown.update(turn["calls"])
        turns.append(
            {
                **_sampled(
                    row,
                    start_of[turn["segment"]] + turn["start"],
                    start_of[turn["segment"]] + turn["stop"],
                    words,
                ),
                "events": [_event(row["events"][index]) for index in turn["calls"]],
                **({"agent": role_of[turn["segment"]]} if len(role_of) > 1 else {}),
                **({"cut": 1} if turn["stopped"] != "end" else {}),
            }
        )
    loose = [_event(event) for index, event in enumerate(row["events"]) if index not in shown]
    if loose:
        turns.append({"ids": [], "logprobs": [], "events": loose})
    return {
        "attempt": f"{row['group']}.{row['slot']}.{row['tries']}",
        "success": row["success"],
        "reward": None if row["reward"] is None else round(row["reward"], 4),
        "end": row["end"],
        "fault": row["fault"],
        "detail": row["detail"],
        "evidence": row["evidence"],
        "quarantine": row.get("quarantine") or "",
        "wall_ms": round(row["wall_s"] * 1000),
        "num_sampled": row["num_sampled"],
        "turns": turns,
        **({"agents": agents} if (agents := agents_of(row)) else {}),
    }


def _sampled(row: Row, start: int, stop: int, words: dict[str, int]) -> Packed:
    """Log-probabilities in hundredths; null for tokens that were not sampled."""
    logprobs = [
        None if not math.isfinite(value) else round(100 * value) for value in row["logprobs"][start:stop]
    ]
    return {
        "ids": [words.setdefault(piece, len(words)) for piece in row["pieces"][start:stop]],
        "logprobs": logprobs,
    }


def _event(event: Row) -> Packed:
    """Only fields that differ from their defaults."""
    unusual = {
        "exit": event["exit_code"] if event["exit_code"] else None,
        "fault": event["fault"],
        "problem": event["problem"],
        "truncated": event["truncated_bytes"] or None,
        "ended": 1 if event["ended"] else None,
    }
    kept = {name: value for name, value in unusual.items() if value is not None}
    call = {"tool": event["tool"], "arguments": json.loads(event["arguments"]), "text": event["text"]}
    return {**call, "ms": round(event["wall_s"] * 1000, 1), **kept}
