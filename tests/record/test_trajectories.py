from __future__ import annotations

import json
import math
import time
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from agito.errors import NotFound
from agito.record import TokenStats, find_attempt, read_trajectories, write_trajectories
from agito.types import (
    Attempt,
    AttemptId,
    Call,
    Dialect,
    Event,
    FinishReason,
    Segment,
    Status,
    Task,
    TerminationReason,
    Tokens,
    Trajectory,
    Turn,
    Verdict,
    span,
)


def make(
    group: int = 0, slot: int = 0, *, num_tokens: int = 6, verdict: Verdict | None = None, text: str = "ok"
) -> Attempt:
    prompt = {Dialect.COMPACT: "find it", Dialect.NATURAL: "Please find it."}
    task = Task(
        id="t",
        env="shell",
        split="train",
        family="find",
        level=1,
        prompt=prompt,
        tools=(),
        tags=("fallback",),
    )
    column = Tokens(
        ids=array("i", range(num_tokens)),
        logprobs=array("f", [math.nan, *[-0.5] * (num_tokens - 1)]),
        kinds=bytes([0] + [1] * (num_tokens - 1)),
        channels=bytes(num_tokens),
        versions=span(3, num_tokens),
    )
    events = tuple(
        Event(index=i, call=Call(tool="sh", arguments={"command": "ls"}, raw="ls"), text=text, cpu_s=0.001)
        for i in range(4)
    )
    turns = tuple(
        Turn(segment=0, start=1, stop=num_tokens, stopped=FinishReason.END, calls=(i,)) for i in range(4)
    )
    trajectory = Trajectory(
        attempt=AttemptId(group=group, slot=slot),
        task=task,
        segments=(Segment(id=0, tokens=column),),
        turns=turns,
        events=events,
        end=TerminationReason.SUBMITTED,
    )
    return Attempt(
        trajectory=trajectory,
        verdict=verdict or Verdict(status=Status.SCORED, reward=1.0, scores={"answer": 1.0}),
    )


def piece(policy: str, token: int) -> str:
    return f"<{token}>"


def stats_of(attempt: Attempt) -> TokenStats:
    column = array("f", [0.25] * len(attempt.trajectory.segments[0].tokens))
    return TokenStats(
        attempt=attempt.trajectory.attempt, advantages=column, trainer_logprobs=column, ratios=column
    )


def test_pandas_reads_it_and_void_is_neither_success_nor_a_zero(tmp_path: Path) -> None:
    batch = [
        make(0),
        make(1, verdict=Verdict.void("sandbox died")),
        make(2, verdict=Verdict(status=Status.SCORED, reward=0.0)),
    ]
    path = write_trajectories(tmp_path, "after", 0, batch, dialect=Dialect.COMPACT, piece=piece)
    frame: Any = pd.read_parquet(path)
    assert frame["success"].tolist() == [True, None, False]
    assert frame["reward"].isna().tolist() == [False, True, False]
    assert frame.groupby(["family", "level"])["reward"].mean().iloc[0] == 0.5
    assert frame["prompt"][0] == "find it"
    assert list(frame["pieces"][0]) == [piece("main", i) for i in range(6)]
    assert json.loads(frame["events"][0][0]["arguments"]) == {"command": "ls"}
    assert frame["tool_cpu_s"][0] == pytest.approx(0.004)
    assert frame["advantages"][0] is None


def test_statistics_of_one_segment_leave_the_others_unknown(tmp_path: Path) -> None:
    one = make()
    second = Segment(id=1, tokens=one.trajectory.segments[0].tokens, parent=0, prefix_len=2)
    two = replace(one, trajectory=replace(one.trajectory, segments=(*one.trajectory.segments, second)))
    stats = TokenStats(attempt=AttemptId(group=0, slot=0), segment=1, advantages=array("f", [1.0] * 6))
    (row,) = read_trajectories(
        write_trajectories(tmp_path, "rl", 1, [two], dialect=Dialect.COMPACT, piece=piece, stats=[stats])
    )
    first, last = row.stats
    assert first.advantages is not None and all(math.isnan(value) for value in first.advantages)
    assert last.advantages == stats.advantages
    assert last.ratios is None


def test_statistics_of_the_wrong_length_are_refused(tmp_path: Path) -> None:
    stats = TokenStats(attempt=AttemptId(group=0, slot=0), advantages=array("f", [1.0]))
    with pytest.raises(ValueError, match=r"advantages of 0\.0\.0: 1 entries for 6 tokens"):
        write_trajectories(tmp_path, "rl", 1, [make()], dialect=Dialect.COMPACT, piece=piece, stats=[stats])
    assert list(tmp_path.iterdir()) == []


def test_a_stray_surrogate_in_a_tool_output_does_not_lose_the_batch(tmp_path: Path) -> None:
    path = write_trajectories(
        tmp_path, "rl", 1, [make(text="bad \udc80 byte")], dialect=Dialect.COMPACT, piece=piece
    )
    (row,) = read_trajectories(path)
    assert row.attempt.trajectory.events[0].text == "bad ? byte"


def test_a_second_write_of_a_step_replaces_the_first_and_leaves_nothing_beside(tmp_path: Path) -> None:
    write_trajectories(tmp_path, "rl", 1, [make(0), make(1)], dialect=Dialect.COMPACT, piece=piece)
    path = write_trajectories(tmp_path, "rl", 1, [make(2)], dialect=Dialect.COMPACT, piece=piece)
    assert [row.attempt.trajectory.attempt.group for row in read_trajectories(path)] == [2]
    assert [entry.name for entry in tmp_path.iterdir()] == ["rl-00001.parquet"]


def test_an_attempt_is_found_by_its_number(tmp_path: Path) -> None:
    for step in (1, 2):
        write_trajectories(
            tmp_path,
            "rl",
            step,
            [make(step, slot) for slot in range(3)],
            dialect=Dialect.COMPACT,
            piece=piece,
        )
    found = find_attempt(tmp_path, AttemptId(group=2, slot=1))
    assert (found.step, found.attempt.trajectory.attempt) == (2, AttemptId(group=2, slot=1))
    with pytest.raises(NotFound, match=r"attempt 9\.0\.0: not recorded"):
        find_attempt(tmp_path, AttemptId(group=9, slot=0))
    with pytest.raises(NotFound, match="phase after"):
        find_attempt(tmp_path, AttemptId(group=2, slot=1), phase="after")


def test_no_column_holds_a_key(tmp_path: Path) -> None:
    path = write_trajectories(tmp_path, "rl", 1, [make()], dialect=Dialect.COMPACT, piece=piece)
    names = set(pd.read_parquet(path).columns)
    assert not {name for name in names if "key" in name or "answer" in name or name == "seed"}


def test_a_step_of_256_attempts_is_written_in_a_tenth_of_a_second_of_cpu(tmp_path: Path) -> None:
    batch = [make(i // 8, i % 8, num_tokens=180, text="word " * 40) for i in range(256)]
    stats = [stats_of(attempt) for attempt in batch]
    spent: list[float] = []
    for step in range(3):
        start = time.process_time()
        write_trajectories(tmp_path, "rl", step, batch, dialect=Dialect.COMPACT, piece=piece, stats=stats)
        spent.append(time.process_time() - start)
    assert min(spent) <= 0.1, spent
