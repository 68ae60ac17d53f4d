"""What every test shares: one event loop, one thread for mathematics, seeded property tests."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("agito", derandomize=True, deadline=None, max_examples=60, database=None)
settings.load_profile("agito")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
