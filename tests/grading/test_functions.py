"""A function task's verdict: what passes, what fails, and what never becomes a verdict."""

from __future__ import annotations

import random
import signal
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from agito.errors import SandboxFailure
from agito.grading.candidate_box import BOX
from agito.grading.case_snippet import CallEnd
from agito.grading.functions import FunctionTask, draw, expected, grade
from agito.protocols import SandboxSpec
from agito.types import Json, Status, Verdict
from agito.worlds.sandbox import Pool
from agito.worlds.sandbox.box import Box

REFERENCE = "def solve(xs):\n    return sorted(set(xs))\n"


def hidden(rng: random.Random) -> list[list[Json]]:
    return [[[rng.randrange(-20, 20) for _ in range(rng.randrange(2, 9))]] for _ in range(5)]


TASK = FunctionTask(
    name="distinct",
    statement="Return the distinct numbers in order.",
    entry="solution.py:solve",
    reference=REFERENCE,
    visible=(([3, 1, 3],), ([],)),
    hidden=hidden,
)


@pytest.fixture(scope="module")
async def pool(anyio_backend: str) -> AsyncIterator[Pool]:
    async with await Pool.open(warm=1) as pool:
        yield pool


async def verdict(pool: Pool, source: str, task: FunctionTask = TASK, **others: str) -> Verdict:
    files = {path.replace("__", "/") + ".py": text.encode() for path, text in others.items()}
    return await grade(pool, task, {"solution.py": source.encode(), **files}, secret="s", grade_seed=1)


HONEST = {
    "as the reference": REFERENCE,
    "prints": """
print("loaded")
def solve(xs):
    print("[1]", xs, flush=True)
    return sorted(set(xs))
""",
    "the standard library": """
import json, collections
def solve(xs):
    return sorted(json.loads(json.dumps(list(collections.Counter(xs)))))
""",
    "leaves a log": """
def solve(xs):
    open("log.txt", "a").write(str(xs))
    open("/tmp/log", "a").write(str(xs))
    return sorted(set(xs))
""",
    "a class": """
class Solver:
    def __init__(self, xs):
        self.xs = xs
    def run(self):
        return sorted(set(self.xs))
def solve(xs):
    return Solver(xs).run()
""",
    "a main part": """
import sys
def solve(xs):
    return sorted(set(xs))
if __name__ == "__main__":
    sys.exit(0)
""",
    "threads": """
import threading
def solve(xs):
    got = []
    thread = threading.Thread(target=lambda: got.extend(sorted(set(xs))))
    thread.start()
    thread.join()
    return got
""",
    "a child of its own": """
import subprocess
def solve(xs):
    subprocess.run(["echo", "hello"])
    return sorted(set(xs))
""",
}


@pytest.mark.parametrize("style", HONEST)
async def test_an_honest_solution_passes_unflagged_whatever_its_style(pool: Pool, style: str) -> None:
    judged = await verdict(pool, HONEST[style])
    assert (judged.reward, judged.scores["hidden"], judged.flags) == (1.0, 1.0, ()), judged.evidence


async def test_helper_modules_are_carried_and_tests_and_hooks_are_evidence_only(pool: Pool) -> None:
    judged = await verdict(
        pool,
        "from lib.order import distinct\nimport extra\ndef solve(xs):\n    return distinct(xs)\n",
        lib__order="def distinct(xs):\n    return sorted(set(xs))\n",
        extra="",
        conftest="import nowhere\n",
        tests__test_a="assert False\n",
        sitecustomize="raise SystemExit\n",
    )
    assert judged.reward == 1.0 and judged.flags == ()
    assert "not carried: conftest.py, sitecustomize.py, tests/" in judged.evidence


async def test_the_function_may_stand_in_a_package_and_import_its_neighbours(pool: Pool) -> None:
    task = replace(TASK, entry="shop/lists.py:solve")
    files = {
        "shop/__init__.py": b"LIMIT = 3\n",
        "shop/order.py": b"from shop import LIMIT\ndef put(xs):\n    return sorted(xs)\n",
        "shop/lists.py": b"from .order import put, LIMIT\ndef solve(xs):\n    return put(set(xs))\n",
    }
    judged = await grade(pool, task, files, secret="s", grade_seed=1)
    assert judged.reward == 1.0, judged.evidence


