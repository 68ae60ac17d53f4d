"""Cheating costs from the proving call on, and a penalised attempt enters no baseline."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from dataclasses import replace

import pytest

from agito.errors import CorruptCheckpoint
from agito.learning.credit import CREDITS, RunningMeans, leave_one_out
from agito.protocols import Credit
from agito.types import (
    Attempt,
    AttemptId,
    Call,
    Channel,
    Dialect,
    Event,
    FinishReason,
    Group,
    Penalty,
    Segment,
    Status,
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
KINDS = bytes(
    [
        TokenSource.OBSERVED,
        TokenSource.SAMPLED,
        TokenSource.CONTROL,
        TokenSource.OBSERVED,
        TokenSource.SAMPLED,
        TokenSource.CONTROL,
    ]
)  # two turns of one call each
CHEAT = Penalty(why="canary", reward=-0.5, floor=0.0, event=1)


def attempt(slot: int, reward: float, penalty: Penalty | None = None) -> Attempt:
    n = len(KINDS)
    sampled = [kind in (TokenSource.SAMPLED, TokenSource.CONTROL) for kind in KINDS]
    tokens = Tokens(
        ids=array("i", range(n)),
        logprobs=array("f", [-0.5 if it else math.nan for it in sampled]),
        kinds=KINDS,
        channels=bytes([Channel.TEXT] * n),
        versions=span(3, n),
    )
    turns = tuple(
        Turn(segment=0, start=start, stop=start + 2, stopped=FinishReason.END, calls=(at,))
        for at, start in enumerate((1, 4))
    )
    events = tuple(Event(index=at, call=Call(tool="sh", arguments={}), text="") for at in range(2))
    trajectory = Trajectory(
        attempt=AttemptId(group=7, slot=slot),
        task=TASK,
        segments=(Segment(id=0, tokens=tokens),),
        turns=turns,
        events=events,
        end=TerminationReason.SUBMITTED,
    )
    return Attempt(
        trajectory=trajectory, verdict=Verdict(status=Status.SCORED, reward=reward), penalty=penalty
    )


def group(*attempts: Attempt) -> Group:
    return Group(id=7, task=TASK, attempts=attempts)


def advantages(credit: Credit, found: Group, slot: int, running_mean: float = math.nan) -> list[float] | None:
    samples = {
        sample.attempt.slot: list(sample.advantages) for sample in credit(found, running_mean=running_mean)
    }
    return samples.get(slot)


@pytest.mark.parametrize("credit", CREDITS.values(), ids=list(CREDITS))
def test_tokens_before_the_proving_call_keep_the_plain_reward_and_later_ones_pay(credit: Credit) -> None:
    """By hand: the mean of the honest peers is 0.5; before the call 1 - 0.5, from it on -0.5 - 0.5."""
    found = group(attempt(0, 1.0), attempt(1, 0.0), attempt(2, 1.0, CHEAT))
    assert advantages(credit, found, 2) == [0.0, 0.5, 0.5, 0.0, -1.0, -1.0]


@pytest.mark.parametrize("credit", CREDITS.values(), ids=list(CREDITS))
def test_a_penalised_attempt_changes_nobody_elses_advantage(credit: Credit) -> None:
    honest = attempt(0, 1.0), attempt(1, 0.0)
    for slot in range(2):
        assert advantages(credit, group(*honest, attempt(2, 1.0, CHEAT)), slot) == advantages(
            credit, group(*honest), slot
        )


@pytest.mark.parametrize(("running_mean", "base"), [(0.75, 0.75), (math.nan, 0.0)])
def test_without_an_honest_peer_the_cells_running_mean_is_the_baseline(
    running_mean: float, base: float
) -> None:
    found = group(attempt(0, 1.0, CHEAT), attempt(1, 1.0, CHEAT))
    assert advantages(leave_one_out, found, 0, running_mean) == [
        0.0,
        1.0 - base,
        1.0 - base,
        0.0,
        -0.5 - base,
        -0.5 - base,
    ]


def test_one_honest_attempt_teaches_nothing_itself_but_is_what_the_cheat_is_compared_with() -> None:
    found = group(attempt(0, 1.0), attempt(1, 1.0, CHEAT))
    assert advantages(leave_one_out, found, 0) is None
    assert advantages(leave_one_out, found, 1) == [0.0, 0.0, 0.0, 0.0, -1.5, -1.5]


def test_where_the_call_is_not_known_the_whole_attempt_pays() -> None:
    whole = Penalty(why="forged report", reward=-0.5, floor=0.0)
    assert advantages(leave_one_out, group(attempt(0, 0.0), attempt(1, 1.0, whole)), 1) == [
        0.0,
        -0.5,
        -0.5,
        0.0,
        -0.5,
        -0.5,
    ]


def test_running_means_leave_cheats_out_and_come_back_from_a_checkpoint() -> None:
    means = RunningMeans()
    assert math.isnan(means.of("f-1"))
    means.add([group(attempt(0, 1.0), attempt(1, 0.0), attempt(2, 1.0, CHEAT))])
    assert means.of("f-1") == 0.5
    means.add([group(attempt(0, 1.0, CHEAT), attempt(1, 1.0, CHEAT))])
    assert means.of("f-1") == 0.5, "nobody was trusted"
    means.add([group(attempt(0, 1.0), attempt(1, 1.0))])
    assert means.of("f-1") == pytest.approx(0.65)
    again = RunningMeans()
    again.restore(means.to_json())
    assert again.of("f-1") == means.of("f-1")
    with pytest.raises(CorruptCheckpoint, match="running means"):
        again.restore(None)


LEAVING: dict[str, Callable[[Attempt], Attempt]] = {
    "void": lambda each: Attempt(trajectory=each.trajectory, verdict=Verdict.void("infra: gone")),
    "scored": lambda each: each,
    "proved": lambda each: Attempt(trajectory=each.trajectory, verdict=each.verdict, penalty=CHEAT),
}


@pytest.mark.parametrize(("what", "is_better"), [("void", True), ("scored", False), ("proved", False)])
def test_leaving_is_worth_more_than_failing_only_where_it_is_masked(what: str, is_better: bool) -> None:
    """The mean advantage of being masked minus that of failing, over all outcomes of the others: masking must
    not pay."""
    gains: list[float] = []
    for others in ([1.0, 0.0], [0.0, 0.0], [1.0, 1.0]):
        peers = [attempt(at, reward) for at, reward in enumerate(others)]
        found = {
            how: advantages(leave_one_out, each, 2)
            for how, each in {
                "leaves": group(*peers, LEAVING[what](attempt(2, 0.0))),
                "fails": group(*peers, attempt(2, 0.0)),
            }.items()
            if each.has_variance
        }
        leaves, fails = ((found.get(how) or [0.0])[-1] for how in ("leaves", "fails"))
        gains.append(leaves - fails)
    assert (sum(gains) > 0) is is_better, gains


@pytest.mark.parametrize("credit", CREDITS.values(), ids=list(CREDITS))
def test_a_cheat_pays_for_its_thinking_before_the_proving_call_as_others_do(credit: Credit) -> None:
    found = group(attempt(0, 1.0), attempt(1, 0.0), replace(attempt(2, 1.0, CHEAT), cost=0.25))
    assert advantages(credit, found, 2) == [0.0, 0.25, 0.25, 0.0, -1.0, -1.0]
