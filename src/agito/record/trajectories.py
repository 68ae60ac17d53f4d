"""Attempts as Parquet: one file per step, written whole or not at all.

Survives `kill -9`. Invalid Unicode in text loses its lone surrogates; token columns are exact.
"""

# pyarrow ships no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from agito.record.files import write_atomically
from agito.record.schema import SCHEMA
from agito.types import Attempt, AttemptId, Dialect, Event, Segment, Task, Trajectory, Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStats:
    """Training statistics of one segment, one entry per token; None for columns that were not computed."""

    attempt: AttemptId
    segment: int = 0
    advantages: array[float] | None = None  # 'f'
    trainer_logprobs: array[float] | None = None  # 'f', log pi_old
    ratios: array[float] | None = None  # 'f', w = pi_old / mu


def write_trajectories(
    directory: Path,
    phase: str,
    step: int,
    attempts: Sequence[Attempt],
    *,
    dialect: Dialect,
    piece: Callable[[str, int], str],
    stats: Iterable[TokenStats] = (),
) -> Path:
    """Writes `<phase>-<step>.parquet`, replacing an earlier one; returns its path. Raises `DiskFull`.

    `piece(policy, id)` decodes one token for people, and is called once per token.
    """
    path = trajectory_file(directory, phase, step)
    table = _table(phase, step, attempts, dialect, piece, list(stats))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", compression_level=1)
    write_atomically(path, sink.getvalue().to_pybytes())
    return path


def trajectory_file(directory: Path, phase: str, step: int) -> Path:
    return directory / f"{phase}-{step:05d}.parquet"


def is_success(attempt: Attempt) -> bool | None:
    """Full marks (or, with graded rewards, success according to the grader) and no penalty. None when
    void."""
    if not attempt.is_scored:
        return None
    verdict = attempt.verdict
    return verdict.scores.get("success", verdict.reward) >= 1.0 and not attempt.quarantine


def _table(
    phase: str,
    step: int,
    attempts: Sequence[Attempt],
    dialect: Dialect,
    piece: Callable[[str, int], str],
    stats: list[TokenStats],
) -> pa.Table:
    tasks: dict[int, str] = {}
    plain = [_row(attempt, dialect, tasks) for attempt in attempts]
    columns: dict[str, Any] = {name: [row[name] for row in plain] for name in plain[0]} if plain else {}
    columns |= {"phase": [phase] * len(attempts), "step": [step] * len(attempts)}
    columns |= _token_columns([attempt.trajectory for attempt in attempts], piece)
    columns |= _stat_columns([attempt.trajectory for attempt in attempts], stats)
    return pa.table([_column(columns.get(field.name, []), field.type) for field in SCHEMA], schema=SCHEMA)


