from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from agito.record import Rate, Summary, rate, rate_over_all, rates_by_cell
from agito.types import Attempt, AttemptId, Dialect, Status, Task, TerminationReason, Trajectory, Verdict

# The list that the issue and the benchmarks rely on.
KEYS = """
schema_version commit seed isolation_tier success_before success_before_low success_before_high success_after
success_after_low success_after_high success_structural success_structural_low success_structural_high
success_before_all success_before_all_low success_before_all_high success_after_all success_after_all_low success_after_all_high
success_structural_all success_structural_all_low success_structural_all_high void_causes
by_cell baselines
num_eval_tasks wall_s cpu_s load stolen_ratio phase_wall_s phase_cpu_s sampled_tokens tool_calls tool_cpu_ms_p50 void_attempts
admission quarantined_attempts monitor paused"""  # noqa: E501


def attempt(reward: float | None, *, level: int = 1, tags: tuple[str, ...] = ()) -> Attempt:
    prompt = {Dialect.COMPACT: ""}
    task = Task(
        id="t", env="shell", split="heldout", family="find", level=level, prompt=prompt, tools=(), tags=tags
    )
    end = Trajectory(
        attempt=AttemptId(group=0, slot=0),
        task=task,
        segments=(),
        turns=(),
        events=(),
        end=TerminationReason.SUBMITTED,
    )
    verdict = Verdict.void("died") if reward is None else Verdict(status=Status.SCORED, reward=reward)
    return Attempt(trajectory=end, verdict=verdict)


SUMMARY = Summary(
    commit="abc",
    seed=0,
    isolation_tier="native+watchdog",
    before=Rate(successes=200, num=500),
    after=Rate(successes=480, num=499),
    before_all=Rate(successes=200, num=500),
    after_all=Rate(successes=480, num=500),
    cells_before={"find-1": Rate(successes=3, num=9)},
    cells_after={"find-1": Rate(successes=9, num=9), "find-2": Rate(successes=1, num=2)},
    baselines={"null": Rate(successes=0, num=64)},
    num_eval_tasks=500,
    wall_s=170.0,
    cpu_s=300.0,
    load=1.5,
    phase_wall_s={"sft": 30.0, "rl": 140.0},
    sampled_tokens=400_000,
    tool_calls=62_000,
    tool_cpu_ms_p50=0.8,
    void_attempts=1,
)


def test_the_file_has_exactly_the_names_that_readers_rely_on(tmp_path: Path) -> None:
    SUMMARY.write(tmp_path / "summary.json")
    found = json.loads((tmp_path / "summary.json").read_text())
    assert sorted(found) == sorted(KEYS.split())
    assert found["success_before"] == 0.4
    assert found["success_before_low"] < 0.4 < found["success_before_high"]
    assert found["success_structural"] is None
    assert found["success_after_all"] == 480 / 500 < found["success_after"], (
        "the void attempt is a failure here"
    )
    assert found["by_cell"]["find-2"]["before"] is None
    assert found["by_cell"]["find-2"]["num_after"] == 2
    assert found["baselines"]["null"]["success_high"] == pytest.approx(1 - 0.025 ** (1 / 64))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("wall_s", math.nan),
        ("cpu_s", -1.0),
        ("void_attempts", -1),
        ("commit", ""),
        ("phase_wall_s", {"rl": math.inf}),
        ("phase_cpu_s", {"rl": -1.0}),
    ],
)
def test_a_summary_that_cannot_be_true_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        replace(SUMMARY, **{field: value})


def test_cells_set_the_fallback_apart_and_leave_void_out() -> None:
    attempts = [
        attempt(1.0),
        attempt(0.0),
        attempt(None),
        attempt(1.0, tags=("hops", "fallback")),
        attempt(0.5, level=2),
    ]
    assert rates_by_cell(attempts) == {
        "find-1": Rate(successes=1, num=2),
        "find-1+fallback": Rate(successes=1, num=1),
        "find-2": Rate(successes=0, num=1),
    }


def test_a_void_attempt_is_a_failure_among_all_and_absent_among_the_scored() -> None:
    attempts = [attempt(1.0), attempt(0.0), attempt(None), attempt(None)]
    assert rate(attempts) == Rate(successes=1, num=2)
    assert rate_over_all(attempts) == Rate(successes=1, num=4)