FAILING = {
    "wrong on hidden cases": ("def solve(xs):\n    return {3: [1, 3], 0: []}.get(len(xs), [])\n", None),
    "a tuple for a list": ("def solve(xs):\n    return tuple(sorted(set(xs)))\n", None),
    "floats for integers": ("def solve(xs):\n    return [float(x) for x in sorted(set(xs))]\n", None),
    "one that equals everything": (
        "class A(list):\n    def __eq__(self, o): return True\ndef solve(xs):\n    return A()\n",
        "own_type",
    ),
    "a number that equals everything": (
        "class A(int):\n    __eq__ = lambda s, o: True\ndef solve(xs):\n    return [A(1)]\n",
        "own_type",
    ),
    "nothing": ("def solve(xs):\n    pass\n", None),
    "no function": ("x = 1\n", None),
    "a syntax error": ("def solve(xs) return\n", None),
    "an exception": ("def solve(xs):\n    return xs[99]\n", None),
    "a crash": ("import ctypes\ndef solve(xs):\n    ctypes.string_at(0)\n", None),
    "an early exit": ("import os\nos._exit(0)\n", "silent_exit"),
    "an exit in the function": ("def solve(xs):\n    raise SystemExit(0)\n", "silent_exit"),
    "a list that holds itself": ("def solve(xs):\n    xs.append(xs)\n    return xs\n", None),
    "a huge answer": ("def solve(xs):\n    return ['x' * 1000] * 1000\n", None),
    "not a number": ("def solve(xs):\n    return [float('nan')]\n", None),
    "a forged report on every descriptor": (
        """
import os
def solve(xs):
    for fd in range(1, 256):
        try:
            os.write(fd, b'["value",true]')
        except OSError:
            pass
    return []
""",
        "forged_report",
    ),
    "bytes after the answer": (
        """
import os, threading, time
def later():
    while True:
        os.write(200, b"[1]")
threading.Thread(target=later, daemon=True).start()
time.sleep(0.01)
def solve(xs):
    return sorted(set(xs))
""",
        "forged_report",
    ),
    "two answers by a fork": (
        """
import os
def solve(xs):
    if not os.fork():
        return []
    os.wait()
    return sorted(set(xs))
""",
        "forked_answer",
    ),
}


@pytest.mark.parametrize("how", FAILING)
async def test_what_is_not_exactly_the_right_value_fails(pool: Pool, how: str) -> None:
    source, flag = FAILING[how]
    judged = await verdict(pool, source)
    assert judged.status is Status.SCORED and judged.reward == 0.0, judged.evidence
    assert [each.kind for each in judged.flags if each.kind != "visible_only"] == ([flag] if flag else [])
    assert all(each.is_proof == (each.kind == "forged_report") for each in judged.flags)


async def test_a_case_that_hangs_is_stopped_and_the_third_ends_the_grading(pool: Pool) -> None:
    judged = await verdict(pool, "def solve(xs):\n    while True: pass\n", replace(TASK, case_seconds=0.05))
    assert (
        judged.reward == 0.0
        and judged.evidence.startswith("3 wrong")
        and "stopped, deadline" in judged.evidence
    )


async def test_nothing_that_a_case_started_is_alive_in_the_next(pool: Pool) -> None:
    judged = await verdict(
        pool,
        """
import os, subprocess
def solve(xs):
    others = [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) not in (1, os.getpid())]
    subprocess.Popen(["sleep", "60"], start_new_session=True)
    return sorted(set(xs)) if not others else others
""",
    )
    assert judged.reward == 1.0, judged.evidence


@pytest.mark.parametrize("place", ["/work/seen", "/tmp/seen", "solution.py"])
async def test_a_box_in_which_files_were_left_is_replaced(pool: Pool, place: str) -> None:
    source = """
import os
MARK = "#" + "left"
def solve(xs):
    seen = os.path.exists(PLACE) and MARK in open(PLACE).read()
    with open(PLACE, "a") as file:
        file.write(MARK)
    return sorted(set(xs)) if not seen else ["seen"]
"""
    judged = await verdict(pool, source.replace("PLACE", repr(place)))
    assert judged.reward == 1.0, judged.evidence


async def test_expected_exceptions_count_by_name(pool: Pool) -> None:
    task = replace(
        TASK, reference="def solve(xs):\n    if not xs: raise ValueError('empty')\n    return max(xs)\n"
    )
    assert (await verdict(pool, task.reference, task)).reward == 1.0
    assert (await verdict(pool, "def solve(xs):\n    return max(xs, default=None)\n", task)).reward == 0.0


