"""Random whole attempts, several segments and strange values included, written and read back."""

from __future__ import annotations

import math
import tempfile
from array import array
from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from agito.record import TokenStats, read_trajectories, write_trajectories
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
    Limits,
    Lineage,
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

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
small = st.integers(0, 2**20)
seconds = st.floats(0, 1e6)
float32 = st.floats(width=32, allow_nan=True, allow_infinity=True)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(text, inner, max_size=2),
    max_leaves=4,
)
arguments = st.dictionaries(text, json_values, max_size=3)


@st.composite
def tokens(draw: st.DrawFn) -> Tokens:
    n = draw(st.integers(0, 12))
    cuts = sorted({0, n, *draw(st.lists(st.integers(0, n), max_size=2))})
    spans = tuple(
        VersionSpan(start=start, stop=stop, version=draw(st.integers(0, 2**40)))
        for start, stop in pairwise(cuts)
    )
    return Tokens(
        ids=array("i", draw(st.lists(st.integers(0, 50), min_size=n, max_size=n))),
        logprobs=array("f", draw(st.lists(float32, min_size=n, max_size=n))),
        kinds=bytes(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))),
        channels=bytes(draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))),
        versions=spans if n else (),
    )


tools = st.builds(ToolSpec, name=text, description=text, parameters=arguments)
prompts = st.dictionaries(st.sampled_from(Dialect), text, max_size=2)
tasks = st.builds(
    Task,
    id=text,
    env=text,
    split=text,
    family=text,
    level=small,
    prompt=prompts,
    tools=st.lists(tools, max_size=2).map(tuple),
    limits=st.builds(Limits, turns=small, seconds=seconds),
    tags=st.lists(text, max_size=2).map(tuple),
)
calls = st.builds(Call, tool=text, arguments=arguments, raw=text, problem=st.none() | text)
events = st.builds(
    Event,
    index=small,
    call=calls,
    text=text,
    exit_code=st.none() | st.integers(-255, 255),
    fault=st.none() | st.sampled_from(Fault),
    left=st.none() | st.builds(Budget, turns=small, calls=small, tokens=small),
    ended=st.booleans(),
    truncated_bytes=small,
    wall_s=seconds,
    cpu_s=seconds,
)
turns = st.builds(
    Turn,
    segment=small,
    start=small,
    stop=small,
    stopped=st.sampled_from(FinishReason),
    effort=st.sampled_from(Effort),
    hard_budget=small,
    temperature=seconds,
    top_p=seconds,
    calls=st.lists(small, max_size=3).map(tuple),
    continues=st.booleans(),
    think_budget=st.none() | small,
    num_thought=small,
    num_leaked=small,
)
ids = st.builds(AttemptId, group=st.integers(0, 2**40), slot=small, tries=small)
verdicts = st.builds(Verdict.void, text) | st.builds(
    Verdict,
    status=st.just(Status.SCORED),
    reward=st.floats(allow_nan=False, allow_infinity=False),
    scores=st.dictionaries(text, st.floats(allow_nan=False), max_size=2),
    evidence=text,
    grade_seed=st.integers(-(2**62), 2**62),
)


@st.composite
def segments(draw: st.DrawFn) -> tuple[Segment, ...]:
    number = draw(st.integers(0, 3))
    optional = st.none() | small
    return tuple(
        Segment(
            id=index,
            tokens=draw(tokens()),
            parent=draw(optional),
            prefix_len=draw(small),
            agent=draw(text),
            role=draw(text),
            policy=draw(text),
            spawned_by=draw(optional),
        )
        for index in range(number)
    )


trajectories = st.builds(
    Trajectory,
    attempt=ids,
    task=tasks,
    segments=segments(),
    turns=st.lists(turns, max_size=3).map(tuple),
    events=st.lists(events, max_size=3).map(tuple),
    end=st.sampled_from(TerminationReason),
    fault=st.none() | st.sampled_from(Fault),
    detail=text,
    lineage=st.none() | st.builds(Lineage, parent=ids, event=small, snapshot=text),
    wall_s=seconds,
)
attempts = st.builds(Attempt, trajectory=trajectories, verdict=verdicts, cost=seconds)


def stats_of(attempt: Attempt) -> tuple[TokenStats, ...]:
    """Some statistics for every segment, of the right length."""
    return tuple(
        TokenStats(
            attempt=attempt.trajectory.attempt,
            segment=segment.id,
            advantages=array("f", [0.5 * i for i in range(len(segment.tokens))]),
            ratios=array("f", [math.nan] * len(segment.tokens)),
        )
        for segment in attempt.trajectory.segments
    )


def plain(value: object) -> str:
    """A form in which not-a-number equals itself."""
    return repr(value)


def piece(policy: str, token: int) -> str:
    return f"<{token}>"


@given(st.lists(attempts, max_size=4, unique_by=lambda attempt: attempt.trajectory.attempt), st.booleans())
def test_whatever_is_written_reads_back_equal(batch: list[Attempt], trained: bool) -> None:
    stats = [stat for attempt in batch for stat in stats_of(attempt)] if trained else []
    with tempfile.TemporaryDirectory() as directory:
        path = write_trajectories(
            Path(directory), "rl", 7, batch, dialect=Dialect.COMPACT, piece=piece, stats=stats
        )
        found = read_trajectories(path)
    assert plain([row.attempt for row in found]) == plain(batch)
    assert plain([stat for row in found for stat in row.stats]) == plain(stats)
    for row, attempt in zip(found, batch, strict=True):
        assert (row.phase, row.step, row.dialect) == ("rl", 7, Dialect.COMPACT)
        assert row.pieces == tuple(
            piece(segment.policy, token)
            for segment in attempt.trajectory.segments
            for token in segment.tokens.ids
        )
