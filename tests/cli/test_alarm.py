"""What a person sees when an environment pays for what its validator denies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import COIN, ROOT, Agito, sets

from agito.record import Recorded, read_trajectories

PAYING = (
    *COIN,
    f"env.name={ROOT / 'tests/paying_coin.py'}:PayingCoin",
    "compute.context=96",
    "monitor.gold_share=1.0",
    "monitor.limit=0.2",
    "rl.steps=5",
    "rl.group_size=4",
    "eval.tasks=4",
    "eval.structural_tasks=0",
    "eval.baseline_tasks=0",
)


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


@pytest.mark.timeout(300)
def test_by_default_the_run_stops_with_a_checkpoint_and_says_so_and_says_so_again_when_resumed(
    agito: Agito, tmp_path: Path
) -> None:
    done, run = (
        agito("train", "quickstart", "--name", "paid", *sets(*PAYING), "--admit-anyway", expect=12),
        tmp_path / "runs/paid",
    )
    found = summary(run)
    step = found["monitor"]["alarm_step"]
    assert f"paying-coin is paused at RL step {step}" in done.stderr and "ALARM" in done.stderr
    assert found["paused"] and found["success_after"] is None and found["monitor"]["hack_ratio"] > 0.2
    assert (run / f"checkpoints/step-{step}").is_dir()
    last = [each.attempt for each in read_trajectories(run / f"trajectories/rl-{step:05d}.parquet")]
    assert last and all(each.gold is not None for each in last), "the step is kept for reading"
    assert all(not each.stats for each in read_trajectories(run / f"trajectories/rl-{step:05d}.parquet")), (
        "and nothing was learned from it"
    )
    assert "is paused" in (run / "report.html").read_text()
    again = agito("train", "--resume", "runs/paid", expect=12)
    assert f"paused at RL step {step}" in again.stderr, "nothing was closed, so the same step rings again"


@pytest.mark.timeout(300)
def test_if_asked_to_the_run_goes_back_takes_no_contradicted_reward_and_goes_on(
    agito: Agito, agito_here: Agito, tmp_path: Path
) -> None:
    options = (*PAYING, "monitor.on_alarm=quarantine", "rl.checkpoint_every=10")
    out = agito("train", "quickstart", "--name", "masked", *sets(*options), "--admit-anyway").stdout
    run = tmp_path / "runs/masked"
    found = summary(run)
    alarm = found["monitor"]["alarm_step"]
    assert found["paused"] is None and found["monitor"]["rolled_back_to"] <= alarm < 4
    assert f"alarm at RL step {alarm}" in " ".join(out.split())
    back = found["monitor"]["rolled_back_to"]
    kept = {int(path.name[5:]) for path in (run / "checkpoints").glob("step-*")}
    assert alarm + 1 in kept and not kept & set(range(back + 1, alarm + 1)), (
        "a resume would begin with what was taken back"
    )
    for path in sorted((run / "trajectories").glob("rl-*.parquet")):
        for each in read_trajectories(path):
            attempt = each.attempt
            assert bool(attempt.quarantine) == (each.step >= alarm and attempt.verdict.reward == 1.0)
            for stats in each.stats if attempt.quarantine else ():
                assert stats.advantages is not None and max(stats.advantages) <= 0.0, (
                    "a contradicted reward was learned from"
                )
    assert found["success_after"] == 0.0, "what is not believed is no success either"
    listed = agito_here("replay", "runs/masked", "--phase", "rl").stdout
    assert "penalised" in listed
    number = next(line.split()[0] for line in listed.splitlines() if "penalised" in line)
    shown = agito_here("replay", "runs/masked", number, "--phase", "rl").stdout
    assert "contradicted: reward 1, gold 0" in shown and "identical" in shown


@pytest.mark.full
@pytest.mark.parametrize("way", ["stop", "quarantine"])
def test_the_decoupled_loop_does_the_same(agito: Agito, tmp_path: Path, way: str) -> None:
    options = (*PAYING, f"monitor.on_alarm={way}", "compute.ranks=2", "pipeline.mode=decoupled")
    agito(
        "train",
        "quickstart",
        "--name",
        "paid",
        *sets(*options),
        "--admit-anyway",
        expect=12 if way == "stop" else 0,
    )
    found = summary(tmp_path / "runs/paid")
    alarm = found["monitor"]["alarm_step"]
    assert alarm is not None
    assert (found["monitor"]["rolled_back_to"] is None) == (way == "stop")
    kept = [
        each
        for path in (tmp_path / "runs/paid/trajectories").glob("rl-*.parquet")
        for each in read_trajectories(path)
    ]
    first = min(_oldest(each) for each in kept)  # no step has been learned from yet
    revoked = [each for each in kept if each.step > alarm and _oldest(each) < first + alarm + 1]
    assert bool(revoked) == (way == "quarantine")
    assert not any(each.stats for each in revoked), (
        "sampled by weights that were taken back, and learned from"
    )
    assert any(each.stats for each in kept if each.step > alarm) == (way == "quarantine")


def _oldest(recorded: Recorded) -> int:
    segments = recorded.attempt.trajectory.segments
    return min(span.version for segment in segments for span in segment.tokens.versions)
