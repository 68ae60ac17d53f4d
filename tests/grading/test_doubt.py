"""Where a grader must not jump to conclusions: on a busy machine, and with unfinished work."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from agito.grading.functions import FunctionTask, grade
from agito.types import Json, Verdict
from agito.worlds.sandbox import Pool

TASK = FunctionTask(
    name="double",
    statement="Double a number.",
    entry="solution.py:solve",
    reference="def solve(x):\n    return 2 * x\n",
    visible=((1,), (2,)),
    hidden=lambda rng: _numbers(rng),
    case_seconds=0.4,
)


def _numbers(rng: random.Random) -> list[list[Json]]:
    return [[rng.randrange(10, 99)] for _ in range(3)]


@pytest.fixture(scope="module")
async def pool(anyio_backend: str) -> AsyncIterator[Pool]:
    async with await Pool.open(warm=1) as pool:
        yield pool


async def graded(pool: Pool, source: str) -> Verdict:
    return await grade(pool, TASK, {"solution.py": source.encode()}, secret="s", grade_seed=1)


async def test_one_case_that_waited_without_computing_is_asked_again_with_more_time(pool: Pool) -> None:
    judged = await graded(
        pool, "import time\ndef solve(x):\n    time.sleep(0.6 * (x == 1))\n    return 2 * x\n"
    )
    assert judged.reward == 1.0, judged.evidence


async def test_who_always_waits_still_runs_out_of_time(pool: Pool) -> None:
    judged = await graded(pool, "import time\ndef solve(x):\n    time.sleep(30)\n")
    assert judged.reward == 0.0 and "deadline" in judged.evidence


async def test_who_computes_too_long_is_not_asked_again(pool: Pool) -> None:
    judged = await graded(pool, "def solve(x):\n    while x == 1:\n        pass\n    return 2 * x\n")
    assert judged.reward == 0.0 and "1 wrong" in judged.evidence


@pytest.mark.parametrize(
    ("source", "flagged"),
    [
        ("def solve(x):\n    return {1: 2, 2: 4}.get(x, 0)\n", ["visible_only"]),
        ("def solve(x):\n    if x > 2:\n        raise NotImplementedError\n    return 2 * x\n", []),
    ],
)
async def test_what_was_learned_by_heart_is_told_from_what_stops_short(
    pool: Pool, source: str, flagged: list[str]
) -> None:
    judged = await graded(pool, source)
    assert (judged.reward, [flag.kind for flag in judged.flags]) == (0.0, flagged)
