"""The whole loop learns, in half a minute, from random weights, in the real shell."""

from __future__ import annotations

from pathlib import Path

import pytest

import agito

# To become part of the fast gate when the margin is known over 20 seeds ("Smoke over seeds" in docs/log.md). A run that does not
# learn ends where it began.
AFTER, GAIN = 0.80, 0.05


@pytest.mark.full
def test_success_on_held_out_tasks_rises_clearly(tmp_path: Path) -> None:
    summary = agito.train("smoke", out=tmp_path / "smoke")
    assert summary.before.num == summary.after.num == 200
    assert summary.after.success >= AFTER
    assert summary.after.success - summary.before.success >= GAIN
    assert summary.void_attempts <= 2
