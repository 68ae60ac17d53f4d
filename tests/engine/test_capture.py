"""What is recorded is what was sent and sampled, token by token."""

from __future__ import annotations

import math
from array import array

import pytest

from agito.learning.credit.segments import samples_of
from agito.protocols import Sampled, SampleRequest
from agito.sampling.capture import Capture
from agito.testing import FakeEnvironment
from agito.types import (
    AttemptId,
    Channel,
    FinishReason,
    TerminationReason,
    TokenSource,
    Trajectory,
    VersionSpan,
)

pytestmark = pytest.mark.anyio
STOP, END_THINK = 2, 4


class Scripted:
    """An engine with one scripted row; the version grows with every turn."""

    context = 64

    def __init__(self, *turns: list[int], same_version: bool = False) -> None:
        self.turns, self.requests, self.num_closed, self.same_version = (
            list(turns),
            list[SampleRequest](),
            0,
            same_version,
        )

    def open(self, seed: int) -> Scripted:
        return self

    async def sample(self, request: SampleRequest) -> Sampled:
        self.requests.append(request)
        said = array("i", self.turns.pop(0))
        version = 7 if self.same_version else 6 + len(self.requests)
        n = len(request.extend)
        return Sampled(
            ids=said,
            logprobs=array("f", [-0.5 - i for i in range(len(said))]),
            stopped=FinishReason.END if said[-1] == STOP else FinishReason.LENGTH,
            versions=(
                VersionSpan(start=0, stop=n + 1, version=version),
                VersionSpan(start=n + 1, stop=n + len(said), version=version + (not self.same_version)),
            ),
        )

    def branch(self, seed: int) -> Scripted:
        return Scripted(*self.turns)

    async def close(self) -> None:
        self.num_closed += 1


def columns(capture: Capture) -> tuple[object, ...]:
    """In a form that compares equal, which NaN does not."""
    tokens = capture.segment().tokens
    return tokens.ids, tokens.logprobs.tobytes(), tokens.kinds, tokens.channels, tokens.versions


async def test_tokens_kinds_log_probabilities_and_versions_line_up() -> None:
    engine = Scripted([5, END_THINK, 6, STOP], [8, 9])
    capture = Capture(engine, seed=1, stop_ids=(STOP,), control_ids=(END_THINK,))
    capture.extend([10, 11])
    await capture.sample(max_tokens=8)
    capture.extend([12])
    await capture.sample(max_tokens=2)
    tokens = capture.segment().tokens
    o, s, c = TokenSource.OBSERVED, TokenSource.SAMPLED, TokenSource.CONTROL
    assert list(tokens.ids) == [10, 11, 5, END_THINK, 6, STOP, 12, 8, 9]
    assert list(tokens.kinds) == [o, o, s, c, s, c, o, s, s]
    assert [math.isnan(x) for x in tokens.logprobs] == [
        True,
        True,
        False,
        False,
        False,
        False,
        True,
        False,
        False,
    ]
    assert list(tokens.logprobs[2:6]) == [-0.5, -1.5, -2.5, -3.5]
    assert [(each.start, each.stop, each.version) for each in tokens.versions] == [
        (0, 3, 7),
        (3, 8, 8),
        (8, 9, 9),
    ]
    turns = [(turn.start, turn.stop, turn.stopped, turn.hard_budget) for turn in capture.turns]
    assert turns == [
        (2, 6, FinishReason.END, 8),
        (7, 9, FinishReason.LENGTH, 2),
    ]
    assert [list(request.extend) for request in engine.requests] == [[10, 11], [12]]


async def test_one_version_throughout_is_one_span() -> None:
    capture = Capture(Scripted([5, STOP], [6, STOP], same_version=True), seed=1, stop_ids=(STOP,))
    for _ in range(2):
        capture.extend([10])
        await capture.sample(max_tokens=8)
    assert capture.segment().tokens.versions == (VersionSpan(start=0, stop=6, version=7),)


