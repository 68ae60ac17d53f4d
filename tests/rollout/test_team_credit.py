"""Credit by replay tells the members of a team apart where credit that all of them share does not."""

from __future__ import annotations

import math

import pytest

from agito.learning.credit import agent_credits, by_replay, leave_one_out, per_role
from agito.testing.planted import CREDIT, SAID, planted_group
from agito.types import Attempt, Sample

pytestmark = pytest.mark.anyio
NUM_GROUPS, GROUP_SIZE, FORKS = 3, 4, 16


def advantage(samples: tuple[Sample, ...], attempt: Attempt, segment: int) -> float:
    """Of the tokens of one agent."""
    (sample,) = (
        sample
        for sample in samples
        if sample.attempt == attempt.trajectory.attempt and sample.segment == segment
    )
    (found,) = {value for value, on in zip(sample.advantages, sample.trainable, strict=True) if on}
    return found


async def test_a_free_rider_and_a_saboteur_are_found_by_replay_and_not_by_inherited_credit() -> None:
    measured: dict[str, list[float]] = {name: [] for name in SAID}
    for number in range(NUM_GROUPS):
        group = await planted_group(number, size=GROUP_SIZE, forks=FORKS)
        assert all(fork.is_scored for fork in group.forks), [each.trajectory.detail for each in group.forks]
        replayed = by_replay(group, running_mean=math.nan)
        for attempt in group.attempts:
            found = agent_credits(attempt, group)
            for shared in (leave_one_out, per_role):
                samples = shared(group, running_mean=math.nan)
                assert len({advantage(samples, attempt, segment) for segment in (1, 2, 3)}) == 1
            for segment, name in enumerate(SAID, start=1):
                measured[name].append(found[f"worker-0.{segment - 1}"])
                assert advantage(replayed, attempt, segment) == pytest.approx(measured[name][-1], abs=1e-6)
    means = {name: sum(values) / len(values) for name, values in measured.items()}
    assert means["seer"] == pytest.approx(CREDIT["seer"], abs=0.15), "without it, only the liar's box is read"
    assert means["idler"] == pytest.approx(CREDIT["idler"], abs=0.15), "its report is ignored"
    assert means["liar"] == pytest.approx(CREDIT["liar"], abs=0.15), "without it, only the right box is read"


async def test_a_fork_pays_for_all_that_it_repeats_but_not_for_an_agent_that_it_leaves_out() -> None:
    group = await planted_group(0, size=2, forks=1, cost=lambda each: float(len(each.trajectory.turns)))
    paid = {
        fork.cost for fork in group.forks if fork.trajectory.lineage and not fork.trajectory.lineage.without
    }
    assert {attempt.cost for attempt in group.attempts} == paid == {5.0}, "hand out, three reports, submit"
    without = [fork for fork in group.forks if fork.trajectory.lineage and fork.trajectory.lineage.without]
    assert {fork.cost for fork in without} == {4.0} and len(without) == 6
