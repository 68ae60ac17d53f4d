"""Credit by replay against an exact gradient: two agents, three turns, every outcome enumerated."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

import pytest

from agito.learning.credit import agent_credits, by_replay, group_mean, leave_one_out, turn_credits
from agito.protocols import Credit
from agito.types import (
    Attempt,
    AttemptId,
    Call,
    Dialect,
    Event,
    FinishReason,
    Group,
    Lineage,
    Penalty,
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
# The orchestrator stops (0) or hands out work (1); the worker does x or y; the orchestrator then does x or y.
STATES = ("begin", "work", "x", "y")
LOGITS = {"begin": (0.3, 0.8), "work": (-0.4, 0.5), "x": (0.9, -0.2), "y": (0.1, 0.6)}
LEFT_OUT = {0.2: 0.3, 0.5: 0.7}  # what is earned, and how probably, where the worker is left out
REWARDS = {(0,): 0.4, (1, 0, 0): 1.0, (1, 0, 1): 0.0, (1, 1, 0): 0.1, (1, 1, 1): 0.7}
SEGMENT_OF_TURN = (0, 1, 0)
Path = tuple[int, ...]


def probability(state: str, action: int) -> float:
    return math.exp(LOGITS[state][action]) / sum(map(math.exp, LOGITS[state]))


def state_of(path: Path) -> str:
    return ("begin", "work", ("x", "y")[path[1]] if len(path) > 1 else "")[len(path)]


def endings(path: Path) -> Iterator[tuple[Path, float]]:
    """Every way to the end from here, with its probability."""
    if path in REWARDS:
        yield path, 1.0
        return
    for action in (0, 1):
        for ending, chance in endings((*path, action)):
            yield ending, chance * probability(state_of(path), action)


def attempt_of(path: Path, *, slot: int, first: int = 0, parent: int | None = None) -> Attempt:
    """`first`: the turn at which a fork of attempt `parent` begins. Token ids tell state and action."""
    ids = [2 * STATES.index(state_of(path[:turn])) + path[turn] for turn in range(len(path))]
    segments: list[Segment] = []
    places: dict[int, tuple[int, int]] = {}
    for segment in (0, 1):
        turns = [turn for turn in range(len(path)) if SEGMENT_OF_TURN[turn] == segment]
        kinds, tokens, logprobs = bytearray([TokenSource.OBSERVED]), [99], [math.nan]
        for turn in turns:
            places[turn] = segment, len(tokens)
            tokens.append(ids[turn])
            kinds.append(TokenSource.SAMPLED if turn >= first else TokenSource.OBSERVED)
            logprobs.append(math.log(probability(state_of(path[:turn]), path[turn])))
        columns = Tokens(
            ids=array("i", tokens),
            logprobs=array("f", logprobs),
            kinds=bytes(kinds),
            channels=bytes(len(tokens)),
            versions=span(4, len(tokens)),
        )
        if turns:
            role = ("orchestrator", "worker")[segment]
            segments.append(Segment(id=segment, tokens=columns, agent=role, role=role))
    turns = tuple(
        Turn(segment=places[turn][0], start=(at := places[turn][1]), stop=at + 1, stopped=FinishReason.END,
             calls=(turn,))
        for turn in range(first, len(path))
    )  # fmt: skip
    events = tuple(
        Event(index=turn, call=Call(tool="act", arguments={}), text="") for turn in range(len(path))
    )
    lineage = (
        None if parent is None else Lineage(parent=AttemptId(group=7, slot=parent), event=first, snapshot="")
    )
    trajectory = Trajectory(
        attempt=AttemptId(group=7, slot=slot),
        task=TASK,
        segments=tuple(segments),
        turns=turns,
        events=events,
        end=TerminationReason.SUBMITTED,
        lineage=lineage,
    )
    return Attempt(trajectory=trajectory, verdict=Verdict.scored(REWARDS[path], evidence="", grade_seed=0))


@dataclass(frozen=True, slots=True)
class Bundle:
    """An attempt with its forks, and how probable they are together."""

    path: Path
    forks: tuple[tuple[int, Path], ...]
    chance: float

    left_out: float | None = None  # earned by a fork without the worker

    def attempts(self, slot: int) -> tuple[Attempt, list[Attempt]]:
        own = attempt_of(self.path, slot=slot)
        forks = [
            attempt_of(path, slot=10 * (slot + 1) + at, first=first, parent=slot)
            for at, (first, path) in enumerate(self.forks)
        ]
        return own, forks if self.left_out is None else [*forks, without_worker(self.left_out, slot)]


def without_worker(reward: float, parent: int) -> Attempt:
    """A fork in which the worker failed before it did anything."""
    fork = attempt_of((1, 0, 0), slot=90 + parent, first=2, parent=parent)
    lineage = Lineage(parent=AttemptId(group=7, slot=parent), event=0, snapshot="", without="worker")
    return replace(
        fork,
        trajectory=replace(fork.trajectory, lineage=lineage),
        verdict=Verdict.scored(reward, evidence="", grade_seed=0),
    )


def bundles(places: Mapping[int, int], *, leaves_out: bool = False) -> list[Bundle]:
    """`places`: how many forks begin at a turn, where the attempt comes that far."""
    found: list[Bundle] = []
    for path, chance in endings(()):
        firsts = [turn for turn, times in places.items() if turn < len(path) for _ in range(times)]
        for ways in product(*(list(endings(path[:first])) for first in firsts)):
            forks = tuple((first, way) for first, (way, _) in zip(firsts, ways, strict=True))
            whole = chance * math.prod(each for _, each in ways)
            arms = LEFT_OUT.items() if leaves_out and len(path) == 3 else [(None, 1.0)]
            found += [Bundle(path, forks, whole * each, reward) for reward, each in arms]
    return found


def gradient(credit: Credit, group: Group) -> list[float]:
    """Of the sum of advantage x log pi over what is trained on, by logit."""
    found = [0.0] * 8
    for sample in credit(group, running_mean=math.nan):
        for token, advantage, is_on in zip(sample.ids, sample.advantages, sample.trainable, strict=True):
            state = STATES[token // 2] if is_on else ""
            for action in (0, 1) if is_on else ():
                found[2 * (token // 2) + action] += advantage * (
                    (token % 2 == action) - probability(state, action)
                )
    return found


def exact(cost: Callable[[Path], float] = lambda path: 0.0) -> list[float]:
    """The gradient of the expected reward of two attempts, less what they pay."""
    found = [0.0] * 8
    for path, chance in endings(()):
        for turn, taken in enumerate(path):
            state = state_of(path[:turn])
            for action in (0, 1):
                slope = (taken == action) - probability(state, action)
                found[2 * STATES.index(state) + action] += 2 * chance * (REWARDS[path] - cost(path)) * slope
    return found


def moments(
    credit: Credit, places: Mapping[int, int], *, leaves_out: bool = False
) -> tuple[list[float], float]:
    """The estimator's mean, and its variance summed over logits: exactly, over all groups of two."""
    total, squares = [0.0] * 8, 0.0
    ways = bundles(places, leaves_out=leaves_out)
    assert sum(way.chance for way in ways) == pytest.approx(1.0)
    for one, two in product(ways, ways):
        (a, forks_a), (b, forks_b) = one.attempts(0), two.attempts(1)
        group = Group(id=7, task=TASK, attempts=(a, b), forks=(*forks_a, *forks_b))
        found, chance = gradient(credit, group), one.chance * two.chance
        total = [sum_ + chance * value for sum_, value in zip(total, found, strict=True)]
        squares += chance * sum(value * value for value in found)
    return total, squares - sum(value * value for value in total)


