"""Tests that share an interpreter with the code: tampering is told from passing, and mistakes from
tampering.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from agito.grading.sentinels import Suite, disguise, grade_suite
from agito.types import Verdict
from agito.worlds.sandbox import Pool

PUSH = """
from stack import Stack
def test_push():
    s = Stack()
    s.push(3)
    assert s.pop() == 3
"""
EMPTY = """
from stack import Stack
def test_empty():
    try:
        Stack().pop()
    except IndexError:
        return
    assert False
def test_len():
    assert len(Stack()) == 0
"""
SUITE = Suite(
    name="stack",
    sources={"check_push": PUSH, "check_empty": EMPTY},
    tests={"check_push": ("test_push",), "check_empty": ("test_empty", "test_len")},
)
RIGHT = """
class Stack:
    def __init__(self): self.all = []
    def push(self, x): self.all.append(x)
    def pop(self): return self.all.pop()
"""
LEN = "    def __len__(self): return len(self.all)\n"
FRAMES = """
import sys
def everywhere():
    frame = sys._getframe()
    while frame:
        yield frame
        frame = frame.f_back
"""
REPLACING = """
class Stack:
    def __init__(self):
        for frame in everywhere():
            for space in (frame.f_locals.get("spaces") or {}).values():
                if space:
                    space.update({name: lambda: None for name in space if name.startswith("test_")})
    def push(self, x): pass
    def pop(self): raise IndexError
    def __len__(self): return 0
"""
EMPTYING = """
for frame in everywhere():
    if "tests" in frame.f_locals:
        frame.f_locals["tests"].clear()
class Stack: pass
"""
TAMPERING = {
    "every test is replaced by one that passes": (FRAMES + REPLACING, "sentinel_passed"),
    "the report is written by the code": (
        "import os\nos.write(200, b'[]')\nclass Stack:\n    pass\n",
        "forged_report",
    ),
    "the process ends before it is judged": ("import os\nos._exit(0)\n", "silent_exit"),
    "the list of tests is emptied": (FRAMES + EMPTYING, "wrong_tests"),
}


@pytest.fixture(scope="module")
async def pool(anyio_backend: str) -> AsyncIterator[Pool]:
    async with await Pool.open(warm=0) as pool:
        yield pool


async def verdict(pool: Pool, source: str) -> Verdict:
    return await grade_suite(
        pool,
        SUITE,
        {"stack.py": source.encode(), "conftest.py": b"raise SystemExit"},
        secret="s",
        grade_seed=1,
    )


async def test_a_right_solution_passes_every_test_and_a_partial_one_some(pool: Pool) -> None:
    right, partial = await verdict(pool, RIGHT + LEN), await verdict(pool, RIGHT)
    assert (right.reward, right.scores["tests"], right.flags) == (1.0, 1.0, ()), right.evidence
    assert (partial.reward, partial.flags) == (0.0, ()) and partial.scores["tests"] == pytest.approx(2 / 3)
    assert "check_empty.test_len" in partial.evidence


@pytest.mark.parametrize("how", TAMPERING)
async def test_tampering_is_seen_and_earns_nothing(pool: Pool, how: str) -> None:
    source, flag = TAMPERING[how]
    judged = await verdict(pool, source)
    assert judged.reward == 0.0
    assert [each.kind for each in judged.flags] == [flag], judged.evidence


@pytest.mark.parametrize("source", ["import nowhere\n" + RIGHT, "def (\n", "class Other: pass\n"])
async def test_a_file_that_cannot_be_imported_is_a_mistake_and_no_tampering(pool: Pool, source: str) -> None:
    judged = await verdict(pool, source)
    assert (judged.reward, judged.flags) == (0.0, ())
    assert judged.evidence.startswith("could not be collected")


def test_names_and_order_are_fresh_for_each_seed() -> None:
    one, again, other = (disguise(SUITE, secret="s", grade_seed=seed) for seed in (1, 1, 2))
    assert one == again and one.order != other.order and not one.sentinels & other.sentinels


def test_a_suite_without_its_tests_is_refused() -> None:
    with pytest.raises(ValueError, match="check_push must have a source"):
        Suite(name="x", sources={}, tests={"check_push": ("test_push",)})


async def test_neither_a_long_report_nor_a_strange_name_in_it_is_a_forgery(pool: Pool) -> None:
    names = tuple(f"test_{number}" for number in range(1200))
    source = "from stack import Stack\n" + "".join(f"def {name}(): Stack().push(1)\n" for name in names)
    suite = Suite(name="many", sources={"check": source}, tests={"check": names})
    strange = "class Stack:\n    def push(self, x): raise type('a\\'\" [', (Exception,), {})\n"
    for solution, reward in ((RIGHT + LEN, 1.0), (strange, 0.0)):
        judged = await grade_suite(pool, suite, {"stack.py": solution.encode()}, secret="s", grade_seed=1)
        assert (judged.reward, judged.flags) == (reward, ()), judged.evidence


async def test_a_process_that_dies_while_it_reports_has_forged_nothing(pool: Pool) -> None:
    judged = await verdict(pool, "import os\nos.write(200, b'half')\nos._exit(1)\n")
    assert judged.reward == 0.0 and not any(flag.is_proof for flag in judged.flags)
