"""The whole loop learns, from random weights, in the real shell."""

from __future__ import annotations

from pathlib import Path

import pytest

import agito

# Twenty seeds: .915 or more afterwards, a gain of .185 or more ("Smoke over seeds" in docs/log.md). One that
# learns nothing by RL ends where it began, at .62 to .75.
AFTER, GAIN = 0.85, 0.10
SHORT = ("rl.steps=6", "eval.tasks=100")


@pytest.mark.timeout(300)
def test_success_on_held_out_tasks_rises_clearly(tmp_path: Path) -> None:
    summary = agito.train("smoke", overrides=SHORT, out=tmp_path / "smoke")
    assert summary.before.num == summary.after.num == 100
    assert summary.after.success >= AFTER
    assert summary.after.success - summary.before.success >= GAIN
    assert summary.void_attempts <= 2


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_the_natural_dialect_learns_by_the_same_recipe(tmp_path: Path) -> None:
    """It begins from nothing; seed 0 comes to .34 by imitation and to .47 by RL."""
    summary = agito.train("smoke", overrides=("env.dialect=natural",), out=tmp_path / "smoke")
    assert summary.before.low > 0.1 and summary.after.success > summary.before.success
    assert summary.after.success >= 0.3
