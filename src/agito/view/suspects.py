"""Attempts whose reward is not trusted or contradicts the gold verdict, for the page.

`record/schema.py` documents the columns. Latest first, up to a limit.
"""

# pyarrow ships no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow.parquet as pq

Row: TypeAlias = Mapping[str, Any]

_COLUMNS = "group slot tries step family level prompt reward quarantine flags gold events".split()  # noqa: SIM905
_GAP = 0.5  # reward minus gold, where the run does not set its own


def read_suspects(trajectories: Path, *, most: int, gap: float = _GAP) -> dict[str, Any]:
    """`{"num": how many there are, "shown": [...]}` over the RL steps; strict JSON. Files without these
    columns have none."""
    num, shown = 0, list[dict[str, Any]]()
    for path in sorted(trajectories.glob("rl-*.parquet"), reverse=True):
        if not {"quarantine", "gold", "flags"} <= set(pq.read_schema(path).names):
            continue
        marks = pq.read_table(path, columns=["quarantine", "reward", "gold"]).to_pylist()
        found = [at for at, row in enumerate(marks) if row["quarantine"] or _is_contradicted(row, gap)]
        num += len(found)
        if found and len(shown) < most:
            table = pq.read_table(path, columns=_COLUMNS).take(found[: most - len(shown)])
            shown += [_suspect(row) for row in table.to_pylist()]
    return {"num": num, "shown": shown}


def _is_contradicted(row: Row, gap: float) -> bool:
    gold = row["gold"] and row["gold"]["reward"]
    return gold is not None and row["reward"] is not None and row["reward"] - gold >= gap


def _suspect(row: Row) -> dict[str, Any]:
    return {
        "attempt": f"{row['group']}.{row['slot']}.{row['tries']}",
        "step": row["step"],
        "cell": f"{row['family']}-{row['level']}",
        "prompt": row["prompt"],
        "reward": row["reward"],
        "gold": row["gold"]["reward"] if row["gold"] else None,
        "quarantine": row["quarantine"],
        "flags": [
            f"{flag['kind']}: {flag['detail']}" if flag["detail"] else flag["kind"] for flag in row["flags"]
        ],
        "events": [
            {
                "said": " ".join([event["tool"], *map(str, json.loads(event["arguments"]).values())]),
                "read": event["text"],
            }
            for event in row["events"]
        ],
    }