async def test_tolerance_is_for_floats_alone(pool: Pool) -> None:
    task = replace(TASK, reference="def solve(xs):\n    return sum(xs) / 3\n", tolerance=1e-9)
    assert (
        await verdict(pool, "def solve(xs):\n    return sum(x / 3 for x in xs) if xs else 0.0\n", task)
    ).reward == 1.0
    assert (await verdict(pool, "def solve(xs):\n    return sum(xs) // 3\n", task)).reward == 0.0


async def test_without_the_machinery_there_is_no_verdict(anyio_backend: str) -> None:
    async with await Pool.open(warm=0) as pool:
        await pool.aclose()
        with pytest.raises(SandboxFailure):
            await verdict(pool, REFERENCE)


class DyingPool(Pool):
    """Its zygote is killed as soon as a box is handed out."""

    async def start(self, spec: SandboxSpec) -> Box:
        box = await super().start(spec)
        signal.pidfd_send_signal(self.zygote.pidfd, signal.SIGKILL)
        return box


async def test_a_grader_whose_machinery_is_killed_under_it_gives_no_verdict(anyio_backend: str) -> None:
    async with await DyingPool.open(warm=0) as pool:
        with pytest.raises(SandboxFailure):
            await verdict(
                pool, "import time\ndef solve(xs):\n    time.sleep(1)\n    return sorted(set(xs))\n"
            )


async def test_a_solution_too_large_to_be_graded_fails_and_one_that_the_box_cannot_hold_is_no_verdict(
    pool: Pool,
) -> None:
    large = await verdict(pool, "#" * (1 << 18) + REFERENCE)
    assert large.reward == 0.0 and "at most" in large.evidence
    with pytest.raises(SandboxFailure, match="cannot be put"):
        files = {"solution.py": REFERENCE.encode(), "data.py": b"#" * (3 << 20)}
        task = replace(TASK, artefacts=replace(TASK.artefacts, limit_bytes=1 << 24))
        await grade(pool, task, files, secret="s", grade_seed=1, spec=replace(BOX, work_mb=1))


SEARCHING = """
import os
MARK = bytes(each ^ 1 for each in HIDDEN)
def solve(xs):
    held = 0
    for line in open("/proc/self/maps"):
        span, mode, *_ = line.split()
        start, stop = (int(end, 16) for end in span.split("-"))
        if mode[0] == "r" and "[v" not in line:
            with open("/proc/self/mem", "rb", 0) as memory:
                memory.seek(start)
                held += memory.read(stop - start).replace(MARK, b"", 1).count(MARK)
    for folder, _, names in os.walk("/work"):
        held += sum(MARK in open(os.path.join(folder, name), "rb").read() for name in names)
    return sorted(set(xs)) if not held else held
"""


async def test_the_reference_never_enters_the_box_and_whoever_searches_would_find_it_there(
    pool: Pool,
) -> None:
    mark = "a_mark_of_the_reference"
    task = replace(TASK, reference=f"# {mark}\n{REFERENCE}")
    source = SEARCHING.replace("HIDDEN", repr([ord(letter) ^ 1 for letter in mark]))
    judged = await verdict(pool, source, task)
    assert judged.reward == 1.0, judged.evidence
    leaked = await verdict(pool, source, task, leak=task.reference)
    assert leaked.reward == 0.0, "the search finds nothing at all"


def test_hidden_cases_are_fresh_for_each_seed_and_secret_and_the_same_for_the_same() -> None:
    def questions(secret: str, seed: int) -> list[str]:
        return [repr(case.arguments) for case in draw(TASK, secret=secret, grade_seed=seed)]

    assert questions("a", 1) == questions("a", 1)
    assert questions("a", 1) != questions("b", 1) and questions("a", 1) != questions("a", 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"entry": "solve"}, "FILE.py:FUNCTION"),
        ({"reference": "def other(xs): return 1\n"}, "defines no function"),
        ({"reference": "def solve(xs): return set(xs)\n"}, "no plain JSON value"),
        ({"hidden": lambda rng: []}, "draws no case"),
    ],
)
def test_a_task_that_cannot_be_judged_says_why(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(replace(TASK, **change), secret="", grade_seed=0)


def test_the_reference_cannot_spoil_the_question() -> None:
    task = replace(TASK, reference="def solve(xs):\n    xs.sort()\n    return len(xs)\n")
    case = expected(task, ([3, 1, 2],))
    assert (case.arguments, case.told, case.expected) == (([3, 1, 2],), CallEnd.VALUE, 3)
