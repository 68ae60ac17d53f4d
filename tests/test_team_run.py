"""A team learns from random weights by the bundled recipe."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

import agito
from agito.record import Recorded, read_trajectories
from agito.replays.episode import replay_episode

SMALL = (
    "env.levels=[1]",
    "model.hidden_size=32",
    "model.num_layers=1",
    "sft.demos=96",
    "sft.epochs=1",
    "sft.skill=0.9",
    "sft.tokenizer_episodes=20",
    "rl.steps=1",
    "rl.groups=2",
    "rl.group_size=4",
    "eval.tasks=4",
    "eval.structural_tasks=0",
    "eval.baseline_tasks=0",
)


def recorded(run: Path, phase: str) -> list[Recorded]:
    return [
        each for path in sorted((run / "trajectories").glob(f"{phase}-*")) for each in read_trajectories(path)
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("team") / "team"
    assert agito.train("team-fanout", overrides=SMALL, out=path).void_attempts == 0
    return path


def test_a_team_is_shown_how_to_hand_out_work_and_every_agent_is_trained_on_its_own_tokens(run: Path) -> None:
    roles = {
        segment.role
        for each in recorded(run, "demo")
        for segment in each.attempt.trajectory.segments
        if segment.spawned_by is not None
    }
    assert roles == {"worker"}
    for each in recorded(run, "rl"):
        trajectory = each.attempt.trajectory
        assert trajectory.segments[0].role == "orchestrator" and trajectory.fault is None
        assert {stats.segment for stats in each.stats} <= {segment.id for segment in trajectory.segments}
        again = anyio.run(replay_episode, run, trajectory.attempt)
        assert again.differences == ()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(line.get("team/leaks_num", 0) == 0 for line in lines)


def test_a_role_may_be_played_by_a_policy_of_its_own_with_another_vocabulary(
    run: Path, tmp_path: Path
) -> None:
    """It is frozen here: what it is shown doing is no lesson for `main`."""
    own = ("model.vocab_size=400", f"policies.helper.path={run}", "agents.worker.policy=helper")
    out = tmp_path / "team"
    agito.train("team-fanout", overrides=(*SMALL, *own), out=out)
    segments = [segment for each in recorded(out, "demo") for segment in each.attempt.trajectory.segments]
    assert {(each.role, each.policy) for each in segments} == {("orchestrator", "main"), ("worker", "helper")}
    own_tokens = sum(sum(each.tokens.is_sampled) for each in segments if each.policy == "main")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert sum(line.get("sft/tokens", 0) for line in lines) == own_tokens
