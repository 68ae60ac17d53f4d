"""pass@k and pass^k against counting every choice, and intervals over distinct tasks."""

from __future__ import annotations

from itertools import combinations

import pytest

from agito.evaluation.passes import at_least_one, every_one, passes
from agito.record import Rate, rate
from agito.types import Attempt, AttemptId, Dialect, Status, Task, TerminationReason, Trajectory, Verdict


def attempt(task: int, slot: int, reward: float | None) -> Attempt:
    about = Task(
        id=f"t-{task}", env="e", split="heldout", family="f", level=1, prompt={Dialect.NATURAL: "p"}, tools=()
    )
    found = Trajectory(
        attempt=AttemptId(group=task, slot=slot),
        task=about,
        segments=(),
        turns=(),
        events=(),
        end=TerminationReason.SUBMITTED,
    )
    verdict = Verdict.void("why") if reward is None else Verdict(status=Status.SCORED, reward=reward)
    return Attempt(trajectory=found, verdict=verdict)


@pytest.mark.parametrize(("successes", "num"), [(0, 4), (1, 4), (3, 4), (4, 4), (2, 6)])
def test_both_are_what_every_choice_of_k_attempts_comes_to(successes: int, num: int) -> None:
    outcomes = [at < successes for at in range(num)]
    for k in range(1, num + 1):
        chosen = list(combinations(outcomes, k))
        assert at_least_one(successes, num, k) == pytest.approx(sum(map(any, chosen)) / len(chosen))
        assert every_one(successes, num, k) == pytest.approx(sum(map(all, chosen)) / len(chosen))


def test_they_are_told_for_tasks_that_were_attempted_often_enough_and_void_attempts_count_for_none() -> None:
    tried = [attempt(0, slot, reward) for slot, reward in enumerate((1.0, 0.0, None))]
    tried += [attempt(1, slot, 1.0) for slot in range(2)]
    found = passes(tried)
    assert found is not None and found.num_tasks == 2
    values = {name: each.value for name, each in found.estimates.items()}
    assert values == {"pass@1": 0.75, "pass^1": 0.75, "pass@2": 1.0, "pass^2": 0.5}
    assert all(each.low <= each.value <= each.high for each in found.estimates.values())
    assert passes([attempt(task, 0, 1.0) for task in range(3)]) is None


def test_an_interval_is_over_distinct_tasks_however_often_each_was_attempted() -> None:
    often = rate([attempt(task, slot, float(task % 2)) for task in range(10) for slot in range(8)])
    once = rate([attempt(task, 0, float(task % 2)) for task in range(10)])
    assert (often.success, often.num) == (0.5, 80)
    assert (often.low, often.high) == (once.low, once.high)
    assert Rate(successes=40, num=80).low > often.low
