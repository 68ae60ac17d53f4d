"""Finished runs side by side."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cli.conftest import HereIn

from agito import config
from agito.recipe import Recipe
from agito.record import Rate, RunDir, Summary, rate, rate_over_all, rates_by_cell, write_trajectories
from agito.types import (
    Attempt,
    AttemptId,
    Dialect,
    Status,
    Task,
    TerminationReason,
    Trajectory,
    Verdict,
)


def attempts(outcomes: list[bool | None], *, prompt: str = "find it", first: int = 0) -> list[Attempt]:
    made: list[Attempt] = []
    for number, outcome in enumerate(outcomes, first):
        task = Task(
            id=f"t-{number}",
            env="shell",
            split="heldout",
            family="find",
            level=1,
            prompt={Dialect.COMPACT: prompt},
            tools=(),
        )
        trajectory = Trajectory(
            attempt=AttemptId(group=number, slot=0),
            task=task,
            segments=(),
            turns=(),
            events=(),
            end=TerminationReason.SUBMITTED,
        )
        verdict = (
            Verdict.void("died")
            if outcome is None
            else Verdict(status=Status.SCORED, reward=float(outcome), scores={"success": float(outcome)})
        )
        made.append(Attempt(trajectory=trajectory, verdict=verdict))
    return made


def a_run(
    path: Path,
    after: list[Attempt],
    *,
    overrides: tuple[str, ...] = (),
    commit: str = "c1",
    is_finished: bool = True,
) -> Path:
    recipe = config.build(Recipe, {}, overrides)
    about = {"commit": commit, "machine": {"cpu": "x", "cores": 2}, "versions": {"torch": "2"}}
    before = [replace(each, verdict=Verdict(status=Status.SCORED, reward=0.0)) for each in after]
    with RunDir.create(path, config.dump(recipe), about) as run:
        for phase, made in (("before", before), ("after", after)):
            write_trajectories(
                run.trajectories, phase, 0, made, dialect=Dialect.COMPACT, piece=lambda policy, token: ""
            )
        Summary(
            commit=commit,
            seed=0,
            isolation_tier="native",
            before=rate(before),
            after=rate(after),
            before_all=rate_over_all(before),
            after_all=rate_over_all(after),
            cells_before=rates_by_cell(before),
            cells_after=rates_by_cell(after),
            baselines={"oracle": Rate(successes=1, num=1)},
            num_eval_tasks=len(after),
            wall_s=10.0,
            cpu_s=8.0,
            load=1.0,
            phase_wall_s={},
            sampled_tokens=1234,
            tool_calls=5,
            tool_cpu_ms_p50=1.0,
            void_attempts=sum(not each.is_scored for each in after),
            void_causes={"died": 1},
        ).write(run.summary)
        if is_finished:
            run.finish()
    return path


@pytest.fixture
def worse(tmp_path: Path) -> Path:
    return a_run(tmp_path / "worse", attempts([number < 60 for number in range(100)]))


def test_the_same_tasks_are_paired_and_the_better_run_is_named(
    here_in: HereIn, tmp_path: Path, worse: Path
) -> None:
    a_run(tmp_path / "better", attempts([number < 70 for number in range(100)]), overrides=("rl.steps=7",))
    agito = here_in(tmp_path)
    said = " ".join(agito("compare", "worse", "better").stdout.split())
    assert "after RL: better is better; difference +0.10 [+0.0" in said
    assert "paired over 100 tasks that both attempted; the two intervals overlap" in said
    assert "before RL: worse and better cannot be told apart" in said
    assert "rl.steps 30 7" in said and "conditions: the same" in said

    found = json.loads(agito("compare", "worse", "better", "--json").stdout)
    after = found["differences"][0]["after"]
    assert after["num_pairs"] == 100 and after["is_apart"] and after["intervals_overlap"]
    assert found["recipe"] == {"rl.steps": ["30", "7"]}
    assert found["runs"][1]["by_cell"]["find-1"]["after"]["num"] == 100


@pytest.mark.parametrize("how", ["other tasks", "an edited prompt"])
def test_tasks_that_are_not_the_same_are_never_paired(
    here_in: HereIn, tmp_path: Path, worse: Path, how: str
) -> None:
    outcomes: list[bool | None] = [number < 70 for number in range(100)]
    other = attempts(outcomes, first=500) if how == "other tasks" else attempts(outcomes, prompt="find them")
    a_run(tmp_path / "other", other)
    said = " ".join(here_in(tmp_path)("compare", "worse", "other").stdout.split())
    assert "as independent: their tasks are not the same" in said
    assert "after RL: worse and other cannot be told apart; difference +0.10 [−0.0" in said


def test_void_attempts_are_counted_and_paired_with_nothing(
    here_in: HereIn, tmp_path: Path, worse: Path
) -> None:
    outcomes: list[bool | None] = [None, *[True] * 99]
    a_run(tmp_path / "void", attempts(outcomes), commit="c2")
    said = " ".join(here_in(tmp_path)("compare", "worse", "void").stdout.split())
    assert "paired over 99 tasks" in said and "void attempts 0 1" in said
    assert "intervals lie apart" in said and "commit c1 c2" in said
    assert "where void attempts are failures" in said and "void is better" in said


@pytest.mark.parametrize("first", [0, 500])
def test_a_policy_that_leaves_is_not_better_than_one_that_fails(
    here_in: HereIn, tmp_path: Path, first: int
) -> None:
    """It solves fewer tasks, and is void on all others; by the same tasks, and by others."""
    a_run(tmp_path / "fails", attempts([number < 50 for number in range(100)]))
    leaves: list[bool | None] = [True if 35 <= number < 75 else None for number in range(100)]
    a_run(tmp_path / "leaves", attempts(leaves, first=first))
    said = " ".join(here_in(tmp_path)("compare", "fails", "leaves").stdout.split())
    assert "after RL: fails and leaves cannot be told apart" in said
    told = json.loads(here_in(tmp_path)("compare", "fails", "leaves", "--json").stdout)
    (found,) = told["differences"]
    assert found["after"]["is_apart"] is False and found["after"]["value_with_void"] == pytest.approx(-0.1)


def test_a_run_without_its_trajectories_is_compared_by_its_summary(
    here_in: HereIn, tmp_path: Path, worse: Path
) -> None:
    a_run(tmp_path / "thin", attempts([True] * 100))
    for file in (tmp_path / "thin" / "trajectories").iterdir():
        file.unlink()
    said = here_in(tmp_path)("compare", "worse", "thin").stdout
    assert "1.00 [0.96, 1.00] of 100" in said and "as independent" in said


def test_unfinished_damaged_and_missing_runs_are_refused_with_what_to_do(
    here_in: HereIn, tmp_path: Path, worse: Path
) -> None:
    a_run(tmp_path / "open", attempts([True]), is_finished=False)
    a_run(tmp_path / "torn", attempts([True]))
    (tmp_path / "torn" / "summary.json").write_text("{")
    agito = here_in(tmp_path)
    assert "not finished" in agito("compare", "worse", "open", expect=4).stderr
    assert "agito train --resume open" in agito("compare", "worse", "open", expect=4).stderr
    assert "restore its files" in agito("compare", "worse", "torn", expect=4).stderr
    assert "no run there" in agito("compare", "worse", "nowhere", expect=4).stderr
    assert "two runs or more" in agito("compare", "worse", expect=2).stderr


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (("env.name=desk",), 'env.name is "shell" and "desk"'),
        (("env.levels=[2]",), "env.levels is"),
        (('env.families=["find"]',), "env.families is"),
    ],
)
def test_runs_on_other_kinds_of_tasks_are_not_ranked(
    here_in: HereIn, tmp_path: Path, worse: Path, overrides: tuple[str, ...], why: str
) -> None:
    a_run(tmp_path / "other", attempts([True] * 100, first=900), overrides=overrides)
    agito = here_in(tmp_path)
    said = " ".join(agito("compare", "worse", "other").stdout.split())
    assert f"after RL: worse and other cannot be compared, other tasks: {why}" in said
    assert "is better" not in said
    found = json.loads(agito("compare", "worse", "other", "--json").stdout)
    assert why in found["differences"][0]["after"]["cannot_be_compared"]


def test_a_run_compared_with_itself_is_noticed(here_in: HereIn, tmp_path: Path, worse: Path) -> None:
    said = " ".join(here_in(tmp_path)("compare", "worse", "../" + tmp_path.name + "/worse").stdout.split())
    assert "cannot be compared, it is the same run" in said
