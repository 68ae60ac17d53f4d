"""Who was in a team: the tree of its agents, what each was told and returned, what it cost and earned.

Reads rows of `trajectories/*.parquet`; `record/schema.py` documents the columns.
"""

# pyarrow ships no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow.parquet as pq

Row: TypeAlias = Mapping[str, Any]

_BETWEEN = " | "  # briefs of one call, and what came back from each
_COLUMNS = """group slot tries step family level prompt success reward advantages segments turns events
lineage""".split()  # noqa: SIM905


def read_teams(trajectories: Path, *, most: int) -> dict[str, Any]:
    """`{"step": of the last RL step in which agents were spawned, or null, "shown": [...]}`: of its attempts
    those in which credit told agents apart the most. Strict JSON.
    """
    for path in sorted(trajectories.glob("rl-*.parquet"), reverse=True):
        known = set(pq.read_schema(path).names)
        rows = pq.read_table(path, columns=[name for name in _COLUMNS if name in known]).to_pylist()
        found = [_episode(row) for row in rows if not row.get("lineage") and is_of_team(row)]
        if found:
            found.sort(key=lambda each: (-_spread(each["agents"]), each["attempt"]))
            return {"step": rows[0]["step"], "num": len(found), "shown": found[:most]}
    return {"step": None, "num": 0, "shown": []}


def is_of_team(row: Row) -> bool:
    return any(part["spawned_by"] is not None for part in row["segments"])


def agents_of(row: Row) -> list[dict[str, Any]]:
    """One entry for each agent, parents first; `parent` is a place in this list. None for an agent alone."""
    if not is_of_team(row):
        return []
    names = list(dict.fromkeys(part["agent"] for part in row["segments"]))
    agent_of = {part["id"]: part["agent"] for part in row["segments"]}
    caller = {index: agent_of[turn["segment"]] for turn in row["turns"] for index in turn["calls"]}
    agents: list[dict[str, Any]] = []
    for name in names:
        part = next(part for part in row["segments"] if part["agent"] == name)
        turns = [turn for turn in row["turns"] if agent_of[turn["segment"]] == name]
        spawned, calls = part["spawned_by"], [index for turn in turns for index in turn["calls"]]
        agents.append(
            {
                "name": name,
                "role": part["role"],
                "policy": part["policy"],
                "parent": names.index(caller[spawned]) if spawned in caller else None,
                "turns": sum(not turn.get("continues") for turn in turns),
                "tokens": sum(turn["stop"] - turn["start"] for turn in turns),
                "told": "" if spawned is None else _part_of(row, spawned, name, _brief(row, spawned)),
                "returned": "" if spawned is None else _returned(row, spawned, name, calls),
                "reported": any(row["events"][index]["tool"] == "report" for index in calls[-1:]),
                "faults": sum(row["events"][index]["fault"] is not None for index in calls),
                "credit": _credit(row, turns),
            }
        )
    return agents


def _brief(row: Row, spawned: int) -> str:
    return str(json.loads(row["events"][spawned]["arguments"]).get("brief", ""))


def _part_of(row: Row, spawned: int, name: str, text: str) -> str:
    """Of what was said of all children of one call, that of this one; all of it where that cannot be told."""
    parts, place = text.split(_BETWEEN), name.rpartition(".")[2]
    num = len(_brief(row, spawned).split(_BETWEEN))
    return parts[int(place)].strip() if place.isdigit() and len(parts) == num > int(place) else text


def _returned(row: Row, spawned: int, name: str, calls: Sequence[int]) -> str:
    """What it reported, or what its parent read instead."""
    last = row["events"][calls[-1]] if calls else None
    if last is not None and last["tool"] == "report":
        return str(json.loads(last["arguments"]).get("text", ""))
    return _part_of(row, spawned, name, row["events"][spawned]["text"] or "")


def _credit(row: Row, turns: Sequence[Row]) -> float | None:
    """The mean advantage of its tokens; null where it was not trained on."""
    column = row.get("advantages")
    if not column:
        return None
    start_of = {part["id"]: part["start"] for part in row["segments"]}
    found = [
        value
        for turn in turns
        for value in column[
            start_of[turn["segment"]] + turn["start"] : start_of[turn["segment"]] + turn["stop"]
        ]
        if value is not None and math.isfinite(value)
    ]
    return round(sum(found) / len(found), 4) if found else None


def _spread(agents: Sequence[Mapping[str, Any]]) -> float:
    found = [agent["credit"] for agent in agents if agent["credit"] is not None]
    return max(found) - min(found) if found else -1.0


def _episode(row: Row) -> dict[str, Any]:
    return {
        "attempt": f"{row['group']}.{row['slot']}.{row['tries']}",
        "cell": f"{row['family']}-{row['level']}",
        "prompt": row["prompt"],
        "success": row["success"],
        "reward": None if row["reward"] is None else round(row["reward"], 4),
        "agents": agents_of(row),
    }