@pytest.mark.parametrize("places", [{}, {1: 1}, {2: 2}, {1: 1, 2: 1}], ids=str)
def test_credit_by_replay_is_unbiased_and_its_variance_falls(places: dict[int, int]) -> None:
    found, variance = moments(by_replay, places)
    assert found == pytest.approx(exact(), abs=1e-6)
    _, inherited = moments(leave_one_out, {})
    assert variance == pytest.approx(inherited) if not places else variance < inherited


def test_credit_against_forks_that_leave_an_agent_out_is_unbiased() -> None:
    found, variance = moments(by_replay, {2: 1}, leaves_out=True)
    assert found == pytest.approx(exact(), abs=1e-6)
    assert variance < moments(leave_one_out, {})[1]


def of_worker(path: Path) -> float:
    """Its first way of acting is the longer one, and so is the critical path."""
    return 0.3 if path[1:2] == (0,) else 0.0


def paying(group: Group, *, of_whom_is_left_out: bool) -> Group:
    """The same, where attempts and forks pay for what the worker did; those that leave it out pay for
    it too, or do not.
    """
    paths = {2: (1, 0), 3: (1, 1)}

    def cost(attempt: Attempt) -> float:
        lineage = attempt.trajectory.lineage
        if lineage is not None and lineage.without:
            if not of_whom_is_left_out:
                return 0.0
            attempt = group.attempts[lineage.parent.slot]
        ids = [segment.tokens.ids[1] for segment in attempt.trajectory.segments if segment.role == "worker"]
        return of_worker(paths[ids[0]]) if ids else 0.0

    attempts, forks = (
        tuple(replace(each, cost=cost(each)) for each in several) for several in (group.attempts, group.forks)
    )
    return replace(group, attempts=attempts, forks=forks)


