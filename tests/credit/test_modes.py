"""The gradient of the choice between acting and thinking, on a policy that can be enumerated."""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import fmean

import pytest
from tests.credit.test_leave_one_out import TASK

from agito.learning.credit import leave_one_out
from agito.learning.effort import EffortSection
from agito.learning.modes import ModeCredit, Modes
from agito.learning.prices import Prices
from agito.types import (
    Attempt,
    AttemptId,
    Channel,
    Effort,
    FinishReason,
    Group,
    Mode,
    Penalty,
    Sample,
    Segment,
    Status,
    TerminationReason,
    Tokens,
    TokenSource,
    Trajectory,
    Turn,
    Verdict,
    span,
)

CREDIT = ModeCredit(credit=leave_one_out, weight=1.0, least=0.0)
FIRST = 1  # position of the first sampled token


def attempt(
    mode: Mode, reward: float, *, act: float, slot: int, thought: int = 0, tokens: int = 3, group: int = 7
) -> Attempt:
    """A prompt, the choice, and two more tokens. `act`: the policy's probability of acting at once."""
    kinds = bytes([TokenSource.OBSERVED, TokenSource.CONTROL if mode is Mode.ACT else TokenSource.SAMPLED])
    kinds += bytes([TokenSource.SAMPLED]) * (tokens - 1)
    logprob = math.log(act if mode is Mode.ACT else 1 - act)
    columns = Tokens(
        ids=array("i", range(1 + tokens)),
        logprobs=array("f", [math.nan, logprob, *[-0.5] * (tokens - 1)]),
        kinds=kinds,
        channels=bytes([Channel.TEXT]) * (1 + tokens),
        versions=span(3, 1 + tokens),
    )
    turn = Turn(
        segment=0,
        start=FIRST,
        stop=1 + tokens,
        stopped=FinishReason.END,
        effort=Effort.AUTO,
        mode=mode,
        is_steered=True,
        num_thought=thought,
    )
    trajectory = Trajectory(
        attempt=AttemptId(group=group, slot=slot),
        task=TASK,
        segments=(Segment(id=0, tokens=columns),),
        turns=(turn,),
        events=(),
        end=TerminationReason.SUBMITTED,
    )
    return Attempt(trajectory=trajectory, verdict=Verdict(status=Status.SCORED, reward=reward))


def group(rewards: Mapping[Mode, list[float]], *, act: float) -> Group:
    pairs = [(mode, reward) for mode, own in rewards.items() for reward in own]
    attempts = tuple(attempt(mode, reward, act=act, slot=slot) for slot, (mode, reward) in enumerate(pairs))
    return Group(id=7, task=TASK, attempts=attempts)


def choices(samples: tuple[Sample, ...]) -> list[float]:
    return [sample.advantages[FIRST] for sample in samples]


def test_the_choice_has_the_exact_gradient_of_the_policy_s_own_mixture() -> None:
    """J = p U(act) + (1 - p) U(think), p = sigmoid(z): dJ/dz = p (1 - p) (U(act) - U(think)). Over groups of
    which half acts and half thinks, the mean of sum_i A_i d log p(m_i)/dz / n is that, whatever p is."""
    chances = {Mode.ACT: 0.3, Mode.THINK: 0.8}
    for act in (0.05, 0.5, 0.9):
        rng, found = random.Random(f"{act}"), list[float]()
        for _ in range(600):
            drawn = {
                mode: [float(rng.random() < chance) for _ in range(4)] for mode, chance in chances.items()
            }
            both, slopes = group(drawn, act=act), {Mode.ACT: 1 - act, Mode.THINK: -act}
            advantages = choices(CREDIT(both))
            modes = [Mode.ACT] * 4 + [Mode.THINK] * 4
            # a thought's first token has the credit of a thought too, which is zero on average
            found.append(sum(a * slopes[mode] for a, mode in zip(advantages, modes, strict=True)) / 8)
        exact = act * (1 - act) * (chances[Mode.ACT] - chances[Mode.THINK])
        spread = (fmean(each * each for each in found) - fmean(found) ** 2) ** 0.5
        assert fmean(found) == pytest.approx(exact, abs=4 * spread / math.sqrt(len(found)))
        assert abs(exact) > 8 * spread / math.sqrt(len(found)) or act == 0.05


