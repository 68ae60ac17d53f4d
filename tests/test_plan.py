"""The simulated loop against hand-worked values."""

from __future__ import annotations

from itertools import pairwise

import pytest

from agito.recipe import read
from agito.scheduling.async_scheduler import SchedulerRules
from agito.testing.relay import Relay
from agito.training.planning.calibrate import measure
from agito.training.planning.simulate import Forecast, Latencies, Simulation


def foresee(
    staleness: int,
    *,
    train_s: float = 1.0,
    tool_s: float = 1.0,
    p99_s: float = 0.0,
    seed: int = 0,
    batches: int = 40,
) -> Forecast:
    rules = SchedulerRules(groups=4, group_size=2, batches=batches, max_staleness=staleness, max_live=4096)
    latencies = Latencies(
        exchange_s=0.01,
        row_s=0.0,
        token_s=0.0,
        train_s=train_s,
        turns=2,
        turn_tokens=4,
        decode_steps=4,
        tool_median_s=tool_s,
        tool_p99_s=p99_s,
    )
    return Simulation(rules, latencies, seed=seed).run()


def test_without_staleness_a_step_is_acting_then_learning() -> None:
    found = foresee(0, train_s=1.0, tool_s=1.0)
    assert found.step_s == pytest.approx(2 * 1.01 + 1.0, rel=0.02)
    assert found.age_max == 0


def test_with_staleness_the_slower_of_acting_and_learning_is_what_a_step_takes() -> None:
    assert foresee(8, train_s=1.0, tool_s=1.0, batches=200).step_s == pytest.approx(1.0, rel=0.05)
    assert foresee(8, train_s=1.0, tool_s=1.0, batches=200).trainer_idle < 0.05


def test_a_tool_that_takes_longer_than_staleness_can_hide_is_waited_for_and_the_wait_is_shown() -> None:
    found = foresee(1, train_s=0.1, tool_s=2.0)
    assert found.trainer_idle > 0.9


def test_more_staleness_is_never_slower_under_a_heavy_tail_and_ages_stay_below_it() -> None:
    for seed in range(3):
        found = [
            foresee(staleness, tool_s=0.2, p99_s=4.0, train_s=0.2, seed=seed) for staleness in (0, 1, 2, 4, 8)
        ]
        assert all(each.age_max <= staleness for each, staleness in zip(found, (0, 1, 2, 4, 8), strict=True))
        assert all(slower.wall_s > faster.wall_s * 0.98 for slower, faster in pairwise(found))


def test_the_same_seed_is_the_same_run() -> None:
    assert foresee(2, p99_s=5.0, seed=3) == foresee(2, p99_s=5.0, seed=3) != foresee(2, p99_s=5.0, seed=4)


def test_a_version_is_offered_when_every_engine_has_taken_the_one_before() -> None:
    """A regression: exchanges longer than a training batch once corrupted the count of engines, and the run
    stalled."""
    rules = SchedulerRules(groups=4, group_size=2, batches=6, max_staleness=3, max_live=64)
    slow = Latencies(
        exchange_s=5.0, row_s=0.1, token_s=0.0, train_s=0.5, pull_s=0.1, turns=3, tool_median_s=0.2
    )
    seen = Simulation(rules, slow, engines=3).run()
    assert 0 <= seen.age_max <= 3 and seen.wall_s > 0


def test_roles_that_crowd_one_another_are_slower_while_both_are_at_work_and_only_then() -> None:
    """The first row's exchange begins at once, the other three share the next: 2 s. The first batch is alone:
    1 s. The second batch and the first exchange of the third group take 1 s each, or 1.5 s, together. Its
    second exchange and the last batch are alone: 1 s each.
    """
    rules = SchedulerRules(groups=1, group_size=2, batches=3, max_staleness=1)

    def wall_s(slowdown: float) -> float:
        latencies = Latencies(
            exchange_s=1.0, row_s=0.0, token_s=0.0, train_s=1.0, turns=1, turn_tokens=4, slowdown=slowdown
        )
        return Simulation(rules, latencies).run().wall_s

    assert wall_s(1.0) == pytest.approx(6.0)
    assert wall_s(1.5) == pytest.approx(6.5)


def test_an_engine_that_only_takes_new_weights_crowds_nobody() -> None:
    """Three exchanges' worth of tools: engines are idle while the batches are trained on but for the moment
    of a take.
    """
    rules = SchedulerRules(groups=1, group_size=2, batches=3, max_staleness=0)

    def wall_s(slowdown: float) -> float:
        latencies = Latencies(
            exchange_s=0.1,
            row_s=0.0,
            token_s=0.0,
            train_s=1.0,
            pull_s=0.1,
            turns=1,
            turn_tokens=4,
            slowdown=slowdown,
        )
        return Simulation(rules, latencies).run().wall_s

    assert wall_s(2.0) == pytest.approx(wall_s(1.0))


def test_a_run_can_be_foreseen_with_the_waits_of_a_real_one() -> None:
    """Two turns of two attempts in each of one group's steps: only the second call of one attempt takes its
    time.
    """
    rules = SchedulerRules(groups=1, group_size=2, batches=3, max_staleness=0, max_live=4096)
    latencies = Latencies(
        exchange_s=0.01,
        row_s=0.0,
        token_s=0.0,
        train_s=1.0,
        turns=2,
        turn_tokens=4,
        decode_steps=4,
        tool_median_s=99.0,
    )
    waits = {
        (group, slot, call): 3.0 if (group, slot, call) == (1, 0, 1) else 0.0
        for group in range(3)
        for slot in range(2)
        for call in range(2)
    }
    found = Simulation(
        rules, latencies, wait_s=lambda attempt, call: waits.pop((attempt.group, attempt.slot, call))
    ).run()
    assert found.wall_s == pytest.approx(3 * (0.02 + 1.0) + 3.0, abs=0.05)
    assert not waits, "each is asked for once"


def test_engines_that_share_the_work_are_as_fast_as_one_engine_each_for_half_of_it() -> None:
    """Cells are not simulated, so all groups are alike; assigning them must cost at most a few per cent."""
    latencies = Latencies(
        exchange_s=0.01, row_s=0.002, token_s=0.0, train_s=0.01, turns=4, tool_median_s=0.05
    )

    def step_s(groups: int, engines: int) -> float:
        rules = SchedulerRules(
            groups=groups, group_size=4, batches=30, max_staleness=4, max_live=64 * engines
        )
        return Simulation(rules, latencies, engines=engines).run().step_s

    assert step_s(16, 2) < 1.1 * step_s(8, 1)


@pytest.mark.anyio
async def test_a_recipe_of_several_cells_can_be_measured() -> None:
    sizes = (
        "hidden_size=32",
        "intermediate_size=64",
        "num_layers=1",
        "num_heads=2",
        "num_kv_heads=1",
        "head_dim=16",
        "vocab_size=300",
    )
    small = [f"model.{size}" for size in sizes]
    recipe = read(
        "chain",
        (
            *small,
            'pipeline.mode="decoupled"',
            "rl.groups=2",
            "rl.group_size=2",
            "rl.oversampling=1.0",
            "compute.max_num_seqs=16",
        ),
    )
    seen = await measure(recipe, Relay(turns=2, turn_tokens=4, words=4), steps=1)
    assert len(seen.steps) == 1 and len(recipe.env.levels) > 1
