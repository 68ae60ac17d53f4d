"""A rollout may be one row or several, in any order: the update is the same."""

from __future__ import annotations

import math
import random
from array import array
from dataclasses import replace

import pytest
import torch
from tests.trainer.conftest import VOCAB
from tests.trainer.test_trainer import PLAIN, distance, trainer_of, weights

from agito.learning.credit import CREDITS
from agito.types import (
    Attempt,
    AttemptId,
    Call,
    Dialect,
    Event,
    Fault,
    FinishReason,
    Group,
    Sample,
    Segment,
    Task,
    TerminationReason,
    Tokens,
    TokenSource,
    Trajectory,
    Turn,
    Verdict,
    span,
)

TASK = Task(id="t", env="fake", split="train", family="f", level=1, prompt={Dialect.COMPACT: "go"}, tools=())
CALL = Call(tool="act", arguments={})
TURNS = ((2, 4), (6, 9), (11, 12))  # sampled; what lies between was read
REWARDS = (1.0, 0.0, 0.25)


def segment_of(model, seed: int, number: int) -> Segment:
    """An agent's tokens, with the model's own log-probabilities."""
    rng = random.Random(seed)
    ids = [rng.randrange(VOCAB) for _ in range(TURNS[-1][1])]
    with torch.no_grad():
        logits = model.logits(model.hidden(torch.tensor(ids), [len(ids)]))
        logp = torch.log_softmax(logits, dim=-1)
    kinds, logprobs = bytearray(len(ids)), [math.nan] * len(ids)
    for start, stop in TURNS:
        for at in range(start, stop):
            kinds[at] = TokenSource.SAMPLED
            logprobs[at] = float(logp[at - 1, ids[at]])
    columns = Tokens(
        ids=array("i", ids),
        logprobs=array("f", logprobs),
        kinds=bytes(kinds),
        channels=bytes(len(ids)),
        versions=span(0, len(ids)),
    )
    spawned = None if number == 0 else 0
    role = "worker" if number else "planner"
    return Segment(id=number, tokens=columns, agent=f"agent-{number}", role=role, spawned_by=spawned)


def number_of(segment: Segment) -> int:
    """Of its agent, however its tokens are split."""
    return int(segment.agent.removeprefix("agent-"))


def attempt_of(segments: list[Segment], slot: int) -> Attempt:
    turns = [
        Turn(
            segment=segment.id,
            start=start,
            stop=stop,
            stopped=FinishReason.END,
            calls=(3 * number_of(segment) + at,),
        )
        for segment in segments
        for at, (start, stop) in enumerate(TURNS)
        if stop <= len(segment.tokens) and start >= segment.prefix_len
    ]
    trajectory = Trajectory(
        attempt=AttemptId(group=1, slot=slot),
        task=TASK,
        segments=tuple(segments),
        turns=tuple(turns),
        events=tuple(
            Event(index=at, call=CALL, text="", fault=Fault.POLICY if (at + slot) % 4 == 0 else None)
            for at in range(9)
        ),
        end=TerminationReason.SUBMITTED,
    )
    return Attempt(trajectory=trajectory, verdict=Verdict.scored(REWARDS[slot], evidence="", grade_seed=0))


def cut(segment: Segment, into: int) -> list[Segment]:
    """The same agent as several rows, each of which repeats what came before it."""
    ends = [*[stop for _, stop in TURNS][: into - 1], len(segment.tokens)]
    rows: list[Segment] = []
    for number, (before, stop) in enumerate(zip([0, *ends], ends, strict=False)):
        tokens = segment.tokens
        part = replace(
            tokens,
            ids=tokens.ids[:stop],
            logprobs=tokens.logprobs[:stop],
            kinds=tokens.kinds[:stop],
            channels=tokens.channels[:stop],
            versions=span(0, stop),
        )
        parent = None if number == 0 else 10 * segment.id + number - 1
        rows.append(
            replace(segment, id=10 * segment.id + number, tokens=part, parent=parent, prefix_len=before)
        )
    return rows


def updated(make_model, samples: list[Sample]) -> list[torch.Tensor]:
    model = make_model()
    trainer_of(model, PLAIN).step(samples)
    return weights(model)


@pytest.mark.parametrize("credit", sorted(CREDITS))
def test_rows_and_the_order_of_children_leave_the_update_unchanged(make_model, credit: str) -> None:
    model = make_model()
    teams = [[segment_of(model, 7 * slot + number, number) for number in range(3)] for slot in range(3)]
    whole = Group(id=1, task=TASK, attempts=tuple(attempt_of(team, slot) for slot, team in enumerate(teams)))
    rows = [[row for segment in team for row in cut(segment, 3)] for team in teams]
    shuffled = [[team[0], *reversed(team[1:])] for team in teams]
    results = [
        updated(make_model, list(CREDITS[credit](group, running_mean=math.nan)))
        for group in (
            whole,
            replace(whole, attempts=tuple(attempt_of(team, slot) for slot, team in enumerate(rows))),
            replace(whole, attempts=tuple(attempt_of(team, slot) for slot, team in enumerate(shuffled))),
        )
    ]
    assert distance(results[0], weights(make_model())) > 1e-4
    assert distance(results[0], results[1]) <= 1e-6
    assert distance(results[0], results[2]) <= 1e-6