def test_hand_worked_the_choice_alone_sees_the_other_mode() -> None:
    """U(act) = .5, U(think) = 1, p = .25: A is -.75 · .5 and .25 · .5; n p(m) / n(m) is .5 and 1.5."""
    samples = CREDIT(group({Mode.ACT: [0.0, 1.0], Mode.THINK: [1.0, 1.0]}, act=0.25))
    assert choices(samples) == pytest.approx([-0.1875, -0.1875, 0.1875, 0.1875])
    others = [sample.advantages[FIRST + 1] for sample in samples]
    assert others == pytest.approx([-1.0, 1.0, 0.0, 0.0]), "compared within the mode"


def test_modes_of_equal_utility_are_left_as_they_are() -> None:
    samples = CREDIT(group({Mode.ACT: [1.0, 1.0], Mode.THINK: [1.0, 1.0]}, act=0.25))
    assert choices(samples) == [0.0] * 4


def test_a_mode_that_is_missing_or_void_teaches_no_choice() -> None:
    alone = CREDIT(group({Mode.THINK: [0.0, 1.0, 1.0]}, act=0.25))
    assert choices(alone) == pytest.approx([-1.0, 0.5, 0.5]), "a thought's credit, and no choice's"
    acts, thinks = group({Mode.ACT: [1.0, 0.0], Mode.THINK: [0.0, 0.0]}, act=0.25).attempts[1:3]
    void = replace(acts, verdict=Verdict.void("gone"))
    one_each = Group(id=7, task=TASK, attempts=(acts, thinks, replace(void)))
    assert len(CREDIT(one_each)) == 2, "one trusted attempt in each mode is enough to choose by"


def test_a_penalised_attempt_pays_within_its_mode_and_enters_no_choice() -> None:
    whole = group({Mode.ACT: [1.0, 1.0, 1.0], Mode.THINK: [0.0, 0.0]}, act=0.5)
    cheat = replace(whole.attempts[0], penalty=Penalty(why="", reward=-0.5, floor=0.0))
    samples = CREDIT(replace(whole, attempts=(cheat, *whole.attempts[1:])))
    by_slot = {sample.attempt.slot: sample for sample in samples}
    assert by_slot[0].advantages[FIRST] == 0.0, "it was made to act"
    assert by_slot[0].advantages[FIRST + 1] == pytest.approx(-1.5)
    assert by_slot[1].advantages[FIRST] > 0 > by_slot[3].advantages[FIRST]


def test_the_only_honest_attempt_of_a_mode_keeps_its_choice_beside_a_penalised_one() -> None:
    whole = group({Mode.ACT: [1.0, 0.0], Mode.THINK: [0.0, 0.0]}, act=0.5)
    honest, cheat, *others = whole.attempts
    cheat = replace(cheat, penalty=Penalty(why="", reward=-0.5, floor=0.0))
    found = CREDIT(replace(whole, attempts=(honest, cheat, *others)))
    without = CREDIT(replace(whole, attempts=(honest, *others)))
    table, alone = ({each.attempt.slot: each.advantages[FIRST] for each in part} for part in (found, without))
    assert table[0] == alone[0] > 0 > table[2] == alone[2], "as if the cheat were not there"


def test_other_efforts_are_credited_as_ever() -> None:
    whole = group({Mode.THINK: [0.0, 1.0]}, act=0.5)
    plain = [
        replace(
            each, trajectory=replace(each.trajectory, turns=(replace(each.trajectory.turns[0], mode=None),))
        )
        for each in whole.attempts
    ]
    high = replace(whole, attempts=tuple(plain))
    assert CREDIT(high) == leave_one_out(high)


