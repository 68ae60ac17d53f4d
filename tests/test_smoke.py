"""The whole loop learns, in half a minute, from random weights, in the real shell."""

from __future__ import annotations

from pathlib import Path

import pytest

import agito

# Twenty seeds: .915 or more afterwards, a gain of .185 or more ("Smoke over seeds" in docs/log.md). One that learns nothing by RL ends
# where it began, at .62 to .75.
AFTER, GAIN = 0.85, 0.10


@pytest.mark.timeout(300)
def test_success_on_held_out_tasks_rises_clearly(tmp_path: Path) -> None:
    summary = agito.train("smoke", out=tmp_path / "smoke")
    assert summary.before.num == summary.after.num == 200
    assert summary.after.success >= AFTER
    assert summary.after.success - summary.before.success >= GAIN
    assert summary.void_attempts <= 2
