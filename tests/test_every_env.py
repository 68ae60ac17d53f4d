"""Every environment trains: its recipe with fewer steps of RL and fewer tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from agito import api

SHORT = ("eval.tasks=150", "eval.structural_tasks=0", "eval.baseline_tasks=20", "rl.steps=12")


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "name", ["fanout", "probe", "tooldag", "chain", "ledger", "research", "desk", "code", "web"]
)
def test_rl_raises_success_after_a_cold_start(tmp_path: Path, name: str) -> None:
    summary = api.train(name, overrides=SHORT, out=tmp_path / name)
    before, after = summary.before, summary.after
    assert after.low > before.success and after.success - before.success > 0.1, (before, after)
    assert summary.baselines["null"].successes == 0 and summary.baselines["oracle"].success == 1.0