def test_with_prices_credit_by_replay_is_unbiased_where_a_fork_does_not_pay_for_whom_it_leaves_out() -> None:
    for places, leaves_out in (({1: 1, 2: 1}, False), ({2: 1}, True)):
        found, _ = moments(
            lambda group, *, running_mean: by_replay(
                paying(group, of_whom_is_left_out=False), running_mean=running_mean
            ),
            places,
            leaves_out=leaves_out,
        )
        assert found == pytest.approx(exact(of_worker), abs=1e-6)
    biased, _ = moments(
        lambda group, *, running_mean: by_replay(
            paying(group, of_whom_is_left_out=True), running_mean=running_mean
        ),
        {2: 1},
        leaves_out=True,
    )
    assert max(abs(a - b) for a, b in zip(biased, exact(of_worker), strict=True)) > 0.05


def test_the_credit_of_an_agent_is_the_difference_that_it_makes() -> None:
    own, other = attempt_of((1, 0, 1), slot=0), attempt_of((0,), slot=1)
    forks = (attempt_of((1, 0, 0), slot=2, first=2, parent=0), *(without_worker(r, 0) for r in (0.2, 0.5)))
    group = Group(id=7, task=TASK, attempts=(own, other), forks=forks)
    assert agent_credits(own, group) == pytest.approx({"worker": (0 + 1) / 2 - 0.35})
    samples = {(sample.attempt.slot, sample.segment): sample for sample in by_replay(group, running_mean=0.0)}
    assert samples[0, 1].advantages[1] == pytest.approx(0.15)
    assert not {90, 91} & {slot for slot, _ in samples}, "the policy would not have come there"


def test_inherited_credit_is_unbiased_and_dividing_by_the_spread_is_not() -> None:
    assert moments(leave_one_out, {})[0] == pytest.approx(exact(), abs=1e-6)
    gaps = [abs(a - b) for a, b in zip(moments(group_mean, {})[0], exact(), strict=True)]
    assert max(gaps) > 0.1


def test_the_credit_of_a_turn_is_the_difference_of_the_mean_outcomes_after_and_before_it() -> None:
    own = attempt_of((1, 0, 1), slot=0)  # earned 0
    before = [attempt_of(path, slot=9, first=1, parent=0) for path in ((1, 1, 1), (1, 0, 0))]  # .7 and 1
    after = [attempt_of(path, slot=9, first=2, parent=0) for path in ((1, 0, 0), (1, 0, 1))]  # 1 and 0
    other = attempt_of((0,), slot=1)
    group = Group(id=7, task=TASK, attempts=(own, other), forks=(*before, *after))
    assert turn_credits(own, group) == pytest.approx({1: (0 + 1 + 0) / 3 - 0.85, 2: 0 - 0.5})
    assert turn_credits(other, group) == {}


def test_forks_are_trained_on_from_where_they_begin_and_enter_no_baseline() -> None:
    own, other = attempt_of((1, 0, 1), slot=0), attempt_of((0,), slot=1)
    fork = attempt_of((1, 0, 0), slot=2, first=2, parent=0)
    group = Group(id=7, task=TASK, attempts=(own, other), forks=(fork,))
    samples = {(sample.attempt.slot, sample.segment): sample for sample in by_replay(group, running_mean=0.0)}
    assert set(samples) == {(0, 0), (0, 1), (1, 0), (2, 0)}, "what a fork repeated is nobody's sample"
    assert list(samples[2, 0].trainable) == [0, 0, 1]
    assert samples[2, 0].advantages[2] == pytest.approx((1.0 - 0.0) / 2)
    assert samples[0, 0].advantages[2] == pytest.approx((0.0 - 1.0) / 2)
    assert samples[1, 0].advantages[1] == pytest.approx(0.4 - 0.0), "the others' mean is of attempts alone"


