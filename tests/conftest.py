"""Shared by all tests: one event loop, one thread for mathematics, seeded property tests."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("agito", derandomize=True, deadline=None, max_examples=60, database=None)
settings.load_profile("agito")


# The longest tests start first, so that no worker process is left with one of them at the end.
LONGEST = ("test_smoke.py", "test_resume.py", "test_real_run.py", "test_pipeline.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Writes the number of skipped tests and the reasons into the file that `make check` prints last."""
    place = os.environ.get("AGITO_SKIPS")
    if place:
        Path(place).write_text(skips(terminalreporter.stats.get("skipped", [])), encoding="utf-8")


def skips(reports: Sequence[pytest.TestReport | pytest.CollectReport]) -> str:
    """One line per reason, the commonest first. A file that cannot be collected counts once."""
    reasons = Counter(_reason(report) for report in reports)
    lines = [f"  {count:3d} × {reason}\n" for reason, count in reasons.most_common()]
    return f"skipped: {len(reports) or 'none'}\n{''.join(lines)}"


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    told = report.longrepr
    said = told[2] if isinstance(told, tuple) else str(told)
    return " ".join(said.removeprefix("Skipped: ").split())


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
