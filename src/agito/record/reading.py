"""Reads trajectory files back into records, for `replay` and tests."""

# pyarrow ships no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
from __future__ import annotations

import json
import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from agito.errors import NotFound
from agito.record.trajectories import TokenStats
from agito.types import (
    Attempt,
    AttemptId,
    Budget,
    Call,
    Dialect,
    Effort,
    Event,
    Fault,
    FinishReason,
    Flag,
    Limits,
    Lineage,
    Mode,
    Penalty,
    Segment,
    Status,
    Task,
    TerminationReason,
    Tokens,
    ToolSpec,
    Trajectory,
    Turn,
    Verdict,
    VersionSpan,
)

_STATS = ("advantages", "trainer_logprobs", "ratios")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One row: an attempt, when it was made, its tokens as text over all segments, and its training
    statistics."""

    phase: str
    step: int
    dialect: Dialect
    attempt: Attempt
    pieces: tuple[str, ...]
    stats: tuple[TokenStats, ...]  # one per segment; empty if not trained on


def read_trajectories(path: Path) -> list[Recorded]:
    """All attempts in one file, in the order written. Raises `NotFound`."""
    if not path.exists():
        raise NotFound(f"{path}: no such trajectory file")
    return [_recorded(row) for row in pq.read_table(path).to_pylist()]


def read_quarantined(path: Path) -> list[Recorded]:
    """The attempts in one file whose reward is not trusted."""
    if "quarantine" not in pq.read_schema(path).names:
        return []
    return [_recorded(row) for row in pq.read_table(path, filters=[("quarantine", "!=", "")]).to_pylist()]


def find_attempt(directory: Path, attempt: AttemptId, *, phase: str | None = None) -> Recorded:
    """Finds an attempt in a run's `trajectories/`, in any phase unless one is given. Raises `NotFound`."""
    wanted = [("group", "=", attempt.group), ("slot", "=", attempt.slot), ("tries", "=", attempt.tries)]
    for path in sorted(directory.glob(f"{phase or '*'}-*.parquet")):
        rows = pq.read_table(path, filters=wanted).to_pylist()
        if rows:
            return _recorded(rows[0])
    raise NotFound(
        f"attempt {attempt}: not recorded in {directory}{f' in phase {phase}' if phase else ''}; see "
        "`agito replay RUN`"
    )


def _recorded(row: Mapping[str, Any]) -> Recorded:
    at = AttemptId(group=row["group"], slot=row["slot"], tries=row["tries"])
    segments = _segments(row)
    trajectory = Trajectory(
        attempt=at,
        task=_task(row),
        segments=segments,
        turns=tuple(_turn(turn) for turn in row["turns"]),
        events=tuple(_event(event) for event in row["events"]),
        end=TerminationReason(row["end"]),
        fault=_fault(row["fault"]),
        detail=row["detail"],
        lineage=_lineage(row["lineage"]),
        wall_s=row["wall_s"],
    )
    verdict = Verdict(
        status=Status(row["status"]),
        reward=math.nan if row["reward"] is None else row["reward"],
        scores=json.loads(row["scores"]),
        evidence=row["evidence"],
        grade_seed=row["grade_seed"],
        flags=tuple(Flag(**flag) for flag in row.get("flags") or ()),
    )
    gold = row.get("gold")
    return Recorded(
        phase=row["phase"],
        step=row["step"],
        dialect=Dialect(row["dialect"]),
        attempt=Attempt(
            trajectory=trajectory,
            verdict=verdict,
            penalty=_penalty(row),
            gold=_gold(gold),
            gold_chance=gold["chance"] if gold else 1.0,
            cost=row.get("cost") or 0.0,
        ),
        pieces=tuple(row["pieces"]),
        stats=_stats(at, row),
    )


def _penalty(row: Mapping[str, Any]) -> Penalty | None:
    return Penalty(why=row["quarantine"], **row["penalty"]) if row.get("penalty") else None


def _gold(gold: Mapping[str, Any] | None) -> Verdict | None:
    if gold is None:
        return None
    if gold["reward"] is None:
        return Verdict.void(gold["evidence"])
    return Verdict(status=Status.SCORED, reward=gold["reward"], evidence=gold["evidence"])


def _task(row: Mapping[str, Any]) -> Task:
    rest = json.loads(row["task"])
    return Task(
        id=row["task_id"],
        env=row["env"],
        split=row["split"],
        family=row["family"],
        level=row["level"],
        prompt={Dialect(name): text for name, text in rest["prompt"].items()},
        tools=tuple(ToolSpec(**tool) for tool in rest["tools"]),
        messages=tuple(rest.get("messages", ())),
        limits=Limits(**rest["limits"]),
        tags=tuple(row["tags"]),
    )


def _segments(row: Mapping[str, Any]) -> tuple[Segment, ...]:
    found: list[Segment] = []
    spans = [VersionSpan(**span) for span in row["versions"]]
    for part in row["segments"]:
        start, stop = part["start"], part["stop"]
        own, spans = spans[: part["num_spans"]], spans[part["num_spans"] :]
        tokens = Tokens(
            ids=array("i", row["ids"][start:stop]),
            logprobs=array("f", row["logprobs"][start:stop]),
            kinds=bytes(row["kinds"][start:stop]),
            channels=bytes(row["channels"][start:stop]),
            versions=tuple(own),
        )
        names = ("id", "parent", "prefix_len", "agent", "role", "policy", "spawned_by")
        found.append(Segment(tokens=tokens, **{name: part[name] for name in names}))
    return tuple(found)


def _stats(at: AttemptId, row: Mapping[str, Any]) -> tuple[TokenStats, ...]:
    if all(row[name] is None for name in _STATS):
        return ()
    return tuple(
        TokenStats(
            attempt=at,
            segment=part["id"],
            **{
                name: None if row[name] is None else array("f", row[name][part["start"] : part["stop"]])
                for name in _STATS
            },
        )
        for part in row["segments"]
    )


def _turn(turn: Mapping[str, Any]) -> Turn:
    return Turn(
        segment=turn["segment"],
        start=turn["start"],
        stop=turn["stop"],
        stopped=FinishReason(turn["stopped"]),
        effort=Effort(turn["effort"]),
        hard_budget=turn["hard_budget"],
        temperature=turn["temperature"],
        top_p=turn["top_p"],
        calls=tuple(turn["calls"]),
        # a run from before there were efforts has none of these
        continues=bool(turn.get("continues")),
        think_budget=turn.get("think_budget"),
        num_thought=turn.get("num_thought") or 0,
        num_leaked=turn.get("num_leaked") or 0,
        mode=Mode(mode) if (mode := turn.get("mode")) else None,
        is_steered=bool(turn.get("is_steered")),
    )


def _event(event: Mapping[str, Any]) -> Event:
    call = Call(
        tool=event["tool"],
        arguments=json.loads(event["arguments"]),
        raw=event["raw"],
        problem=event["problem"],
    )
    left = event["left"]
    same = ("index", "text", "exit_code", "ended", "truncated_bytes", "wall_s", "cpu_s")
    return Event(
        call=call,
        fault=_fault(event["fault"]),
        left=None if left is None else Budget(**left),
        **{name: event[name] for name in same},
    )


def _fault(text: str | None) -> Fault | None:
    return None if text is None else Fault(text)


def _lineage(row: Mapping[str, Any] | None) -> Lineage | None:
    return (
        None
        if row is None
        else Lineage(
            parent=AttemptId.parse(row["parent"]),
            event=row["event"],
            snapshot=row["snapshot"],
            without=row.get("without") or "",
        )
    )
