"""Which attempt runs next, whatever happens to earlier ones."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agito.scheduling.sync_scheduler import Quota, SyncScheduler
from agito.types import AttemptId

QUOTAS = st.builds(
    lambda groups, size, spare, live, first, refill, tries: Quota(
        ids=range(first, first + 2 * (groups + spare), 2),
        group_size=size,
        nonzero_variance=groups if refill else None,
        max_live=live,
        max_tries=tries,
    ),
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(0, 6),
    st.integers(1, 12),
    st.integers(0, 9),
    st.booleans(),
    st.integers(1, 3),
)
Outcomes = dict[AttemptId, float | None]


def run(quota: Quota, seed: int, void: float = 0.2, success: float = 0.5) -> tuple[Outcomes, int, int]:
    """Plays a schedule to its end, with attempts finishing in random order; returns outcomes, most alive,
    retries."""
    rng = random.Random(seed)
    schedule = SyncScheduler(quota)
    live, most, outcomes = list(schedule.start()), 0, dict[AttemptId, float | None]()
    while live:
        most = max(most, len(live))
        rng.shuffle(live)
        count = rng.randint(1, len(live))
        over, live = live[:count], live[count:]
        ended = [
            (attempt, None if rng.random() < void else float(rng.random() < success)) for attempt in over
        ]
        assert not {attempt for attempt, _ in ended} & outcomes.keys(), "an attempt was started twice"
        outcomes |= dict(ended)
        live += schedule.finished(ended)
    assert schedule.is_done
    return outcomes, most, schedule.retried


def final(outcomes: Outcomes) -> dict[tuple[int, int], float | None]:
    """The outcome of each slot: that of its last try."""
    return {(attempt.group, attempt.slot): outcomes[attempt] for attempt in sorted(outcomes)}


def by_group(outcomes: Outcomes) -> dict[int, list[float | None]]:
    groups: dict[int, list[float | None]] = {}
    for (group, _), reward in final(outcomes).items():
        groups.setdefault(group, []).append(reward)
    return groups


def has_variance(rewards: list[float | None]) -> bool:
    return len({reward for reward in rewards if reward is not None}) > 1


@given(quota=QUOTAS, seed=st.integers(0, 1 << 30))
def test_never_more_than_max_live_attempts_are_out(quota: Quota, seed: int) -> None:
    _, most, _ = run(quota, seed)
    assert most <= quota.max_live


@given(quota=QUOTAS, seed=st.integers(0, 1 << 30))
def test_every_slot_of_every_issued_group_ends_once(quota: Quota, seed: int) -> None:
    outcomes, _, _ = run(quota, seed)
    groups = by_group(outcomes)
    assert all(len(rewards) == quota.group_size for rewards in groups.values())
    assert sorted(groups) == list(quota.ids[: len(groups)])
    ended_well = Counter(
        (attempt.group, attempt.slot) for attempt, reward in outcomes.items() if reward is not None
    )
    assert all(count == 1 for count in ended_well.values())


@given(quota=QUOTAS, seed=st.integers(0, 1 << 30))
def test_a_void_attempt_is_tried_again_then_masked_and_never_becomes_a_zero(quota: Quota, seed: int) -> None:
    outcomes, _, retried = run(quota, seed, void=0.5)
    voids = [attempt for attempt, reward in outcomes.items() if reward is None]
    for attempt in voids:
        again = AttemptId(group=attempt.group, slot=attempt.slot, tries=attempt.tries + 1)
        assert (again in outcomes) == (attempt.tries + 1 < quota.max_tries)
    masked = sum(reward is None for reward in final(outcomes).values())
    assert retried == len(voids) - masked


@given(quota=QUOTAS, seed=st.integers(0, 1 << 30))
def test_only_groups_without_spread_are_replaced_and_only_as_many_as_allowed(quota: Quota, seed: int) -> None:
    outcomes, _, _ = run(quota, seed)
    groups = by_group(outcomes)
    if quota.nonzero_variance is None:
        assert len(groups) == len(quota.ids)
        return
    useless = sum(not has_variance(rewards) for rewards in groups.values())
    assert quota.nonzero_variance <= len(groups) <= len(quota.ids)
    assert len(groups) - quota.nonzero_variance <= useless
    assert len(groups) - useless >= quota.nonzero_variance or len(groups) == len(quota.ids)


def test_void_attempts_alone_do_not_make_a_group_mixed() -> None:
    schedule = SyncScheduler(Quota(ids=[0, 1], group_size=2, nonzero_variance=1, max_tries=1))
    first, second = schedule.start()
    assert schedule.finished([(first, 1.0)]) == ()
    assert {attempt.group for attempt in schedule.finished([(second, None)])} == {1}, (
        "a one and a void are no contrast"
    )


def test_the_same_events_give_the_same_decisions() -> None:
    quota = Quota(ids=range(9), group_size=3, nonzero_variance=5, max_live=7)
    assert list(run(quota, 4)[0].items()) == list(run(quota, 4)[0].items())


def test_a_retry_goes_before_everything_that_waits() -> None:
    schedule = SyncScheduler(Quota(ids=range(3), group_size=2, max_live=2))
    first, _ = schedule.start()
    assert schedule.finished([(first, None)]) == (AttemptId(group=0, slot=0, tries=1),)


@pytest.mark.parametrize(("groups", "group_size"), [(0, 2), (2, 0)])
def test_an_empty_quota_is_refused(groups: int, group_size: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        SyncScheduler(Quota(ids=range(groups), group_size=group_size))
