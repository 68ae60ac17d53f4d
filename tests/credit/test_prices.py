"""Prices of thinking, and utility wherever learning decides."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from tests.credit.test_leave_one_out import TASK, trajectory

from agito.learning.credit import leave_one_out
from agito.learning.effort import EffortSection
from agito.learning.prices import Prices
from agito.types import Attempt, Effort, FinishReason, Group, Status, Turn, Verdict

SECTION = EffortSection(
    settings=(Effort.NONE, Effort.LOW, Effort.HIGH),
    shares={Effort.LOW: 0.5},
    call_cost=0.0,
    turn_cost=0.0,
    price_step=0.01,
    price_most=0.05,
)


def attempt(slot: int, reward: float) -> Attempt:
    return Attempt(trajectory=trajectory(slot), verdict=Verdict(status=Status.SCORED, reward=reward))


def thinking(effort: Effort, tokens: int, reward: float = 1.0, *, slot: int = 0) -> Attempt:
    found = attempt(slot, reward)
    turn = Turn(segment=0, start=2, stop=7, stopped=FinishReason.END, effort=effort, num_thought=tokens)
    more = replace(turn, num_thought=0, continues=True)
    return replace(found, trajectory=replace(found.trajectory, turns=(turn, more)))


def group(effort: Effort, *tokens: int) -> Group:
    attempts = tuple(thinking(effort, each, slot=slot) for slot, each in enumerate(tokens))
    return Group(id=0, task=TASK, attempts=attempts)


def test_efforts_take_turns_evenly_whatever_number_a_step_begins_with() -> None:
    def efforts(start: int, num: int, cell: int) -> list[Effort]:
        asked = [SECTION.in_turn(start + at, cell=cell) for at in range(num)]
        return [each.effort for each in asked if each is not None]

    for start in (0, 2499, 9):
        counts = Counter(efforts(start, 300, 1))
        assert counts == dict.fromkeys(SECTION.settings, 100)
    firsts = {efforts(2499, 1, cell)[0] for cell in range(12)}
    assert firsts == set(SECTION.settings), "no effort always comes first"


def test_a_price_rises_while_an_effort_costs_more_than_its_share_and_falls_back_to_zero() -> None:
    prices = Prices(SECTION)
    dear = [group(Effort.HIGH, 40, 40), group(Effort.LOW, 40, 40)]
    cheap = [group(Effort.HIGH, 40, 40), group(Effort.LOW, 4, 4)]
    low = thinking(Effort.LOW, 10)
    prices.update(dear, is_free=True)
    assert prices.of(low) == 0.0, "nothing has a price yet"
    prices.update(dear, is_free=False)
    assert prices.of(low) == pytest.approx(0.01 * (40 / 20 - 1) * 10)
    for _ in range(20):
        prices.update(dear, is_free=False)
    assert prices.of(low) == pytest.approx(0.05 * 10), "the highest price"
    for _ in range(40):
        prices.update(cheap, is_free=False)
    assert prices.of(low) == 0.0


def test_efforts_without_a_share_have_no_price() -> None:
    prices = Prices(SECTION)
    for _ in range(5):
        prices.update([group(Effort.HIGH, 40, 80), group(Effort.NONE, 9, 9)], is_free=False)
    assert prices.of(thinking(Effort.HIGH, 99)) == prices.of(thinking(Effort.NONE, 99)) == 0.0


def test_to_fail_briefly_is_no_better_than_to_fail_at_length() -> None:
    prices = Prices(SECTION)
    prices.update([group(Effort.HIGH, 10, 10), group(Effort.LOW, 20, 20)], is_free=False)
    brief, long = (thinking(Effort.LOW, tokens, reward=0.0) for tokens in (1, 99))
    assert prices.of(brief) == prices.of(long) > 0
    brief, long = (thinking(Effort.LOW, tokens, reward=1.0) for tokens in (1, 99))
    assert prices.of(brief) < prices.of(long)


def test_what_is_above_the_lowest_reward_has_been_earned_and_the_lowest_has_not() -> None:
    prices = Prices(SECTION, lowest=-1.0)
    prices.update([group(Effort.HIGH, 10, 10), group(Effort.LOW, 20, 20)], is_free=False)
    failed = [prices.of(thinking(Effort.LOW, tokens, reward=-1.0)) for tokens in (1, 99)]
    half = [prices.of(thinking(Effort.LOW, tokens, reward=-0.2)) for tokens in (1, 99)]
    assert failed[0] == failed[1] > 0 and half[0] < half[1]


def test_prices_are_the_same_after_a_resume() -> None:
    prices, again = Prices(SECTION), Prices(SECTION)
    prices.update([group(Effort.HIGH, 40, 40), group(Effort.LOW, 40, 40)], is_free=False)
    again.restore(prices.to_json())
    for each in (prices, again):
        each.update([group(Effort.HIGH, 40, 40), group(Effort.LOW, 30, 30)], is_free=False)
    assert prices.to_json() == again.to_json()
    Prices(SECTION).restore(None)


def test_utility_decides_what_is_learned_and_success_stays_what_it_was() -> None:
    """Two solved attempts, one of them dearer: a group with variance, and the cheaper one gains."""
    cheap, dear = (replace(attempt(slot, 1.0), cost=cost) for slot, cost in ((0, 0.1), (1, 0.3)))
    both = Group(id=0, task=TASK, attempts=(cheap, dear))
    assert both.has_variance and not replace(both, attempts=(cheap, replace(dear, cost=0.1))).has_variance
    one, other = leave_one_out(both)
    gain = max(one.advantages)
    assert gain == pytest.approx(0.2) and min(other.advantages) == pytest.approx(-0.2)
    assert cheap.verdict.reward == dear.verdict.reward == 1.0


def test_attempts_of_a_group_pay_one_price_however_it_moves_between_them() -> None:
    """In overlapped modes a step is learned while a group's last attempts still act."""
    prices, dear = Prices(SECTION), [group(Effort.HIGH, 40, 40), group(Effort.LOW, 40, 40)]
    prices.update(dear, is_free=False)
    first, last = (thinking(Effort.LOW, 10, slot=slot) for slot in (0, 1))
    failed = [thinking(Effort.LOW, 10, reward=0.0, slot=slot) for slot in (2, 3)]
    paid = [prices.in_group(first), prices.in_group(failed[0])]
    prices.update([replace(each, id=99) for each in dear], is_free=False)
    assert [prices.in_group(last), prices.in_group(failed[1])] == paid
    assert prices.of(last) > paid[0] > 0, "the price has moved"
    prices.update([replace(dear[1], id=7)], is_free=False)  # the group is learned from
    assert prices.in_group(last) > paid[0]


