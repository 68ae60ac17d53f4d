"""A pool for each test, with real sandboxes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from agito.protocols import SandboxSpec
from agito.worlds.sandbox import Pool
from agito.worlds.sandbox.box import Box


@pytest.fixture
async def pool(anyio_backend: str) -> AsyncIterator[Pool]:
    async with await Pool.open(warm=0) as pool:
        yield pool


@pytest.fixture
async def box(pool: Pool) -> Box:
    return await pool.start(SandboxSpec())