def test_what_auto_costs_is_what_the_policy_would_choose_and_not_what_it_was_made_to_try() -> None:
    section = EffortSection(
        settings=(Effort.HIGH, Effort.AUTO),
        shares={Effort.AUTO: 0.5},
        call_cost=0,
        turn_cost=0,
        price_step=0.01,
    )
    attempts = tuple(
        attempt(mode, 1.0, act=0.75, slot=slot, thought=0 if mode is Mode.ACT else 40)
        for slot, mode in enumerate((Mode.ACT, Mode.THINK) * 2)
    )
    auto = Group(id=7, task=TASK, attempts=attempts)
    assert Modes.of(auto).mean(lambda each: section.cost(each.trajectory)) == pytest.approx(10.0)
    first = attempts[1].trajectory
    full = replace(first, turns=(replace(first.turns[0], effort=Effort.HIGH, mode=None),))
    high = Group(id=8, task=TASK, attempts=(replace(attempts[1], trajectory=full),) * 2)
    prices = Prices(section)
    prices.update([auto, high], is_free=False)
    assert prices.of(attempts[1]) == 0.0, "10 of 40 is under its share: no price"
    dear = [replace(each, trajectory=_costing(each.trajectory, 30)) for each in attempts]
    for _ in range(40):
        prices.update([replace(auto, attempts=tuple(dear)), high], is_free=False)
    assert prices.of(attempts[1]) > 0
    failed = [replace(each, verdict=replace(each.verdict, reward=0.0)) for each in attempts]
    thinks = attempt(Mode.THINK, 0.0, act=0.75, slot=9, thought=1)
    assert prices.of(failed[1]) == prices.of(thinks), "failing briefly gains nothing within a mode"
    cheap = Prices(section)
    cheap.restore({"prices": {"all/auto": 0.01}, "costs": {"f-1/auto/act": 0.0, "f-1/auto/think": 40.0}})
    assert cheap.of(failed[0]) == 0.0 < cheap.of(failed[1]) == pytest.approx(0.4), "modes cost what they do"


def _costing(trajectory: Trajectory, more: int) -> Trajectory:
    first = trajectory.turns[0]
    return replace(trajectory, turns=(replace(first, num_thought=first.num_thought + more),))


# A bandit over four things that a prompt shows; thinking pays on two of them.
PAYS: list[Mapping[Mode, float]] = [
    {Mode.ACT: 0.95, Mode.THINK: 0.65},
    {Mode.ACT: 0.8, Mode.THINK: 0.6},
    {Mode.ACT: 0.1, Mode.THINK: 0.6},
    {Mode.ACT: 0.05, Mode.THINK: 0.55},
]


def trained(start: float, credit: Callable[[Group], tuple[Sample, ...]], *, steers: bool) -> list[float]:
    """Probabilities of acting at once after 150 steps of 4 groups."""
    rng, logits = random.Random(0), [math.log(start / (1 - start))] * 4
    for _ in range(150):
        for at, pays in enumerate(PAYS):
            act = 1 / (1 + math.exp(-logits[at]))
            modes = [
                (Mode.ACT if slot % 2 else Mode.THINK)
                if steers
                else (Mode.ACT if rng.random() < act else Mode.THINK)
                for slot in range(8)
            ]
            attempts = tuple(
                attempt(mode, float(rng.random() < pays[mode]), act=act, slot=slot)
                for slot, mode in enumerate(modes)
            )
            slopes = {Mode.ACT: 1 - act, Mode.THINK: -act}
            samples = credit(Group(id=7, task=TASK, attempts=attempts))
            logits[at] += 2 * fmean(
                sample.advantages[FIRST] * slopes[modes[sample.attempt.slot]] for sample in samples
            )
    return [1 / (1 + math.exp(-each)) for each in logits]


def captured(acts: list[float]) -> float:
    def utility(act: float, pays: Mapping[Mode, float]) -> float:
        return act * pays[Mode.ACT] + (1 - act) * pays[Mode.THINK]

    fixed = max(fmean(pays[mode] for pays in PAYS) for mode in Mode)
    oracle = fmean(max(pays.values()) for pays in PAYS)
    return (fmean(map(utility, acts, PAYS)) - fixed) / (oracle - fixed)


@pytest.mark.parametrize("start", [0.002, 0.5, 0.998])
def test_the_choice_is_learned_from_any_beginning_even_from_a_mode_given_up(start: float) -> None:
    found = trained(start, ModeCredit(credit=leave_one_out, weight=4.0, least=0.1), steers=True)
    assert captured(found) > 0.9
    assert found[0] > 0.8 > 0.2 > found[3]


def test_without_both_modes_tried_a_policy_that_has_given_one_up_stays_so() -> None:
    """Plain group-relative credit on whatever the policy samples."""
    found = trained(0.002, leave_one_out, steers=False)
    assert captured(found) < 0.1
