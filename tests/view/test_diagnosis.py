"""Each usual cause of a run that does not learn is found in the run that has it, and in no other."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agito.record import write_trajectories
from agito.types import (
    Attempt,
    AttemptId,
    Call,
    Dialect,
    Event,
    FinishReason,
    Lineage,
    Segment,
    Status,
    Task,
    TerminationReason,
    Tokens,
    Trajectory,
    Turn,
    Verdict,
    span,
)
from agito.view.diagnosis import read_diagnosis
from agito.view.rundata import read_curves

STEPS = 40
# of a run that comes along slowly, with nothing amiss
SOUND: Mapping[str, tuple[float, float]] = {  # at its first and at its last step
    "success/num": (64, 64),
    "success/successes": (20, 23),
    "success/all_num": (64, 64),
    "attempt/void_num": (0, 1),
    "group/mixed_ratio": (0.6, 0.6),
    "policy/entropy_nats": (0.5, 0.3),
    "policy/log_w_abs_mean_nats": (0.001, 0.002),
    "policy/ess_fraction": (0.99, 0.99),
    "eval/num": (50, 50),
    "eval/successes": (16, 17),
}


def outcome(
    slot: int,
    *,
    success: bool = False,
    end: TerminationReason = TerminationReason.SUBMITTED,
    stopped: FinishReason = FinishReason.END,
    problem: str | None = None,
    num_calls: int = 1,
) -> Attempt:
    tokens = Tokens(
        ids=array("i", [1, 2]),
        logprobs=array("f", [math.nan, -0.1]),
        kinds=bytes([0, 1]),
        channels=bytes(2),
        versions=span(1, 2),
    )
    call = Call(tool="sh", arguments={"command": "ls"}, raw="ls", problem=problem)
    trajectory = Trajectory(
        attempt=AttemptId(group=7, slot=slot),
        task=Task(
            id="t",
            env="e",
            split="train",
            family="find",
            level=1,
            prompt={Dialect.COMPACT: "find it"},
            tools=(),
        ),
        segments=(Segment(id=0, tokens=tokens),),
        turns=(Turn(segment=0, start=1, stop=2, stopped=stopped, calls=tuple(range(num_calls))),),
        events=tuple(Event(index=at, call=call, text="a b") for at in range(num_calls)),
        end=end,
    )
    return Attempt(
        trajectory=trajectory, verdict=Verdict(status=Status.SCORED, reward=float(success), scores={})
    )


def found(path: Path, attempts: Sequence[Attempt], **changed: tuple[float, float]) -> dict[str, Any]:
    """What a run shows whose meters go from the first to the last value."""
    meters = {**SOUND, **{name.replace("__", "/"): values for name, values in changed.items()}}
    with (path / "metrics.jsonl").open("w") as file:
        for step in range(STEPS):
            values = {name: a + (b - a) * step / (STEPS - 1) for name, (a, b) in meters.items()}
            file.write(json.dumps({"phase": "rl", "step": step, "wall_s": step, **values}) + "\n")
    (path / "trajectories").mkdir()
    write_trajectories(
        path / "trajectories",
        "rl",
        STEPS - 1,
        attempts,
        dialect=Dialect.COMPACT,
        piece=lambda policy, token: "x",
    )
    diagnosis = read_diagnosis(read_curves(path / "metrics.jsonl").get("rl"), path / "trajectories")
    assert diagnosis is not None
    return diagnosis


MIXED = [outcome(slot, success=slot % 3 == 0) for slot in range(12)]


def test_a_run_that_comes_along_has_no_cause_and_one_that_rises_learns(tmp_path: Path) -> None:
    slow, rising = tmp_path / "slow", tmp_path / "rising"
    slow.mkdir()
    rising.mkdir()
    assert found(slow, MIXED) == {
        "learns": False,
        "success": [pytest.approx(20.5 / 64, abs=0.01), pytest.approx(22.5 / 64, abs=0.01)],
        "steps": 10,
        "total": 40,
        "causes": [],
    }
    assert found(rising, MIXED, success__successes=(10, 30))["learns"]
    assert read_diagnosis(None, tmp_path) is None


@pytest.mark.parametrize(
    ("title", "changed"),
    [
        ("Whole groups fail alike", {"group__mixed_ratio": (0.5, 0.01), "success__successes": (2, 1)}),
        (
            "The tasks are solved",
            {"group__mixed_ratio": (0.5, 0.01), "success__successes": (60, 62), "eval__successes": (48, 48)},
        ),
        ("hardly varies", {"group__mixed_ratio": (0.5, 0.3), "policy__entropy_nats": (0.8, 0.01)}),
        ("disagree", {"policy__log_w_abs_mean_nats": (0.01, 0.3)}),
        ("disagree", {"policy__ess_fraction": (0.9, 0.4)}),
        ("no verdict", {"attempt__void_num": (0, 20)}),
        ("carry over", {"success__successes": (40, 44), "eval__successes": (10, 10)}),
        ("carry over", {"success__successes": (12, 12), "eval__successes": (0, 0)}),
    ],
)
def test_what_the_meters_show_is_named_alone(
    title: str, changed: dict[str, tuple[float, float]], tmp_path: Path
) -> None:
    (cause,) = found(tmp_path, MIXED, **changed)["causes"]
    assert title in cause["title"] and cause["seen"] and cause["remedy"]


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("cut off", {"stopped": FinishReason.LENGTH}),
        ("cannot be read", {"problem": "no such tool"}),
        ("run out", {"end": TerminationReason.TURNS}),
        ("without having done", {"num_calls": 0}),
    ],
)
def test_what_the_attempts_show_is_named_alone_with_attempts_to_read(
    title: str, shown: dict[str, Any], tmp_path: Path
) -> None:
    attempts = [*MIXED, *(outcome(slot, **shown) for slot in range(20, 36))]
    (cause,) = found(tmp_path, attempts)["causes"]
    assert title in cause["title"]
    assert [episode["attempt"] for episode in cause["episodes"]] == ["7.20.0", "7.21.0", "7.22.0"]


def test_a_thought_that_a_budget_closed_is_no_turn_that_was_cut_off(tmp_path: Path) -> None:
    def closed(attempt: Attempt) -> Attempt:
        (turn,) = attempt.trajectory.turns
        stretches = (replace(turn, stopped=FinishReason.LENGTH, calls=()), replace(turn, continues=True))
        return replace(attempt, trajectory=replace(attempt.trajectory, turns=stretches))

    assert found(tmp_path, [closed(attempt) for attempt in MIXED])["causes"] == []


def test_forks_are_no_attempts_of_which_a_cause_is_told(tmp_path: Path) -> None:
    lineage = Lineage(parent=AttemptId(group=7, slot=0), event=0, snapshot="")
    forks = [outcome(slot, problem="no such tool") for slot in range(20, 36)]
    forks = [replace(fork, trajectory=replace(fork.trajectory, lineage=lineage)) for fork in forks]
    assert found(tmp_path, [*MIXED, *forks])["causes"] == []
