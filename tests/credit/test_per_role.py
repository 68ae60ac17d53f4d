"""Credit per role against the exact gradient of two agents, every outcome enumerated."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import pytest
from tests.credit.test_by_replay import TASK, Path, attempt_of, endings, exact, gradient, probability

from agito.learning.credit import (
    group_mean,
    leave_one_out,
    own_and_team,
    own_scores,
    per_role,
    per_role_spread,
)
from agito.learning.credit.own_and_team import OWN_SHARE
from agito.protocols import Credit
from agito.types import Attempt, Fault, Group, Sample, TokenSource

ORCHESTRATOR, WORKER = (0, 1, 4, 5, 6, 7), (2, 3)  # logits of what each of them decides
SPAWNS = probability("begin", 1)


def refused(attempt: Attempt) -> Attempt:
    """The same, where the worker's second way of acting is a call that is not carried out."""
    events = list(attempt.trajectory.events)
    for turn in attempt.trajectory.turns:
        sampled = attempt.trajectory.segments[turn.segment].tokens.ids[turn.start]
        if sampled == 3:
            events[turn.calls[0]] = replace(events[turn.calls[0]], fault=Fault.POLICY)
    return replace(attempt, trajectory=replace(attempt.trajectory, events=tuple(events)))


def mean_gradient(
    credit: Credit, size: int, change: Callable[[Attempt], Attempt] = lambda each: each
) -> list[float]:
    """Exactly, over all groups of this size; of one attempt."""
    total, ways = [0.0] * 8, list(endings(()))
    for several in product(ways, repeat=size):
        attempts = tuple(change(attempt_of(path, slot=slot)) for slot, (path, _) in enumerate(several))
        chance = math.prod(each for _, each in several)
        found = gradient(credit, Group(id=7, task=TASK, attempts=attempts))
        total = [sum_ + chance * value / size for sum_, value in zip(total, found, strict=True)]
    return total


def ratios(found: Sequence[float], logits: Sequence[int]) -> list[float]:
    of_two = exact()
    return [found[at] / (of_two[at] / 2) for at in logits]


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("credit", [per_role, own_and_team])
def test_credit_per_role_is_the_exact_gradient_times_a_positive_number_of_each_role(
    credit: Credit, size: int
) -> None:
    found = mean_gradient(credit, size)
    of_orchestrator, of_worker = ratios(found, ORCHESTRATOR), ratios(found, WORKER)
    assert of_orchestrator == pytest.approx([of_orchestrator[0]] * 6, rel=1e-4)
    assert of_worker == pytest.approx([of_worker[0]] * 2, rel=1e-4)
    assert of_worker[0] > 1 > of_orchestrator[0] > 0.5, "the worker says less, and is heard as much"
    if size == 2:  # the other attempt has one token, or two of the orchestrator and one of the worker
        assert of_orchestrator[0] == pytest.approx(1 - SPAWNS + SPAWNS * 0.75, rel=1e-4)
        assert of_worker[0] == pytest.approx(1 - SPAWNS + SPAWNS * 1.5, rel=1e-4)


@pytest.mark.parametrize("credit", [per_role_spread, group_mean])
def test_dividing_by_a_spread_that_the_attempt_itself_changes_is_biased(credit: Credit) -> None:
    of_orchestrator = ratios(mean_gradient(credit, 3), ORCHESTRATOR)
    assert max(of_orchestrator) / min(of_orchestrator) > 1.02


def test_the_bias_of_own_and_team_is_the_gradient_of_the_own_score_and_nothing_else() -> None:
    found = mean_gradient(own_and_team, 2, refused)
    plain = mean_gradient(per_role, 2)
    own = [0.0] * 8  # the gradient of how often the worker's call is carried out
    for path, chance in endings(()):
        for action in (0, 1) if len(path) > 1 else ():
            taken = path[1:2]
            own[2 + action] += chance * (taken == (0,)) * ((taken == (action,)) - probability("work", action))
    counted = SPAWNS * 1.5  # where the other attempt has a worker to be compared with, and its weight
    expected = [of_team + OWN_SHARE * counted * of_own for of_team, of_own in zip(plain, own, strict=True)]
    assert found == pytest.approx(expected, abs=1e-6)
    assert abs(own[2]) > 0.1


def test_an_agents_own_score_is_the_share_of_its_calls_that_were_carried_out() -> None:
    assert own_scores(refused(attempt_of((1, 1, 0), slot=0))) == {
        ("orchestrator", "orchestrator"): 1.0,
        ("worker", "worker"): 0.0,
    }


def talking(path: Path, slot: int, times: int) -> Attempt:
    """The worker says its token many times over."""
    own = attempt_of(path, slot=slot)
    first, worker = own.trajectory.segments
    tokens = worker.tokens
    longer = replace(
        tokens,
        ids=tokens.ids[:1] + tokens.ids[1:] * times,
        logprobs=tokens.logprobs[:1] + tokens.logprobs[1:] * times,
        kinds=bytes([TokenSource.OBSERVED]) + bytes([TokenSource.SAMPLED]) * times,
        channels=bytes(1 + times),
        versions=(replace(tokens.versions[0], stop=1 + times),),
    )
    segments = (first, replace(worker, tokens=longer))
    return replace(own, trajectory=replace(own.trajectory, segments=segments))


def heard(samples: Sequence[Sample], role: str) -> float:
    return sum(sum(map(abs, sample.advantages)) for sample in samples if sample.role == role)


@pytest.mark.parametrize("credit", [per_role, own_and_team])
def test_who_talks_much_is_not_who_is_heard(credit: Credit) -> None:
    attempts = tuple(talking(path, slot, 10) for slot, path in enumerate(((1, 0, 0), (1, 1, 0))))
    group = Group(id=7, task=TASK, attempts=attempts)
    inherited, weighed = (each(group, running_mean=math.nan) for each in (leave_one_out, credit))
    assert heard(inherited, "worker") == pytest.approx(5 * heard(inherited, "orchestrator"))
    assert heard(weighed, "worker") == pytest.approx(heard(weighed, "orchestrator"))
    assert sum(heard(weighed, role) for role in ("worker", "orchestrator")) == pytest.approx(
        sum(heard(inherited, role) for role in ("worker", "orchestrator"))
    ), "all together weigh as much as before"


@pytest.mark.parametrize("credit", [per_role, per_role_spread, own_and_team])
def test_equal_outcomes_teach_nothing_and_an_attempt_alone_neither(credit: Credit) -> None:
    same = tuple(attempt_of((1, 0, 0), slot=slot) for slot in range(3))
    samples = credit(Group(id=7, task=TASK, attempts=same), running_mean=math.nan)
    assert samples and all(value == 0.0 for sample in samples for value in sample.advantages)
    with pytest.raises(ValueError, match="need at least 2"):
        credit(Group(id=7, task=TASK, attempts=same[:1]), running_mean=math.nan)
