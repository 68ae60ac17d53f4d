"""The strips of the three roles, from figures of each step."""

from __future__ import annotations

import pytest

from agito.view.rundata import read_roles


def test_an_overlapped_step_is_told_by_the_meters_of_the_pipeline() -> None:
    values = {
        "time/step_s": [2.0],
        "trainer/idle_ratio": [0.75],
        "trainer/gate_wait_ratio": [0.5],
        "engine/busy_ratio": [0.9],
        "engine/publish_pause_ratio": [0.01],
        "rollout/busy_ratio": [0.2],
    }
    (row,) = read_roles({"step": [3], "wall_s": [9.0], "values": values})
    assert row["step"] == 3 and row["total"] == 2.0
    assert row["trainer"] == {"learns": 0.25, "gated": 0.5}
    assert row["engine"] == {"samples": 0.9, "paused": 0.01} and row["rollout"] == {"acts": 0.2}


def test_turn_about_the_engines_share_is_of_the_whole_step() -> None:
    values = {"time/rollout_s": [3.0], "time/train_s": [1.0], "engine/busy_ratio": [0.8]}
    (row,) = read_roles({"step": [0], "wall_s": [4.0], "values": values})
    assert row["trainer"]["learns"] == 0.25 and row["engine"]["samples"] == pytest.approx(0.6)


def test_a_run_without_these_meters_has_no_strips() -> None:
    assert (
        read_roles({"step": [0], "wall_s": [1.0], "values": {"reward/mean": [1.0]}}) == []
        and read_roles(None) == []
    )
