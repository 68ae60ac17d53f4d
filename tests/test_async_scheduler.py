"""The overlapped scheduler: no token older than allowed, nothing dropped for its age, whatever the
latencies."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from agito.scheduling.async_scheduler import AsyncScheduler, Batch, SchedulerRules
from agito.types import AttemptId

RULES = st.builds(
    lambda groups, size, batches, staleness, refill, live, tries: SchedulerRules(
        groups=groups,
        group_size=size,
        batches=batches,
        max_staleness=staleness,
        oversampling=refill,
        max_live=live,
        max_tries=tries,
    ),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 12),
    st.integers(0, 4),
    st.sampled_from([1.0, 1.5, 2.0]),
    st.integers(1, 40),
    st.integers(1, 2),
)


@dataclass
class World:
    """A trainer and attempts with random, heavy-tailed durations; records the versions that sampled each
    attempt's tokens."""

    rules: SchedulerRules
    seed: int
    mixed: float = 0.6
    void: float = 0.1
    now: float = 0.0
    engine: int = 0  # its version
    issued: list[int] = field(default_factory=list[int])
    batches: list[Batch] = field(default_factory=list[Batch])
    # group → version of its oldest token
    first_version: dict[int, int] = field(default_factory=dict[int, int])
    # group → how long its longest attempt took
    lengths: dict[int, float] = field(default_factory=dict[int, float])
    most_live: int = 0
    most_outstanding: int = 0

    def run(self) -> World:
        rng, flow = random.Random(self.seed), AsyncScheduler(self.rules)
        events: list[tuple[float, int, str, AttemptId | int]] = []
        numbers, has_variance, published = iter(range(10**6)), dict[int, bool](), 0.0

        def later(delay: float, kind: str, what: AttemptId | int) -> None:
            heapq.heappush(events, (self.now + delay, next(numbers), kind, what))

        while not flow.is_done:
            if wanted := flow.num_wanted():
                new = list(range(len(self.issued), len(self.issued) + wanted))
                self.issued += new
                flow.issue(new)
                has_variance |= {group: rng.random() < self.mixed for group in new}
            for attempt in flow.release():
                self.first_version[attempt.group] = min(
                    self.first_version.get(attempt.group, self.engine), self.engine
                )
                took = rng.paretovariate(1.1)
                self.lengths[attempt.group] = max(self.lengths.get(attempt.group, 0.0), took)
                later(took, "finished", attempt)
            if batch := flow.batch():
                self.batches.append(batch)
                later(rng.uniform(0.1, 3.0), "trained", batch.number + 1)
            self.most_live, self.most_outstanding = (
                max(self.most_live, flow.num_live),
                max(self.most_outstanding, len(flow.outstanding)),
            )
            assert events, (
                f"nothing more will happen at batch {flow.next_batch} of {self.rules}: {flow.outstanding}"
            )
            self.now, _, kind, what = heapq.heappop(events)
            if isinstance(what, AttemptId):
                is_void = rng.random() < self.void
                flow.finished(what, None if is_void else float(has_variance[what.group] and what.slot % 2))
            elif kind == "trained":
                flow.trained()
                published = max(published, self.now) + rng.uniform(0.0, 1.0)  # one after the other
                later(published - self.now, "published", what)
            else:
                self.engine = what
                flow.published(what)
        assert not flow.outstanding, "a group was issued and never looked at"
        return self


@given(rules=RULES, seed=st.integers(0, 10**6))
def test_no_token_is_trained_on_that_is_older_than_allowed_whatever_takes_how_long(
    rules: SchedulerRules, seed: int
) -> None:
    world = World(rules, seed).run()
    for batch in world.batches:
        for group in batch.groups:
            assert batch.number - world.first_version[group] <= rules.max_staleness


@given(rules=RULES, seed=st.integers(0, 10**6), mixed=st.sampled_from([0.0, 0.3, 0.6, 0.9]))
def test_no_group_that_came_out_even_is_looked_at_later_than_its_bound(
    rules: SchedulerRules, seed: int, mixed: float
) -> None:
    world = World(rules, seed, mixed=mixed, void=0.0).run()
    for batch in world.batches:
        for group in batch.zero_variance:
            assert batch.number - world.first_version[group] <= rules.max_staleness


@given(rules=RULES, seed=st.integers(0, 10**6))
def test_every_group_is_in_exactly_one_batch_however_long_it_took(rules: SchedulerRules, seed: int) -> None:
    world = World(rules, seed).run()
    seen = sorted(group for batch in world.batches for group in (*batch.groups, *batch.zero_variance))
    assert seen == world.issued
    assert sorted(world.lengths) == seen


@given(rules=RULES, seed=st.integers(0, 10**6))
def test_every_batch_comes_once_is_big_enough_and_no_more_is_out_than_the_rules_say(
    rules: SchedulerRules, seed: int
) -> None:
    world = World(rules, seed).run()
    assert [batch.number for batch in world.batches] == list(range(rules.batches))
    looked_at = 0
    for batch in world.batches:
        looked_at = max(looked_at - rules.considered, 0) + len(batch.groups) + len(batch.zero_variance)
        assert len(batch.groups) + len(batch.zero_variance) > 0 and len(batch.groups) <= rules.groups
        assert len(batch.groups) == rules.groups or looked_at >= rules.considered
    assert world.most_live <= rules.max_live
    assert world.most_outstanding <= (rules.max_staleness + 1) * rules.considered


def test_without_staleness_everything_waits_for_the_slowest_and_with_it_the_trainer_goes_on() -> None:
    spans: list[float] = []
    for staleness in (0, 1, 4):
        rules = SchedulerRules(groups=4, group_size=2, batches=20, max_staleness=staleness, max_live=256)
        spans.append(sum(World(rules, seed, mixed=1.0, void=0.0).run().now for seed in range(10)))
    assert spans[0] > 1.1 * spans[1] > 1.1 * 1.1 * spans[2], spans


def test_a_resumed_flow_takes_up_what_was_out_and_ends_with_the_same_number_of_batches() -> None:
    rules = SchedulerRules(groups=2, group_size=1, batches=5, max_staleness=1)
    flow = AsyncScheduler(rules, version=3, reissued=[7, 8, 9])
    assert flow.num_wanted() == 1  # four can be trained on in the two batches that are left
    flow.issue([10])
    out = flow.release()
    assert [attempt.group for attempt in out] == [7, 8, 9, 10]
    for attempt in out:
        flow.finished(attempt, 1.0)
    for number in (3, 4):
        batch = flow.batch()
        assert batch is not None
        assert batch.number == number
        assert len(batch.zero_variance) == 2
        flow.trained()
        flow.published(number + 1)
    assert flow.is_done


def test_a_group_that_is_due_is_waited_for_and_named() -> None:
    flow = AsyncScheduler(SchedulerRules(groups=1, group_size=2, batches=9, max_staleness=1))
    flow.issue([0, 1])
    out = flow.release()
    for attempt in out[2:]:  # group 1
        flow.finished(attempt, float(attempt.slot))
    batch = flow.batch()  # group 0 can still be in the next one
    assert batch is not None
    assert batch.groups == (1,)
    flow.trained()
    flow.published(1)
    flow.issue([2])
    for attempt in flow.release():
        flow.finished(attempt, float(attempt.slot))
    assert flow.batch() is None
    assert flow.is_gated
    assert flow.waits_for == 0
