"""The critical path of hand-made trees of agents, its price, and what is learned by it."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import pytest
from tests.credit.test_leave_one_out import TASK

from agito.errors import CorruptCheckpoint
from agito.learning.credit import leave_one_out, per_role
from agito.learning.effort import EffortSection
from agito.learning.prices import Prices
from agito.protocols import Credit
from agito.types import (
    Attempt,
    AttemptId,
    Call,
    Event,
    FinishReason,
    Group,
    Segment,
    TerminationReason,
    Tokens,
    TokenSource,
    Trajectory,
    Turn,
    Verdict,
    span,
)

PRICE = 0.3
Agent = Sequence["Says"]
WORLD, SPAWN, REFUSED = "step", "spawn", "refused"


@dataclass(frozen=True)
class Says:
    """A turn of so many tokens and its calls: a list of agents is a call to `spawn` for them, `WORLD` a call
    to the world, `REFUSED` one to `spawn` that nobody was spawned by.
    """

    tokens: int
    calls: tuple[Sequence[Agent] | str, ...] = ()


@dataclass
class Tree:
    """Built in the order in which a team acts."""

    segments: list[tuple[str, int | None]] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    lengths: dict[int, int] = field(default_factory=dict)

    def add(self, name: str, agent: Agent, spawned_by: int | None = None) -> None:
        if not agent:
            return  # it failed before it said anything
        number = len(self.segments)
        self.segments.append((name, spawned_by))
        for says in agent:
            start = self.lengths.get(number, 1)
            self.lengths[number] = start + says.tokens + 1
            at = len(self.turns)
            turn = Turn(segment=number, start=start, stop=start + says.tokens, stopped=FinishReason.END)
            self.turns.append(turn)
            self.turns[at] = replace(turn, calls=tuple(self.carry_out(says.calls)))

    def carry_out(self, calls: Sequence[Sequence[Agent] | str]) -> list[int]:
        indices: list[int] = []
        waiting: list[tuple[int, Sequence[Agent]]] = []
        for call in (*calls, None):
            if (call is None or call == WORLD) and waiting:
                for index, agents in waiting:
                    for number, agent in enumerate(agents):
                        self.add(f"worker-{index}.{number}", agent, index)
                waiting.clear()
            if call is not None:
                indices.append(len(self.events))
                tool = WORLD if call == WORLD else SPAWN
                self.events.append(
                    Event(index=indices[-1], call=Call(tool=tool, arguments={}), text="", ended=False)
                )
                waiting += [] if isinstance(call, str) else [(indices[-1], call)]
        return indices


def trajectory(*agent: Says, slot: int = 0, group: int = 7) -> Trajectory:
    tree = Tree()
    tree.add("root", agent)
    segments: list[Segment] = []
    for number, (name, spawned_by) in enumerate(tree.segments):
        length = tree.lengths[number]
        sampled = {at for turn in tree.turns if turn.segment == number for at in range(turn.start, turn.stop)}
        kinds = bytes(TokenSource.SAMPLED if at in sampled else TokenSource.OBSERVED for at in range(length))
        columns = Tokens(
            ids=array("i", range(length)),
            logprobs=array("f", [-0.5 if at in sampled else math.nan for at in range(length)]),
            kinds=kinds,
            channels=bytes(length),
            versions=span(1, length),
        )
        role = "root" if spawned_by is None else "worker"
        segments.append(Segment(id=number, tokens=columns, agent=name, role=role, spawned_by=spawned_by))
    return Trajectory(
        attempt=AttemptId(group=group, slot=slot),
        task=TASK,
        segments=tuple(segments),
        turns=tuple(tree.turns),
        events=tuple(tree.events),
        end=TerminationReason.SUBMITTED,
    )


def worker(*tokens: int) -> Agent:
    return [Says(each, (WORLD,)) for each in tokens]


CRASHED: Agent = []


@pytest.mark.parametrize(
    ("agent", "critical"),
    [
        pytest.param([Says(3, (WORLD,)), Says(4, (WORLD,)), Says(5)], 12, id="one agent: all of its tokens"),
        pytest.param([Says(3, ([worker(5, 5), worker(7)],)), Says(2)], 3 + 10 + 2, id="several briefs"),
        pytest.param([Says(3, ([worker(5, 5)], [worker(7)])), Says(2)], 3 + 10 + 2, id="several calls"),
        pytest.param([Says(3, ([worker(5)],)), Says(3, ([worker(7)],)), Says(2)], 20, id="in turn"),
        pytest.param([Says(3, ([worker(5)], WORLD, [worker(7)]))], 3 + 5 + 7, id="another call between"),
        pytest.param([Says(3, ([worker(5)], REFUSED, [worker(7)]))], 3 + 7, id="one refused between"),
        pytest.param([Says(3, ([worker(5), CRASHED],)), Says(2)], 10, id="one that never said anything"),
        pytest.param([Says(3, ([CRASHED],)), Says(2)], 5, id="nobody said anything"),
        pytest.param([Says(3, ([worker(9, 9), [Says(4)]],)), Says(2)], 23, id="one that broke off"),
        pytest.param([Says(3, ([[Says(2, ([worker(9), worker(1)],)), Says(1)], worker(5)],)), Says(2)], 17,
                     id="nested: the longer path goes through the child's children"),
        pytest.param([Says(3, ([[Says(2, ([worker(1), worker(1)],)), Says(1)], worker(5)],)), Says(2)], 10,
                     id="nested: the longer path goes round them"),
        pytest.param([], 0, id="nobody"),
    ],
)  # fmt: skip
def test_the_critical_path_of_a_tree_is_its_longest_chain_through_spawns_and_returns(
    agent: Sequence[Says], critical: int
) -> None:
    assert trajectory(*agent).num_critical == critical


def test_the_order_of_children_does_not_change_the_critical_path() -> None:
    children = [worker(5, 1), worker(4), [Says(1, ([worker(8)],))]]
    found = {
        trajectory(Says(2, ([children[at] for at in order],))).num_critical
        for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0))
    }
    assert found == {2 + 9}


def attempt(was: Trajectory, reward: float = 1.0) -> Attempt:
    return Attempt(trajectory=was, verdict=Verdict.scored(reward, evidence="", grade_seed=0))


def solo(tokens: int, reward: float = 1.0, slot: int = 0) -> Attempt:
    return attempt(trajectory(Says(tokens), slot=slot), reward)


def group(*attempts: Attempt, number: int = 7) -> Group:
    return Group(id=number, task=TASK, attempts=attempts)


def priced(*tokens: int, price: float = PRICE, lowest: float = 0.0) -> Prices:
    """After a step in which successes had these critical paths."""
    found = Prices(EffortSection(), critical=price, lowest=lowest)
    found.update([group(*(solo(each) for each in tokens))], is_free=True)
    return found


def test_a_critical_path_pays_in_proportion_to_the_mean_of_those_that_earned_something() -> None:
    prices = Prices(EffortSection(), critical=PRICE)
    assert prices.are_on and prices.of(solo(10)) == 0.0, "there is no mean yet"
    failed = solo(1000, reward=0.0)
    prices.update([group(solo(10), solo(30), failed)], is_free=True)
    assert prices.of(solo(20)) == pytest.approx(PRICE)
    assert prices.of(solo(10)) == pytest.approx(PRICE / 2)
    assert prices.of(attempt(trajectory(Says(4, ([worker(6), worker(6)],))))) == pytest.approx(PRICE / 2)
    assert prices.metrics([group(replace(solo(20), cost=0.1))]) == pytest.approx(
        {"price/critical_tokens_mean": 20, "price/paid_mean": 0.1}
    )


def test_to_fail_briefly_pays_what_the_mean_costs_and_to_earn_something_is_never_worth_less() -> None:
    for lowest in (0.0, -1.0):
        prices = priced(20, 20, lowest=lowest)
        failed = [prices.of(solo(tokens, reward=lowest)) for tokens in (1, 500)]
        assert failed == [PRICE, PRICE]
        for tokens in (1, 30, 500, 50_000):
            little = solo(tokens, reward=lowest + 0.05)
            assert little.verdict.reward - prices.of(little) >= lowest - PRICE - 1e-12


def test_without_a_price_nothing_is_paid_and_nothing_is_on() -> None:
    prices = priced(20, 20, price=0.0)
    assert not prices.are_on and prices.of(solo(10)) == 0.0 and prices.of(solo(10, reward=0.0)) == 0.0


def test_the_mean_follows_later_steps_and_is_the_same_after_a_resume() -> None:
    prices, again = priced(20, 20), Prices(EffortSection(), critical=PRICE)
    again.restore(prices.to_json())
    for each in (prices, again):
        each.update([group(solo(10))], is_free=False)
    assert prices.to_json() == again.to_json()
    assert prices.of(solo(17)) == pytest.approx(PRICE)
    before_there_was_one = prices.to_json()
    del before_there_was_one["paths"]
    again.restore(before_there_was_one)
    assert again.of(solo(10)) == 0.0
    with pytest.raises(CorruptCheckpoint):
        again.restore({"prices": {}})


def test_attempts_that_ended_before_and_after_a_step_are_compared_at_one_price() -> None:
    prices, attempts = Prices(EffortSection(), critical=PRICE), (solo(10), solo(10, slot=1))

    def paying(price: Callable[[Attempt], float]) -> Group:
        early = replace(attempts[0], cost=price(attempts[0]))
        prices.update([replace(group(solo(10)), id=99)], is_free=True)
        return group(early, replace(attempts[1], cost=price(attempts[1])))

    assert not paying(prices.in_group).has_variance
    prices = Prices(EffortSection(), critical=PRICE)
    assert paying(prices.of).has_variance, "they differ in nothing but when they ended"


# A task of eight steps of two tokens. Alone: one after the other. As a team: four tokens to hand out, two to
# report, and of the steps the share phi side by side.
def of_phi(phi: float, *, spawns: bool, slot: int) -> Attempt:
    if not spawns:
        return attempt(trajectory(*worker(*[2] * 8), Says(2), slot=slot))
    num = round(8 * phi)
    children = [*([2],) * num, *([[2] * (8 - num)] if num < 8 else [])]
    hand_out = Says(4, ([[*worker(*each), Says(2)] for each in children],))
    return attempt(trajectory(hand_out, Says(2), slot=slot))


def slope(credit: Credit, prices: Prices, phi: float, chance: float) -> float:
    """Of the expected utility by the logit of spawning: exactly, over all groups of three."""
    total = 0.0
    for several in product((False, True), repeat=3):
        attempts = [of_phi(phi, spawns=each, slot=slot) for slot, each in enumerate(several)]
        paying = [replace(each, cost=prices.of(each)) for each in attempts]
        probability = math.prod(chance if each else 1 - chance for each in several)
        for sample in credit(group(*paying), running_mean=math.nan):
            if sample.segment == 0:  # its first token says whether it spawns
                advantage = sample.advantages[1]
                total += probability * advantage * ((1 - chance) if several[sample.attempt.slot] else -chance)
    return total


@pytest.mark.parametrize("credit", [leave_one_out, per_role])
@pytest.mark.parametrize(("phi", "end"), [(0.0, 0.0), (0.5, 1.0), (1.0, 1.0)])
def test_with_a_price_the_share_of_spawns_falls_to_nought_where_nothing_is_parallel_and_rises_elsewhere(
    credit: Credit, phi: float, end: float
) -> None:
    prices, free, logit = Prices(EffortSection(), critical=PRICE), Prices(EffortSection()), 0.0
    for step in range(60):
        chance = 1 / (1 + math.exp(-logit))
        assert slope(credit, free, phi, chance) == 0.0, (
            "every attempt succeeds: nothing else tells them apart"
        )
        found = slope(credit, prices, phi, chance)
        assert not step or (found > 0) == (end > 0.5)
        logit += 20 * found
        seen = [of_phi(phi, spawns=spawns, slot=slot) for slot, spawns in enumerate((True, False))]
        prices.update([group(*seen)], is_free=True)
    assert abs(1 / (1 + math.exp(-logit)) - end) < 0.1
