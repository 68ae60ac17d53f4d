"""Which cells the next tasks come from."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agito.errors import CorruptCheckpoint
from agito.scheduling.curriculum import Curriculum, GroupOutcome, Part, draw, shares
from agito.training.loop import stride

WEIGHTS = st.lists(st.floats(0, 10), min_size=1, max_size=8).filter(lambda weights: sum(weights) > 1e-3)


@given(weights=WEIGHTS, count=st.integers(0, 200))
def test_shares_add_up_and_are_within_one_of_exact(weights: list[float], count: int) -> None:
    parts = shares(weights, count)
    assert sum(parts) == count
    assert all(
        abs(part - count * weight / sum(weights)) < 1 + 1e-6
        for part, weight in zip(parts, weights, strict=True)
    )


@given(weights=WEIGHTS, count=st.integers(0, 200), first=st.integers(0, 10_000))
def test_drawn_numbers_are_new_and_of_the_cells_that_the_weights_say(
    weights: list[float], count: int, first: int
) -> None:
    numbers = draw(weights, count, seed="", first=first)
    assert len(set(numbers)) == count
    assert all(number >= first for number in numbers)
    for cell, weight in enumerate(weights):
        assert (
            abs(sum(number % len(weights) == cell for number in numbers) - count * weight / sum(weights))
            < 1 + 1e-6
        )


def test_cells_that_come_first_are_not_drawn_more_often_than_others() -> None:
    drawn = Counter(
        number % 6 for step in range(600) for number in draw([1.0] * 6, 2, seed="0", first=step * 100)
    )
    assert min(drawn.values()) > 150, drawn  # 200 each on average


def test_every_stretch_of_a_draw_is_about_even() -> None:
    numbers = draw([1, 1, 2, 4], 64, seed="")
    for half in (numbers[:32], numbers[32:]):
        found = [sum(number % 4 == cell for number in half) for cell in range(4)]
        assert all(abs(number - wanted) <= 1 for number, wanted in zip(found, [4, 4, 8, 16], strict=True)), (
            found
        )


def test_without_any_weight_nothing_can_be_drawn() -> None:
    with pytest.raises(ValueError, match="at least one must be above zero"):
        draw([0.0, 0.0], 3, seed="")


def seen(cell: int, has_variance: bool, solved: float = 0.5) -> GroupOutcome:
    return GroupOutcome(cell=cell, has_variance=has_variance, solved=solved)


def test_a_curriculum_leaves_what_is_settled_and_stays_where_outcomes_differ() -> None:
    curriculum = Curriculum(2)
    assert curriculum.weights() == [1.15, 1.15]
    for _ in range(6):
        curriculum.update([seen(0, False), seen(0, False), seen(1, True), seen(1, False)])
    settled, open_ = curriculum.weights()
    assert settled == pytest.approx(0.15 + 0.5**6)
    assert open_ == pytest.approx(0.65, abs=0.01)
    curriculum.update([seen(0, True)])
    assert curriculum.weights()[0] > 0.6, "a cell that was settled is noticed again"


def test_its_state_survives_a_checkpoint_to_the_bit() -> None:
    curriculum = Curriculum(3)
    curriculum.update([seen(0, True), seen(0, False), seen(0, False, 0.25), seen(2, False)])
    again = Curriculum(3)
    again.restore(json.loads(json.dumps(curriculum.to_json())))
    assert again.to_json() == curriculum.to_json()
    with pytest.raises(CorruptCheckpoint, match="for each of 4 cells"):
        Curriculum(4).restore(curriculum.to_json())


def test_cells_that_are_always_or_never_solved_are_put_aside_and_come_back() -> None:
    curriculum = Curriculum(3, solve_rate=(0.05, 0.95))
    for _ in range(6):
        curriculum.update([seen(0, True, 0.0), seen(1, True, 0.5), seen(2, True, 1.0)])
    never, open_, always = curriculum.weights()
    assert never == always == pytest.approx(open_ / 10)
    curriculum.update([seen(0, True, 0.5)])
    assert curriculum.weights()[0] == open_
    figures = curriculum.metrics([("a", 1), ("B c", 1), ("c", 2)])
    assert (
        figures["sampled/in-c-2_ratio"] == pytest.approx(0.1 / 2.1)
        and figures["solved/in-b-c-1_ratio"] == 0.5
    )


def test_an_environment_of_a_mixture_keeps_its_weight_whatever_is_learned_of_its_cells() -> None:
    curriculum = Curriculum(4, parts=[Part(num_cells=1, weight=3.0), Part(num_cells=3, weight=1.0)])
    for _ in range(4):
        curriculum.update([seen(1, False), seen(0, False)])
    weights = curriculum.weights()
    assert weights[0] == pytest.approx(3.0) and sum(weights[1:]) == pytest.approx(1.0)
    assert weights[1] < weights[2] == weights[3]


@pytest.mark.parametrize(("num_groups", "num_cells"), [(36, 9), (768, 24), (384, 48), (1, 20_000)])
def test_a_step_has_task_numbers_enough_when_all_its_groups_come_from_one_cell(
    num_groups: int, num_cells: int
) -> None:
    taken: set[int] = set()
    for step, cell in enumerate((0, num_cells - 1, num_cells // 2)):
        first = step * stride(num_groups, num_cells)
        numbers = draw([float(each == cell) for each in range(num_cells)], num_groups, seed="0", first=first)
        assert {number % num_cells for number in numbers} == {cell}
        assert not taken & set(numbers) and max(numbers) < first + stride(num_groups, num_cells)
        taken |= set(numbers)