def _column(values: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(values, pa.Array):
        return values
    try:
        return pa.array(values, type=kind)
    except UnicodeEncodeError:
        return pa.array(_without_surrogates(values), type=kind)


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {key: _without_surrogates(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_surrogates(inner) for inner in value]
    return value


def _row(attempt: Attempt, dialect: Dialect, tasks: dict[int, str]) -> dict[str, Any]:
    trajectory, verdict = attempt.trajectory, attempt.verdict
    task, at = trajectory.task, trajectory.attempt
    if id(task) not in tasks:
        tasks[id(task)] = _task_json(task)
    lineage = trajectory.lineage
    return {
        "group": at.group,
        "slot": at.slot,
        "tries": at.tries,
        "task_id": task.id,
        "env": task.env,
        "split": task.split,
        "family": task.family,
        "level": task.level,
        "tags": task.tags,
        "dialect": dialect.value,
        "prompt": task.prompt.get(dialect),
        "task": tasks[id(task)],
        "end": trajectory.end.value,
        "fault": trajectory.fault,
        "detail": trajectory.detail,
        "status": verdict.status.value,
        "success": is_success(attempt),
        "reward": verdict.reward if math.isfinite(verdict.reward) else None,
        "cost": attempt.cost,
        "scores": json.dumps(dict(verdict.scores)),
        "evidence": verdict.evidence,
        "grade_seed": verdict.grade_seed,
        "flags": [asdict(flag) for flag in verdict.flags],
        "quarantine": attempt.quarantine,
        "penalty": _penalty(attempt),
        "gold": _gold(attempt),
        "num_turns": trajectory.num_turns,
        "num_calls": len(trajectory.events),
        "num_sampled": trajectory.num_sampled,
        "wall_s": trajectory.wall_s,
        "tool_wall_s": sum(event.wall_s for event in trajectory.events),
        "tool_cpu_s": sum(event.cpu_s for event in trajectory.events),
        "segments": _segments(trajectory.segments),
        "turns": [_turn(turn) for turn in trajectory.turns],
        "events": [_event(event) for event in trajectory.events],
        "lineage": {
            "parent": str(lineage.parent),
            "event": lineage.event,
            "snapshot": lineage.snapshot,
            "without": lineage.without,
        }
        if lineage
        else None,
    }


def _penalty(attempt: Attempt) -> dict[str, Any] | None:
    penalty = attempt.penalty
    return {"reward": penalty.reward, "floor": penalty.floor, "event": penalty.event} if penalty else None


def _gold(attempt: Attempt) -> dict[str, Any] | None:
    gold = attempt.gold
    if gold is None:
        return None
    reward = gold.reward if math.isfinite(gold.reward) else None
    return {"reward": reward, "evidence": gold.evidence, "chance": attempt.gold_chance}


def _task_json(task: Task) -> str:
    tools = [asdict(tool) | {"parameters": dict(tool.parameters)} for tool in task.tools]
    prompt, messages = {key.value: text for key, text in task.prompt.items()}, list(map(dict, task.messages))
    return json.dumps({"prompt": prompt, "messages": messages, "tools": tools, "limits": asdict(task.limits)})


def _segments(segments: Sequence[Segment]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    start = 0
    for segment in segments:
        stop = start + len(segment.tokens)
        rows.append(
            {
                "id": segment.id,
                "parent": segment.parent,
                "prefix_len": segment.prefix_len,
                "agent": segment.agent,
                "role": segment.role,
                "policy": segment.policy,
                "spawned_by": segment.spawned_by,
                "start": start,
                "stop": stop,
                "num_spans": len(segment.tokens.versions),
            }
        )
        start = stop
    return rows


def _turn(turn: Turn) -> dict[str, Any]:
    return {
        "segment": turn.segment,
        "start": turn.start,
        "stop": turn.stop,
        "stopped": turn.stopped.value,
        "effort": turn.effort.value,
        "hard_budget": turn.hard_budget,
        "temperature": turn.temperature,
        "top_p": turn.top_p,
        "calls": turn.calls,
        "continues": turn.continues,
        "think_budget": turn.think_budget,
        "num_thought": turn.num_thought,
        "num_leaked": turn.num_leaked,
        "mode": turn.mode,
        "is_steered": turn.is_steered,
    }


def _event(event: Event) -> dict[str, Any]:
    call, left = event.call, event.left
    return {
        "index": event.index,
        "tool": call.tool,
        "arguments": json.dumps(dict(call.arguments)),
        "raw": call.raw,
        "problem": call.problem,
        "text": event.text,
        "exit_code": event.exit_code,
        "fault": event.fault,
        "ended": event.ended,
        "truncated_bytes": event.truncated_bytes,
        "wall_s": event.wall_s,
        "cpu_s": event.cpu_s,
        "left": {"turns": left.turns, "calls": left.calls, "tokens": left.tokens} if left else None,
    }


def _token_columns(
    trajectories: Sequence[Trajectory], piece: Callable[[str, int], str]
) -> dict[str, pa.Array]:
    """Built from whole buffers: one Python object per token would cost more than the rest of the file."""
    tokens = [segment.tokens for trajectory in trajectories for segment in trajectory.segments]
    offsets = _offsets(trajectories)
    ids = _joined([np.frombuffer(part.ids, dtype=np.int32) for part in tokens], np.int32)
    owners = [segment.policy for trajectory in trajectories for segment in trajectory.segments]
    policies = sorted(set(owners))
    places = np.repeat(
        np.array([policies.index(owner) for owner in owners], dtype=np.int64), [len(part) for part in tokens]
    )
    used, position = np.unique(places << 32 | ids, return_inverse=True)
    words = _column(
        [piece(policies[int(token) >> 32], int(token) & 0xFFFFFFFF) for token in used], pa.string()
    )
    spans = [
        [_span(s.start, s.stop, s.version) for seg in t.segments for s in seg.tokens.versions]
        for t in trajectories
    ]
    flat = {
        "ids": pa.array(ids),
        "pieces": words.take(pa.array(position.astype(np.int32))),
        "logprobs": pa.array(
            _joined([np.frombuffer(part.logprobs, dtype=np.float32) for part in tokens], np.float32)
        ),
        "kinds": pa.array(np.frombuffer(b"".join(part.kinds for part in tokens), dtype=np.int8)),
        "channels": pa.array(np.frombuffer(b"".join(part.channels for part in tokens), dtype=np.int8)),
    }
    columns = {name: pa.ListArray.from_arrays(offsets, values) for name, values in flat.items()}
    return columns | {"versions": pa.array(spans, type=SCHEMA.field("versions").type)}


def _span(start: int, stop: int, version: int) -> dict[str, int]:
    return {"start": start, "stop": stop, "version": version}


def _stat_columns(trajectories: Sequence[Trajectory], stats: list[TokenStats]) -> dict[str, pa.Array]:
    by_segment = {(stat.attempt, stat.segment): stat for stat in stats}
    columns: dict[str, pa.Array] = {}
    for name in ("advantages", "trainer_logprobs", "ratios"):
        lengths: list[int] = []
        is_absent: list[bool] = []
        parts: list[Any] = []
        for trajectory in trajectories:
            found = [
                _values(by_segment.get((trajectory.attempt, segment.id)), name, segment)
                for segment in trajectory.segments
            ]
            is_absent.append(all(part is None for part in found))
            kept = (
                []
                if is_absent[-1]
                else [
                    _or_nan(part, segment) for part, segment in zip(found, trajectory.segments, strict=True)
                ]
            )
            lengths.append(sum(len(part) for part in kept))
            parts += kept
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
        columns[name] = pa.ListArray.from_arrays(
            offsets, pa.array(_joined(parts, np.float32)), mask=pa.array(is_absent, type=pa.bool_())
        )
    return columns


def _values(stat: TokenStats | None, name: str, segment: Segment) -> Any:
    values = getattr(stat, name) if stat else None
    if values is None:
        return None
    if len(values) != len(segment.tokens):
        raise ValueError(
            f"{name} of {stat.attempt if stat else None}: {len(values)} entries for {len(segment.tokens)} "
            "tokens"
        )
    return np.frombuffer(values, dtype=np.float32)


def _or_nan(values: Any, segment: Segment) -> Any:
    return np.full(len(segment.tokens), np.nan, dtype=np.float32) if values is None else values


def _offsets(trajectories: Sequence[Trajectory]) -> pa.Array:
    lengths = [sum(len(segment.tokens) for segment in trajectory.segments) for trajectory in trajectories]
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


def _joined(parts: list[Any], kind: Any) -> Any:
    return np.concatenate(parts) if parts else np.empty(0, dtype=kind)
