"""Capture and the adaptivity gap, on policies of which they are known."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from statistics import fmean

import pytest
from tests.credit.test_prices import thinking

from agito.evaluation.adaptivity import Paired, adaptivity, by_difficulty, spearman
from agito.evaluation.effort import auto_of, paired
from agito.testing import FakeEnvironment
from agito.types import Effort, Task

SHOWN = ("1", "2", "3", "4")
# Success at each effort by what the prompt shows, and what the effort costs: thinking pays on two of four.
SUCCESS = {Effort.NONE: (0.95, 0.8, 0.1, 0.05), Effort.HIGH: (0.95, 0.9, 0.9, 0.85)}
COST = {Effort.NONE: 0.0, Effort.HIGH: 0.3}
MEANS = {effort: [won - COST[effort] for won in SUCCESS[effort]] for effort in SUCCESS}
ORACLE = fmean(max(MEANS[effort][at] for effort in MEANS) for at in range(4))
FIXED = max(fmean(means) for means in MEANS.values())


def drawn(num: int, think: tuple[float, ...], seed: int) -> Paired:
    """A policy that thinks with these probabilities; every attempt is drawn for itself."""
    rng = random.Random(seed)
    shown = [at % 4 for at in range(num)]

    def attempt(effort: Effort, at: int) -> float:
        return float(rng.random() < SUCCESS[effort][at]) - COST[effort]

    auto = [attempt(Effort.HIGH if rng.random() < think[at] else Effort.NONE, at) for at in shown]
    return Paired(
        shown=[SHOWN[at] for at in shown],
        fixed={effort: [attempt(effort, at) for at in shown] for effort in SUCCESS},
        auto=auto,
    )


PERFECT, ALWAYS, BLIND, REVERSED = (0, 0, 1, 1), (1, 1, 1, 1), (0.5,) * 4, (1, 1, 0, 0)


def test_perfect_adaptivity_captures_the_whole_gap_and_a_constant_policy_nothing() -> None:
    """The true value lies in the interval, which is of a useful width with 2,000 paired tasks."""
    for think, truth in ((PERFECT, ORACLE), (ALWAYS, FIXED), (BLIND, fmean(map(fmean, MEANS.values())))):
        found = adaptivity([drawn(2000, think, seed=1)], draws=400)
        assert found.gap.value == pytest.approx(ORACLE - FIXED, abs=0.02) and found.gap.value > 0.1
        assert found.capture is not None
        expected = (truth - FIXED) / (ORACLE - FIXED)
        assert found.capture.value == pytest.approx(expected, abs=0.15)
        assert found.capture.low <= expected <= found.capture.high
        assert found.capture.high - found.capture.low < 0.75
    worse = adaptivity([drawn(2000, REVERSED, seed=1)], draws=100)
    assert worse.capture is not None and worse.capture.value < -1


def test_a_policy_that_copies_the_oracle_attempt_by_attempt_captures_one_exactly() -> None:
    paired = drawn(2000, PERFECT, seed=2)
    best = {shown: Effort.NONE if shown in "12" else Effort.HIGH for shown in SHOWN}
    copied = [paired.fixed[best[shown]][at] for at, shown in enumerate(paired.shown)]
    found = adaptivity([Paired(shown=paired.shown, fixed=paired.fixed, auto=copied)], draws=100)
    assert found.capture is not None and found.capture.value == pytest.approx(1.0)
    same = adaptivity(
        [Paired(shown=paired.shown, fixed=paired.fixed, auto=paired.fixed[Effort.HIGH])], draws=100
    )
    assert same.capture is not None and same.capture.value == pytest.approx(0.0)


def test_noise_makes_no_gap_where_there_is_none() -> None:
    """Five efforts that are equally good. An oracle scored on the tasks that it was chosen on sees a gap of
    noise; chosen on other tasks it sees none."""
    fixed, naive = [Effort.NONE, Effort.LOW, Effort.MEDIUM, Effort.HIGH], []
    gaps = list[float]()
    for seed in range(60):
        rng = random.Random(seed)
        shown = [SHOWN[at % 4] for at in range(80)]
        rows = {effort: [float(rng.random() < 0.5) for _ in shown] for effort in fixed}
        found = adaptivity([Paired(shown=shown, fixed=rows, auto=rows[Effort.LOW])], draws=2)
        assert found.capture is None or found.gap.value >= 0.10
        gaps.append(found.gap.value)
        means = {
            (each, effort): fmean(row[at] for at, thing in enumerate(shown) if thing == each)
            for each in SHOWN
            for effort, row in rows.items()
        }
        oracle = fmean(max(means[each, effort] for effort in fixed) for each in SHOWN)
        naive.append(oracle - max(map(fmean, rows.values())))
    assert fmean(naive) > 0.06
    assert abs(fmean(gaps)) < 0.025


def test_what_the_prompt_does_not_show_is_no_gap() -> None:
    """Half of the tasks need thinking, and nothing says which."""
    paired = drawn(2000, BLIND, seed=3)
    hidden = adaptivity([Paired(shown=["all"] * 2000, fixed=paired.fixed, auto=paired.auto)], draws=100)
    assert hidden.gap.value == pytest.approx(0.0, abs=1e-9) and hidden.capture is None


def test_void_tasks_are_left_out_and_checkpoints_have_oracles_of_their_own() -> None:
    one, other = drawn(400, PERFECT, seed=4), drawn(400, PERFECT, seed=5)
    broken = Paired(shown=one.shown, fixed=one.fixed, auto=[math.nan, *one.auto[1:]])
    found = adaptivity([broken, other], draws=50)
    assert found.num == 799
    alone = [adaptivity([each], draws=2).oracle.value for each in (broken, other)]
    assert found.oracle.value == pytest.approx(fmean(alone))
    with pytest.raises(ValueError, match="need at least one of each"):
        adaptivity([Paired(shown=["a"], fixed={Effort.NONE: [math.nan]}, auto=[1.0])])


def test_rank_correlation_agrees_with_its_hand_worked_values() -> None:
    assert spearman([1, 2, 3, 4], [0.1, 0.2, 0.9, 1.0]) == pytest.approx(1.0)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1.0)
    assert spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)  # 1 - 6·2 / (4·15)
    assert spearman([1, 2, 3, 4], [0, 0, 1, 1]) == pytest.approx(2 / math.sqrt(5))
    assert math.isnan(spearman([1, 2, 3], [1, 1, 1]))
    assert by_difficulty([2, 1, 2], [0.0, 1.0, 1.0]) == {1: 1.0, 2: 0.5}


def test_an_environment_says_what_its_prompts_show_and_otherwise_it_is_family_and_level() -> None:
    class Hides(FakeEnvironment):
        def shown(self, task: Task) -> str:
            return "all"

    class Closed(FakeEnvironment):
        """Says nothing of it."""

    task, _ = FakeEnvironment().task(split="train", index=0, seed=0)
    found = {
        effort: [
            replace(
                thinking(Effort.HIGH, 1), trajectory=replace(thinking(Effort.HIGH, 1).trajectory, task=each)
            )
            for each in (replace(task, level=1), replace(task, level=2))
        ]
        for effort in (Effort.NONE, Effort.HIGH, Effort.AUTO)
    }
    assert paired(found, Hides(), lambda _: 1.0).shown == ["all", "all"]
    assert paired(found, Closed(), lambda _: 1.0).shown == [f"{task.family}-1", f"{task.family}-2"]
    auto = auto_of(found, Closed(), lambda _: 1.0)
    assert auto is not None and auto.think_ratio == {1: 1.0, 2: 1.0} and auto.p_think == {1: 0.0, 2: 0.0}
    assert auto.to_json()["capture"] is None and auto.to_json()["spearman"] == {
        "p_think": None,
        "think_ratio": None,
    }