async def test_a_forced_token_is_sent_with_what_follows_it_and_marked_as_forced() -> None:
    engine = Scripted([5, 6], [7, STOP])
    capture = Capture(engine, seed=1, stop_ids=(STOP,))
    capture.extend([10])
    await capture.sample(max_tokens=2)
    capture.extend([STOP], TokenSource.FORCED)
    capture.extend([11])
    await capture.sample(max_tokens=2)
    tokens = capture.segment().tokens
    assert list(tokens.kinds[3:5]) == [TokenSource.FORCED, TokenSource.OBSERVED]
    assert tokens.is_sampled == [False, True, True, False, False, True, True]
    assert list(engine.requests[1].extend) == [STOP, 11]


async def test_what_the_engine_never_saw_is_left_out() -> None:
    capture = Capture(Scripted([5, STOP]), seed=1, stop_ids=(STOP,))
    assert len(capture.segment().tokens) == 0
    capture.extend([10])
    await capture.sample(max_tokens=2)
    capture.extend([11, 12])
    assert len(capture) == 5
    assert list(capture.segment().tokens.ids) == [10, 5, STOP]


async def test_labels_go_to_the_last_turn_alone() -> None:
    capture = Capture(Scripted([5, STOP], [6, STOP]), seed=1, stop_ids=(STOP,))
    for channel in (Channel.THINK, Channel.CALL):
        capture.extend([10])
        await capture.sample(max_tokens=2)
        capture.label(bytes([channel, channel]))
    t = Channel.TEXT
    assert list(capture.segment().tokens.channels) == [
        t,
        Channel.THINK,
        Channel.THINK,
        t,
        Channel.CALL,
        Channel.CALL,
    ]


async def test_a_branch_shares_the_past_and_nothing_else() -> None:
    capture = Capture(Scripted([5, STOP], [6, STOP]), seed=1, stop_ids=(STOP,))
    capture.extend([10])
    await capture.sample(max_tokens=2)
    twin = capture.branch(2, segment=1)
    before = columns(capture)
    assert columns(twin) == before
    twin.extend([11])
    await twin.sample(max_tokens=2)
    assert columns(capture) == before and len(capture.turns) == 1
    assert list(twin.segment().tokens.ids) == [10, 5, STOP, 11, 6, STOP]


async def test_a_branch_is_a_segment_of_its_own_and_what_it_shares_is_trained_on_once() -> None:
    capture = Capture(Scripted([5, STOP], [6, STOP], [7, STOP]), seed=1, stop_ids=(STOP,))
    capture.extend([10])
    await capture.sample(max_tokens=2)
    twin = capture.branch(2, segment=1)
    twin.extend([11])
    await twin.sample(max_tokens=2)
    third = twin.branch(3, segment=2)
    third.extend([12])
    await third.sample(max_tokens=2)
    segments = tuple(each.segment() for each in (capture, twin, third))
    assert [(each.id, each.parent, each.prefix_len) for each in segments] == [
        (0, None, 0),
        (1, 0, 3),
        (2, 1, 6),
    ]
    turns = tuple(turn for each in (capture, twin, third) for turn in each.turns)
    assert [(turn.segment, turn.start, turn.stop) for turn in turns] == [(0, 1, 3), (1, 4, 6), (2, 7, 9)]
    task, _ = FakeEnvironment().task(split="train", index=0, seed=0)
    whole = Trajectory(
        attempt=AttemptId(group=0, slot=0),
        task=task,
        segments=segments,
        turns=turns,
        events=(),
        end=TerminationReason.TURNS,
    )
    trained = [
        [token for token, is_trained in zip(sample.ids, sample.trainable, strict=True) if is_trained]
        for sample in samples_of(whole, 1.0)
    ]
    assert trained == [[5, STOP], [6, STOP], [7, STOP]] and whole.num_sampled == 6


async def test_closing_closes_the_row() -> None:
    engine = Scripted()
    await Capture(engine, seed=1, stop_ids=(STOP,)).close()
    assert engine.num_closed == 1