def test_arms_of_two_versions_are_refused() -> None:
    own, other = attempt_of((1, 0, 1), slot=0), attempt_of((0,), slot=1)
    fork = attempt_of((1, 0, 0), slot=2, first=2, parent=0)
    segments = tuple(
        replace(each, tokens=replace(each.tokens, versions=span(5, len(each.tokens))))
        for each in fork.trajectory.segments
    )
    newer = replace(fork, trajectory=replace(fork.trajectory, segments=segments))
    with pytest.raises(ValueError, match=r"versions \[4, 5\]"):
        by_replay(Group(id=7, task=TASK, attempts=(own, other), forks=(newer,)), running_mean=0.0)


def test_a_policy_that_does_not_learn_has_a_version_of_its_own() -> None:
    def with_frozen_worker(attempt: Attempt) -> Attempt:
        segments = tuple(
            replace(each, policy="frozen", tokens=replace(each.tokens, versions=span(0, len(each.tokens))))
            if each.role == "worker"
            else each
            for each in attempt.trajectory.segments
        )
        return replace(attempt, trajectory=replace(attempt.trajectory, segments=segments))

    own, fork = attempt_of((1, 0, 1), slot=0), attempt_of((1, 1, 1), slot=2, first=1, parent=0)
    attempts, forks = (with_frozen_worker(own), attempt_of((0,), slot=1)), (with_frozen_worker(fork),)
    assert by_replay(Group(id=7, task=TASK, attempts=attempts, forks=forks), running_mean=0.0)


def test_what_thinking_costs_counts_in_credit_by_replay_as_in_any_other() -> None:
    def group(costs: tuple[float, float, float]) -> Group:
        own, other, fork = (
            replace(each, cost=cost)
            for each, cost in zip(
                (
                    attempt_of((1, 0, 1), slot=0),
                    attempt_of((0,), slot=1),
                    attempt_of((1, 0, 0), slot=2, first=2, parent=0),
                ),
                costs,
                strict=True,
            )
        )
        return Group(id=7, task=TASK, attempts=(own, other), forks=(fork,))

    free, dear = (
        {(sample.attempt.slot, sample.segment): sample for sample in by_replay(each, running_mean=0.0)}
        for each in (group((0, 0, 0)), group((0.2, 0.1, 0.4)))
    )
    assert dear[2, 0].advantages[2] - free[2, 0].advantages[2] == pytest.approx((-0.4 + 0.2) / 2)
    assert dear[1, 0].advantages[1] - free[1, 0].advantages[1] == pytest.approx(-0.1 + 0.2)


def test_a_fork_that_cheats_pays_and_is_in_nobodys_mean() -> None:
    own, other = attempt_of((1, 0, 1), slot=0), attempt_of((0,), slot=1)
    fork = attempt_of((1, 0, 0), slot=2, first=1, parent=0)  # the second of its turns proves it
    cheat = replace(fork, penalty=Penalty(why="canary", reward=-0.5, floor=0.0, event=2))
    group = Group(id=7, task=TASK, attempts=(own, other), forks=(cheat,))
    samples = {(sample.attempt.slot, sample.segment): sample for sample in by_replay(group, running_mean=0.0)}
    assert samples[2, 1].advantages[1] == pytest.approx(1.0 - 0.0), "before the proof its reward stands"
    assert samples[2, 0].advantages[2] == pytest.approx(-0.5 - 0.0), "against the others from its state"
    alone = Group(id=7, task=TASK, attempts=(own, other))
    rest = [sample for sample in by_replay(group, running_mean=0.0) if sample.attempt.slot != 2]
    assert rest == list(leave_one_out(alone, running_mean=0.0))
    assert turn_credits(own, group) == {}


def test_void_forks_count_for_nothing() -> None:
    own, other = attempt_of((1, 0, 1), slot=0), attempt_of((0,), slot=1)
    fork = replace(attempt_of((1, 0, 0), slot=2, first=2, parent=0), verdict=Verdict.void("gone"))
    group = Group(id=7, task=TASK, attempts=(own, other), forks=(fork,))
    plain = Group(id=7, task=TASK, attempts=(own, other))
    assert by_replay(group, running_mean=0.0) == leave_one_out(plain, running_mean=0.0)
