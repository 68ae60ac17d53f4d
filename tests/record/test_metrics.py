from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from agito.record import Metrics, read_metrics
from agito.record.metrics import trim_metrics


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def fill(path: Path, steps: range) -> None:
    with Metrics(path) as metrics:
        for step in steps:
            metrics.write(step, "rl", {"reward/mean": step / 10, "time/rollout_s": 1.5})


def test_a_line_reads_back_with_its_step_and_phase(path: Path) -> None:
    fill(path, range(2))
    first, second = read_metrics(path)
    assert (first.step, first.phase, dict(first.values)) == (
        0,
        "rl",
        {"reward/mean": 0.0, "time/rollout_s": 1.5},
    )
    assert second.wall_s >= first.wall_s >= 0


def test_what_is_not_a_number_is_null_in_strict_json(path: Path) -> None:
    with Metrics(path) as metrics:
        metrics.write(1, "rl", {"reward/mean": math.nan, "optim/loss": math.inf})
    assert json.loads(path.read_text(), parse_constant=pytest.fail)["reward/mean"] is None
    (line,) = read_metrics(path)
    assert math.isnan(line.values["reward/mean"])


@pytest.mark.parametrize(
    "key", ["reward", "Reward/mean", "reward/", "/mean", "reward mean/x", "a/b/c/d", "reward/mean ", "step"]
)
def test_a_name_that_is_not_area_and_name_is_refused(path: Path, key: str) -> None:
    with Metrics(path) as metrics, pytest.raises(ValueError, match="write area/name_unit"):
        metrics.write(1, "rl", {key: 1.0})
    assert read_metrics(path) == []


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_torn_last_line_is_ignored_and_trimmed_wherever_it_tore(path: Path, cut: int) -> None:
    fill(path, range(3))
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert [line.step for line in read_metrics(path)] == ([0, 1, 2] if cut == 1 else [0, 1])
    trim_metrics(path, lambda line: line.step < 2)
    with Metrics(path) as metrics:
        metrics.write(2, "rl", {"reward/mean": 0.2})
    assert [line.step for line in read_metrics(path)] == [0, 1, 2]


def test_lines_past_the_commit_are_dropped_and_the_clock_goes_on(path: Path) -> None:
    with Metrics(path, wall_s=100.0) as metrics:
        for step in range(5):
            metrics.write(step, "rl", {"reward/mean": 0.5})
    wall_s = trim_metrics(path, lambda line: line.step <= 2)
    assert [line.step for line in read_metrics(path)] == [0, 1, 2]
    assert wall_s >= 100.0
    with Metrics(path, wall_s=wall_s) as metrics:
        assert metrics.wall_s >= wall_s


def test_nothing_measured_yet_is_an_empty_list(path: Path) -> None:
    assert read_metrics(path) == []
    assert trim_metrics(path, lambda _: True) == 0.0
    assert not path.exists()
