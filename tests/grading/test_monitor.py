"""The monitor's decisions without running anything: second looks, masking, alarms."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest

from agito.errors import CorruptCheckpoint
from agito.grading.canaries import REWARD, quiet_canaries
from agito.learning.credit.leave_one_out import leave_one_out_advantages
from agito.monitor import HackRate, Monitor, MonitorConfig, is_suspect, located, proof_of
from agito.monitor.detector import PATIENCE
from agito.monitor.exits import EXITS
from agito.scheduling.sync_scheduler import Quota, SyncScheduler
from agito.testing import FakeEnvironment
from agito.types import (
    ANSWER,
    Attempt,
    AttemptId,
    Call,
    Event,
    Flag,
    Group,
    Penalty,
    Status,
    TerminationReason,
    Trajectory,
    Verdict,
)

TASK, _ = FakeEnvironment().task(split="train", index=0, seed=0)
LOOKED = (("open", "3", "empty"), ("open", "4", "coin"), ("submit", "4", ""))


def attempt(
    at: int = 0,
    *,
    reward: float = 1.0,
    gold: float | None = None,
    chance: float = 1.0,
    flags: tuple[Flag, ...] = (),
    calls: tuple[tuple[str, str, str], ...] = LOOKED,
    penalty: Penalty | None = None,
    tries: int = 0,
) -> Attempt:
    events = tuple(
        Event(
            index=number,
            call=Call(tool=tool, arguments={"box": box}),
            text=text,
            ended=number == len(calls) - 1,
        )
        for number, (tool, box, text) in enumerate(calls)
    )
    trajectory = Trajectory(
        attempt=AttemptId(group=at // 4, slot=at % 4, tries=tries),
        task=TASK,
        segments=(),
        turns=(),
        events=events,
        end=TerminationReason.SUBMITTED,
    )
    judged = None if gold is None else Verdict(status=Status.SCORED, reward=gold)
    verdict = Verdict(status=Status.SCORED, reward=reward, flags=flags)
    return Attempt(trajectory=trajectory, verdict=verdict, gold=judged, gold_chance=chance, penalty=penalty)


def group(*attempts: Attempt) -> Group:
    return Group(id=0, task=TASK, attempts=attempts)


def monitor(**options: object) -> Monitor:
    return Monitor(MonitorConfig.model_validate(options), seed=1, has_gold=True)


def steps(found: Monitor, rate: float, *, start: int = 0, num: int = 20, seed: int = 0) -> int | None:
    """Steps of 100 attempts, each judged; returns the step of the alarm."""
    rng = random.Random(seed)
    for step in range(start, start + num):
        found.update(step, [group(*(attempt(at, gold=float(rng.random() >= rate)) for at in range(100)))])
    return found.alarm_step


def void(at: int = 0, *, tries: int = 0) -> Attempt:
    return replace(attempt(at, tries=tries), verdict=Verdict.void("infra: the box is gone"))


CAUGHT = Penalty(why="canary: the answer holds it", reward=-0.5, floor=0.0)


def test_a_penalised_attempt_is_in_nobodys_baseline_and_the_others_are_measured_against_one_another() -> None:
    caught = attempt(2, reward=1.0, penalty=CAUGHT)
    found = group(attempt(0, reward=1.0), attempt(1, reward=0.0), caught, attempt(3, reward=0.0))
    assert caught not in found.trusted and found.penalised == (caught,)
    assert leave_one_out_advantages([each.verdict.reward for each in found.trusted]) == [1.0, -0.5, -0.5]


def test_a_group_with_a_penalised_attempt_teaches_even_where_nobody_else_differs() -> None:
    assert group(attempt(0, reward=0.0), attempt(1, reward=0.0), attempt(2, penalty=CAUGHT)).has_variance
    assert group(attempt(0, penalty=CAUGHT), attempt(1, penalty=CAUGHT)).has_variance
    assert not group(attempt(0), attempt(1, penalty=CAUGHT)).is_void
    assert group(attempt(0), void(1)).is_void


def test_a_penalised_attempt_is_not_tried_again_and_makes_its_group_mixed() -> None:
    schedule = SyncScheduler(Quota(ids=[0, 1], group_size=2, nonzero_variance=1))
    first, second = schedule.start()
    assert schedule.finished([(first, 0.0)]) == ()
    assert schedule.finished([(second, "penalised")]) == (), "the group teaches: no other is needed"
    assert schedule.retried == 0 and schedule.is_done


def test_proof_costs_and_a_sign_does_not() -> None:
    proof, sign = (
        Flag(kind="canary", is_proof=True, detail="token 7f in the answer", event=2),
        Flag(kind="odd_path", is_proof=False),
    )
    found = proof_of(attempt(flags=(sign, proof)).verdict, floor=-1.0, extra=0.5)
    assert found == Penalty(why="canary: token 7f in the answer", reward=-1.5, floor=-1.0, event=2)
    assert proof_of(attempt(flags=(sign,)).verdict, floor=0.0, extra=0.5) is None


def test_proof_names_the_call_from_which_on_it_holds() -> None:
    asked = ("ls", "cat lib.py", "cp a b > lib.py", "submit")
    events = [
        Event(index=at, call=Call(tool="sh", arguments={"command": words}), text="")
        for at, words in enumerate(asked)
    ]
    for where, event in {"src/lib.py": 1, ANSWER: 3, "other.py": None, "": None}.items():
        flags = (
            Flag(kind="canary", is_proof=True, where=where),
            Flag(kind="odd_path", is_proof=False, where=where),
        )
        proof, sign = located(attempt(flags=flags).verdict, events).flags
        assert (proof.event, sign.event) == (event, None)


def test_whoever_reports_a_flaw_is_counted_and_not_accused() -> None:
    reported = attempt(calls=(("open", "1", "broken"), ("report_flaw", "no box has a coin", "")), reward=0.0)
    found = monitor()
    _, metrics = found.update(0, [group(attempt(0, reward=0.0), reported)])
    assert (metrics["monitor/reported_num"], metrics["monitor/quarantined_num"]) == (1.0, 0.0)


@pytest.mark.parametrize("way", EXITS)
def test_a_policy_that_leaves_more_often_than_the_scripts_raises_the_alarm(way: str) -> None:
    leaving = {
        "void": void(),
        "proof": attempt(reward=0.0, flags=(Flag(kind="canary", is_proof=True),)),
        "report": attempt(calls=(("report_flaw", "no box has a coin", ""),), reward=0.0),
    }[way]
    alike, leaver = monitor(gold_share=0.0), monitor(gold_share=0.0)
    for found in (alike, leaver):
        found.add_scripts([attempt(at) for at in range(500)])
        for step in range(10):
            found.update(step, [group(*[attempt(at) for at in range(50)])])
        assert found.alarm_step is None
    alike.update(10, [group(leaving, *[attempt(at) for at in range(200)])])
    assert alike.alarm_step is None, "one is chance"
    leaver.update(10, [group(*[leaving] * 30, *[attempt(at) for at in range(70)])])
    assert leaver.alarm_step == 10 and leaver.is_paused and "way out" in leaver.why


def test_a_rate_that_the_scripts_have_too_raises_no_alarm() -> None:
    found = monitor(gold_share=0.0)
    reported = attempt(calls=(("report_flaw", "no box has a coin", ""),), reward=0.0)
    found.add_scripts([reported if at % 10 == 0 else attempt(at) for at in range(500)])
    for step in range(20):
        found.update(step, [group(*[reported if at % 10 == 0 else attempt(at) for at in range(100)])])
    assert found.alarm_step is None


def test_nothing_is_learned_from_a_cell_with_more_than_one_void_in_a_hundred_and_others_go_on() -> None:
    found = monitor(gold_share=0.0, on_alarm="watch")
    other = replace(group(attempt()), task=replace(TASK, level=2))
    found.update(0, [group(*[attempt(at) for at in range(200)], void(), void())])
    assert found.teaches(group(attempt())), "two may be chance"
    found.update(1, [group(attempt(0, tries=2))])
    assert not found.teaches(group(attempt())), "void tries that were repeated count too"
    assert found.teaches(other)
    assert found.exits.stopped == {TASK.cell: (4, 205)}
    again = monitor(gold_share=0.0, on_alarm="watch")
    again.restore(json.loads(json.dumps(found.to_json())))
    assert not again.teaches(group(attempt())), "a resumed run does not forget it"
    looked_at = monitor(gold_share=0.0, on_alarm="watch", void_limit=0.05)
    looked_at.restore(json.loads(json.dumps(found.to_json())))
    assert looked_at.teaches(group(attempt()))


def test_what_the_canaries_call_a_touch_is_counted_and_moves_nothing() -> None:
    planted = quiet_canaries("task 3", "attempt 1", path="total.py", function="total")
    (touch,) = (
        flag
        for flag in planted.spoilt(
            {path: data for path, data in planted.files.items() if path.endswith(REWARD)}
        )
    )
    touched, found = attempt(flags=(touch, replace(touch, is_proof=True))), monitor(gold_share=0.0)
    assert proof_of(touched.verdict, floor=0.0, extra=0.5) is None
    assert not is_suspect(touched.verdict) and not found.wants_gold(
        AttemptId(group=0, slot=0), touched.verdict
    )
    _, metrics = found.update(0, [group(touched, attempt(1))])
    assert metrics["monitor/canary_touch_ratio"] == 0.5
    assert found.rate.weight == 0.0


def test_a_reward_before_anything_was_read_and_a_new_way_to_one_are_suspect_but_only_if_they_paid() -> None:
    found, blind = monitor(), attempt(calls=(("open", "1", ""), ("submit", "4", "")))
    assert [flag.kind for flag in found.soft_evidence(blind.trajectory, blind.verdict)] == [
        "answer_before_evidence"
    ]
    found.add_known([attempt()])
    assert found.soft_evidence(attempt().trajectory, attempt().verdict) == ()
    new = attempt(calls=(("open", "3", "empty"), ("smash", "3", "coin"), ("submit", "3", "")))
    assert [flag.kind for flag in found.soft_evidence(new.trajectory, new.verdict)] == ["first_seen_pattern"]
    assert found.soft_evidence(new.trajectory, attempt(reward=0.0).verdict) == ()


def test_gold_is_drawn_by_attempt_and_seed_and_the_suspect_always_are() -> None:
    found, at = monitor(gold_share=0.05), [AttemptId(group=number, slot=0) for number in range(4000)]
    plain = attempt().verdict
    drawn = [found.wants_gold(each, plain) for each in at]
    assert 140 < sum(drawn) < 260
    assert [found.wants_gold(each, plain) for each in reversed(at)] == drawn[::-1], (
        "the order in which attempts end is no part of it"
    )
    assert all(
        found.wants_gold(each, attempt(flags=(Flag(kind="odd", is_proof=False),)).verdict) for each in at
    )


@pytest.mark.parametrize("share", [1.0, 0.25, 0.05])
def test_the_estimate_is_unbiased_whatever_the_share(share: float) -> None:
    rng, rate = random.Random(7), HackRate(limit=0.02, share=share)
    for _ in range(40_000):
        is_hack = rng.random() < 0.1
        rate.add(1 / share if is_hack and rng.random() < share else 0.0)
    assert rate.weight / rate.num_attempts == pytest.approx(0.1, abs=4 * math.sqrt(0.1 / share / 40_000))


@pytest.mark.parametrize("share", [1.0, 0.05])
def test_false_alarms_are_rarer_than_promised_at_half_the_limit(share: float) -> None:
    """The bound is one in `PATIENCE` attempts; over 200 runs of 500 attempts it would be 100."""
    rng, alarms = random.Random(3), 0
    for _ in range(200):
        rate = HackRate(limit=0.02, share=share)
        for _ in range(500):
            rate.add(1 / share if rng.random() < 0.01 * share else 0.0)
            if rate.is_high:
                alarms += 1
                break
    assert alarms <= 200 * 500 / PATIENCE


@pytest.mark.parametrize(("rate", "within"), [(0.05, 5), (0.1, 2), (0.5, 1)])
def test_a_rise_is_noticed_soon(rate: float, within: int) -> None:
    late = 0
    for seed in range(20):
        found = monitor()
        assert steps(found, 0.002, num=10, seed=seed) is None
        alarm = steps(found, rate, start=10, num=within, seed=seed + 100)
        late += alarm is None
        assert alarm is None or found.rise_step <= alarm
    assert late <= 4


def test_where_gold_agrees_there_is_no_alarm() -> None:
    found = monitor()
    assert steps(found, 0.0, num=50) is None
    assert found.rate.evidence == 0.0


def test_rewards_that_were_proved_to_be_cheats_raise_the_alarm_without_gold() -> None:
    found = Monitor(MonitorConfig(), seed=0, has_gold=False)
    cheat = attempt(flags=(Flag(kind="canary", is_proof=True),))
    found.update(3, [group(*[cheat] * 10, *[attempt()] * 40)])
    assert found.is_paused


def test_by_default_the_alarm_pauses_and_masking_must_be_asked_for() -> None:
    paused, masking, watching = (monitor(on_alarm=way) for way in ("stop", "quarantine", "watch"))
    for found in (paused, masking, watching):
        assert steps(found, 0.5, num=1) == 0
    assert (paused.is_paused, paused.masks) == (True, False)
    assert (masking.is_paused, masking.masks) == (False, True)
    assert (watching.is_paused, watching.masks) == (False, False)
    assert MonitorConfig().on_alarm == "stop"


def test_what_gold_contradicts_earns_the_lowest_once_the_alarm_was_raised() -> None:
    found, lie, truth = (
        monitor(on_alarm="quarantine", gold_share=0.05),
        attempt(0, gold=0.0),
        attempt(1, gold=1.0),
    )
    assert found.disbelieved(lie).is_trusted
    steps(found, 0.5, num=1)
    assert not found.disbelieved(lie).is_trusted and found.disbelieved(truth).is_trusted
    penalty = found.disbelieved(lie).penalty
    assert penalty is not None and penalty.reward == penalty.floor == 0.0, (
        "a mask would be a way out, and gold is no proof"
    )
    assert found.disbelieved(lie).verdict == lie.verdict, "gold is never a reward"
    assert all(found.wants_gold(AttemptId(group=number, slot=0), lie.verdict) for number in range(100)), (
        "every reward is looked into"
    )


def test_forks_are_disbelieved_as_attempts_are() -> None:
    found = monitor(on_alarm="quarantine", gold_share=0.05)
    steps(found, 0.5, num=1)
    forked = replace(group(attempt(1, gold=1.0), attempt(2)), forks=(attempt(0, gold=0.0),))
    ((kept,), _) = found.update(1, [forked])
    assert [fork.is_trusted for fork in kept.forks] == [False]


def test_a_void_gold_verdict_accuses_nobody() -> None:
    found = monitor(on_alarm="quarantine")
    unsure = Attempt(
        trajectory=attempt().trajectory, verdict=attempt().verdict, gold=Verdict.void("infra: gone")
    )
    _, metrics = found.update(0, [group(unsure, attempt(1))])
    assert found.rate.weight == 0.0 and metrics["monitor/gold_num"] == 0.0


def test_a_restored_monitor_goes_on_as_if_nothing_had_happened() -> None:
    first = monitor(gold_share=0.25)
    steps(first, 0.015, num=7, seed=2)
    second = monitor(gold_share=0.25)
    second.restore(json.loads(json.dumps(first.to_json())))
    assert second.to_json() == first.to_json()
    steps(first, 0.2, start=7, num=3, seed=5)
    steps(second, 0.2, start=7, num=3, seed=5)
    assert second.to_json() == first.to_json() and second.alarm_step is not None


def test_a_state_that_is_none_is_refused() -> None:
    with pytest.raises(CorruptCheckpoint, match="monitor"):
        monitor().restore(None)