def test_a_group_that_is_free_stays_free_when_prices_begin() -> None:
    prices, dear = Prices(SECTION), [group(Effort.HIGH, 40, 40), group(Effort.LOW, 40, 40)]
    assert prices.in_group(thinking(Effort.LOW, 10)) == 0.0
    prices.update(dear, is_free=False)
    assert prices.in_group(thinking(Effort.LOW, 10, slot=1)) == 0.0 < prices.of(thinking(Effort.LOW, 10))


def test_a_resumed_run_quotes_a_group_that_begins_anew_at_the_price_of_its_checkpoint() -> None:
    prices, again = Prices(SECTION), Prices(SECTION)
    prices.in_group(thinking(Effort.LOW, 10))
    prices.update([group(Effort.HIGH, 40, 40), group(Effort.LOW, 40, 40)], is_free=False)
    again.restore(prices.to_json())
    one, other = (again.in_group(thinking(Effort.LOW, 10, slot=slot)) for slot in (0, 1))
    assert one == other == prices.of(thinking(Effort.LOW, 10)) > 0


def test_no_success_is_priced_below_a_failure_however_long_it_thought() -> None:
    prices = Prices(SECTION.model_copy(update={"price_step": 0.05}))
    for _ in range(5):
        prices.update([group(Effort.HIGH, 10, 10), group(Effort.LOW, 20, 20)], is_free=False)
    failed, endless = thinking(Effort.LOW, 20, 0.0), thinking(Effort.LOW, 4000)
    assert prices.of(endless) == prices.of(failed) + 1.0
    assert prices.of(thinking(Effort.LOW, 21)) == pytest.approx(0.05 * 21)
