"""The verdict depends on the code alone: not on machine, pool or earlier cases, nor on how a value is
written.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest

from agito.grading.functions import FunctionTask, grade
from agito.grading.plain_json import MAX_DEPTH, parse, same
from agito.types import Json, Verdict
from agito.worlds.sandbox import Pool

pytestmark = pytest.mark.anyio
BURN = """
import os, signal, sys, threading, time
def burn(seconds):
    began = time.process_time()
    while time.process_time() - began < seconds: pass
"""


@pytest.fixture(scope="module")
async def pool(anyio_backend: str) -> AsyncIterator[Pool]:
    async with await Pool.open(warm=1) as pool:
        yield pool


def task(reference: str, *inputs: Json, seconds: float = 2.0, tolerance: float = 0.0) -> FunctionTask:
    def hidden(rng: random.Random) -> list[list[Json]]:
        return [[each] for each in inputs]

    return FunctionTask(
        name="t",
        statement="",
        entry="solution.py:solve",
        reference=reference,
        visible=(),
        hidden=hidden,
        case_seconds=seconds,
        tolerance=tolerance,
    )


async def judged(pool: Pool, asked: FunctionTask, source: str, **others: str) -> Verdict:
    files = {
        path.replace("__", "/").replace("_DOT_", "."): text.encode("utf-8", "surrogatepass")
        for path, text in others.items()
    }
    return await grade(pool, asked, {"solution.py": source.encode(), **files}, secret="s", grade_seed=1)


@contextmanager
def busy_machine() -> Iterator[None]:
    """Two burners on each core."""
    code = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
    burners = [
        subprocess.Popen([sys.executable, "-S", "-c", code]) for _ in range(2 * len(os.sched_getaffinity(0)))
    ]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


# The first number is the CPU time that each needs; a call has 0.2 s.
SPENT = {
    "in a loop": "def solve(x):\n    burn({0})\n    return x\n",
    "after a nap": "def solve(x):\n    time.sleep(.1)\n    burn({0})\n    return x\n",
    "while it is imported": "burn({0})\ndef solve(x):\n    return x\n",
    "in a thread": "def solve(x):\n    t = threading.Thread(target=lambda: burn({0})); t.start(); "
    "t.join()\n    return x\n",
    "in a child that it waits for": "def solve(x):\n    if not os.fork(): burn({0}); os._exit(0)\n    "
    "os.wait()\n    return x\n",
    "in a child that outlives it": """
def solve(x):
    r, w = os.pipe()
    if not os.fork():
        burn({0}); os.write(w, b"x"); time.sleep(60)
    os.read(r, 1)
    return x
""",
    "in an orphan": """
def solve(x):
    r, w = os.pipe()
    if not os.fork():
        if not os.fork():
            burn({0}); os.write(w, b"x")
        os._exit(0)
    os.wait()
    os.read(r, 1)
    return x
""",
    "in a session of its own": """
def solve(x):
    r, w = os.pipe()
    if not os.fork():
        os.setsid(); burn({0}); os.write(w, b"x"); os._exit(0)
    os.read(r, 1)
    return x
""",
    "in children side by side": """
def solve(x):
    for _ in range(4):
        if not os.fork(): burn({0} / 4); os._exit(0)
    for _ in range(4): os.wait()
    return x
""",
}
HIDDEN = {
    "by a child whose end is ignored": """
def solve(x):
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    r, w = os.pipe()
    if not os.fork():
        burn({0}); os.write(w, b"x"); os._exit(0)
    os.read(r, 1)
    return x
""",
    "by many short children whose ends are ignored": """
def solve(x):
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for _ in range(40):
        r, w = os.pipe()
        if not os.fork():
            burn({0} / 40); os.write(w, b"x"); os._exit(0)
        os.read(r, 1); os.close(r); os.close(w)
    return x
""",
}


@pytest.mark.parametrize("how", SPENT)
async def test_the_processor_time_of_the_whole_process_tree_is_judged(pool: Pool, how: str) -> None:
    identity = task("def solve(x):\n    return x\n", 1, seconds=0.2)
    enough, late = [await judged(pool, identity, BURN + SPENT[how].format(spent)) for spent in (0.07, 0.3)]
    assert (enough.reward, late.reward) == (1.0, 0.0), (enough.evidence, late.evidence)
    assert "deadline" in late.evidence and not late.flags


@pytest.mark.parametrize(
    "how", ["in a thread", "in an orphan", "in a session of its own", "in children side by side"]
)
async def test_what_was_used_between_two_looks_is_counted_at_the_end(pool: Pool, how: str) -> None:
    late = await judged(
        pool, task("def solve(x):\n    return x\n", 1, seconds=0.015), BURN + SPENT[how].format(0.035)
    )
    assert late.reward == 0.0 and "deadline" in late.evidence


@pytest.mark.parametrize("how", HIDDEN)
async def test_who_keeps_his_children_from_being_counted_is_charged_the_time_on_the_wall(
    pool: Pool, how: str
) -> None:
    late = await judged(
        pool, task("def solve(x):\n    return x\n", 1, seconds=0.2), BURN + HIDDEN[how].format(0.7)
    )
    assert late.reward == 0.0 and "deadline" in late.evidence


async def test_the_same_solution_passes_or_fails_alike_on_a_loaded_machine(pool: Pool) -> None:
    identity = task("def solve(x):\n    return x\n", 1, seconds=0.3)
    with busy_machine():
        for spent, reward in ((0.15, 1.0), (0.4, 0.0)):
            for how in ("in a loop", "in a child that it waits for"):
                verdict = await judged(pool, identity, BURN + SPENT[how].format(spent))
                assert verdict.reward == reward, (how, verdict.evidence)


async def test_who_only_sleeps_is_stopped_after_several_times_the_limit_and_a_nap_is_allowed(
    pool: Pool,
) -> None:
    identity = task("def solve(x):\n    return x\n", 1, seconds=0.1)
    assert (
        await judged(pool, identity, "import time\ndef solve(x):\n    time.sleep(.2)\n    return x\n")
    ).reward == 1.0
    asleep = await judged(pool, identity, "import time\ndef solve(x):\n    time.sleep(60)\n    return x\n")
    assert asleep.reward == 0.0 and "sleeps" in asleep.evidence


# Each leaves something in its first case for later ones to find.
LASTING = {
    "an empty folder": ("os.path.isdir('d')", "os.mkdir('d')"),
    "the target of a link": ("os.path.islink('l')", "os.symlink('nowhere', 'l')"),
    "a name": ("os.path.exists('b.py')", "os.rename('a.py', 'b.py')"),
    "a name that comes and goes": (
        "os.stat('.').st_mtime_ns > os.stat('/proc/1').st_mtime_ns + MARK",
        "os.utime('.', ns=(0, FAR))",
    ),
    "the mode of a file": ("os.stat('a.py').st_mode & 1", "os.chmod('a.py', 0o755)"),
    "the time of a file": ("os.stat('a.py').st_mtime_ns == 7", "os.utime('a.py', ns=(7, 7))"),
    "the time of access": (
        "os.stat('a.py').st_atime_ns == 7",
        "os.utime('a.py', ns=(7, os.stat('a.py').st_mtime_ns))",
    ),
    "bytes of the same length": ("open('a.py').read() != A", "open('a.py', 'w').write(A[::-1])"),
    "a hard link": ("os.stat('a.py').st_nlink > 1", "os.link('a.py', 'h')"),
    "a pipe with a name": ("os.path.exists('p')", "os.mkfifo('p')"),
    "an attribute": ("bool(os.listxattr('a.py'))", "os.setxattr('a.py', 'user.x', b'1')"),
    "a file in /tmp": ("os.path.exists('/tmp/f')", "open('/tmp/f', 'w')"),
    "a folder in /tmp": ("os.path.exists('/tmp/d')", "os.mkdir('/tmp/d')"),
    "shared memory": ("os.path.exists('/dev/shm/m')", "open('/dev/shm/m', 'w')"),
    "the mode of /tmp": ("os.stat('/tmp').st_mode & 0o777 == 0o700", "os.chmod('/tmp', 0o700)"),
    "the time of /tmp": ("os.stat('/tmp').st_mtime_ns == 7", "os.utime('/tmp', ns=(7, 7))"),
    "an attribute of /tmp": ("bool(os.listxattr('/tmp'))", "os.setxattr('/tmp', 'user.x', b'1')"),
    "how many processes there were": (
        "os.getpid() > 50",
        "[os.waitpid(os.fork() or os._exit(0), 0) for _ in range(60)]",
    ),
    "a process": ("len([p for p in os.listdir('/proc') if p.isdigit()]) > 2", "os.fork() or time.sleep(60)"),
    "packets on the loopback": (
        "open('/proc/net/dev').read().split('lo:')[1].split()[0] != '0'",
        "s.sendto(b'x', ('127.0.0.1', 9))",
    ),
    "a port that waits": (
        "'0100007F' in open('/proc/net/tcp').read()",
        "t.bind(('127.0.0.1', 0)); t.listen(); c.connect(t.getsockname())",
    ),
}
CARRIER = """
import os, socket, time
s, t, c = socket.socket(2, 2), socket.socket(), socket.socket()
A, FAR, MARK = open('a.py').read(), 1 << 61, 1 << 58
def solve(x):
    seen = FOUND
    if not seen:
        try: LEAVE
        except OSError: return 'nothing can be left'
    return 'seen' if seen else x
"""


@pytest.mark.parametrize("what", LASTING)
async def test_nothing_that_a_case_leaves_is_there_in_the_next(pool: Pool, what: str) -> None:
    found, leave = LASTING[what]
    source = CARRIER.replace("FOUND", found).replace("LEAVE", leave)
    verdict = await judged(
        pool, task("def solve(x):\n    return x\n", 1, 2, 3), source, a_DOT_py="x = 10 + 1\n"
    )
    assert verdict.reward == 1.0, verdict.evidence


async def test_the_order_of_a_set_and_the_time_zone_are_the_same_in_every_pool(
    anyio_backend: str, pool: Pool
) -> None:
    words = [f"word{number}" for number in range(12)]
    source = """
import hashlib, subprocess, sys, time
def solve(words):
    child = subprocess.run([sys.executable, '-c', f'print(list(set({words!r})))'], capture_output=True, text=True).stdout
    told = [list(set(words)), child, time.tzname, time.localtime(0).tm_hour, sys.getfilesystemencoding()]
    return hashlib.md5(repr(told).encode()).hexdigest()
"""  # noqa: E501
    told: set[str] = set()
    for _ in range(3):
        async with await Pool.open(warm=0) as other:
            told |= {
                (await judged(other, task("def solve(words):\n    return 0\n", list(words)), source)).evidence
                for _ in range(2)
            }
    assert len(told) == 1
    async with await Pool.open(warm=0, hash_seed=7) as other:
        assert (
            await judged(other, task("def solve(words):\n    return 0\n", list(words)), source)
        ).evidence not in told


def fn(body: str, before: str = "") -> str:
    """Source of a function of x."""
    lines = "".join(f"    {line}\n" for line in body.split("; "))
    return f"{before}\ndef solve(x):\n{lines}"


FACTORIAL = fn("return math.factorial(x)", "import math")
COUNT = fn("d = {}; [d.update({c: d.get(c, 0) + 1}) for c in x]; return d")
NEST = fn("r = []; for _ in range(x): r = [r]; return r")
FIELD = "from dataclasses import dataclass, fields\n@dataclass\nclass P:\n    a: int\n    b: float"
TYPED = fn("return [f.type(part) for f, part in zip(fields(P), x.split(','))]", FIELD)
FUTURE = fn("return P(x, 1.0).a", f"from __future__ import annotations\n{FIELD}")
ECHO = fn("return x")
RAISE = fn("raise ValueError('x')")
LOOKUP = fn("raise LookupError(x)")
OWN = fn("raise Empty", "class Empty(Exception): pass")
LIAR = """
class Counter(dict):
    def items(self): return [('a', 1)]
Counter.__module__ = 'collections'
"""
HALVES, WHOLE = fn("return '\\ud83d' + '\\ude00'"), fn("return chr(128512)")
LONG = -(10**20_000) + 3

RIGHT: dict[str, tuple[FunctionTask, str]] = {
    "an integer of 5,000 digits": (task(FACTORIAL, 5, 2000), FACTORIAL),
    "one of minus 20,000 digits as an argument": (task(fn("return -x"), LONG), fn("return -x")),
    "one in a list in a dictionary": (task(fn("return {'a': [7 ** x]}"), 9000), fn("return {'a': [7 ** x]}")),
    "types of fields": (task(fn("a, b = x.split(','); return [int(a), float(b)]"), "1,2.5"), TYPED),
    "a typed reference": (task(TYPED, "1,2.5"), TYPED),
    "a reference with annotations from the future": (task(FUTURE, 3), FUTURE),
    "lists 480 deep": (task(NEST, 1, 480), NEST),
    "an argument 480 deep": (task(ECHO, parse(b"[" * 480 + b"]" * 480)), ECHO),
    "a long answer": (task(fn("return 'x' * x"), 500_000), fn("return 'x' * x")),
    "a long answer beyond ASCII": (
        task(fn("return '\\u20ac\\x00\\n' * x"), 40_000),
        fn("return '\u20ac\\0\\n' * x"),
    ),
    "half a character": (task(ECHO, "\ud83d", "a\udc80b"), ECHO),
    "two halves": (task(HALVES, 1), HALVES),
    "a whole character": (task(WHOLE, 1), fn("return '\\U0001f600'")),
    "quotes and slashes": (task(ECHO, '"\\\\"\'\u2028\x7f\x1b/', {'"k\\': ["\t"]}), ECHO),
    "a counter": (task(COUNT, "aab"), "from collections import Counter\nsolve = Counter\n"),
    "a default dictionary": (
        task(COUNT, "aab"),
        fn("d = defaultdict(int); d['a'] += 2; d['b'] += 1; return d", "from collections import defaultdict"),
    ),
    "a class of one's own that is a ValueError": (
        task(RAISE, 1),
        fn("raise Bad(x)", "class Bad(ValueError): pass"),
    ),
    "a builtin that is a ValueError": (task(RAISE, 1), fn("b'\\xff'.decode()")),
    "one of the library that is a ValueError": (task(RAISE, 1), fn("json.loads('{')", "import json")),
    "a KeyError for a LookupError": (task(LOOKUP, 1), fn("return {}[x]")),
    "an exception of one's own for one of the reference's own": (
        task(OWN, 1),
        fn("raise Void", "class Void(Exception): pass"),
    ),
    "minus zero, where floats are near": (task(fn("return 0.0"), 1, tolerance=1e-9), fn("return -0.0")),
}
WRONG: dict[str, tuple[FunctionTask, str]] = {
    "two halves for a whole character": (task(WHOLE, 1), HALVES),
    "a whole character for two halves": (task(HALVES, 1), WHOLE),
    "a letter composed otherwise": (task(fn("return '\\u00e9'"), 1), fn("return 'e\\u0301'")),
    "minus zero for zero": (task(fn("return [0.0]"), 1), fn("return [-0.0]")),
    "a long integer off by one": (task(FACTORIAL, 2000), fn("return math.factorial(x) + 1", "import math")),
    "a tuple for a list": (task(ECHO, [1, 2]), fn("return tuple(x)")),
    "True for 1": (task(ECHO, [1]), fn("return [True]")),
    "a class of one's own that is a string": (task(ECHO, "a"), "class S(str): pass\nsolve = S\n"),
    "a dictionary of one's own": (task(ECHO, {"a": 1}), "class D(dict): pass\nsolve = D\n"),
    "a dictionary that lies": (task(ECHO, {"a": 1}), fn("return Counter()", LIAR)),
    "a key that is no string": (task(ECHO, {"1": 1}), fn("return {1: 1}")),
    "a class of that name": (task(RAISE, 1), fn("raise ValueError", "class ValueError(Exception): pass")),
    "a base for its class": (task(RAISE, 1), fn("raise Exception('x')")),
    "a sister": (task(RAISE, 1), fn("raise TypeError('x')")),
    "a LookupError for a KeyError": (task(fn("return {}[x]"), 1), LOOKUP),
    "a crash for an exception of the reference's own": (task(OWN, 1), fn("return x.nothing")),
    "an exception that is returned": (task(RAISE, 1), fn("return 'ValueError'")),
    "not a number, where floats are near": (
        task(fn("return 1.0"), 1, tolerance=1e-6),
        fn("return float('nan')"),
    ),
}


@pytest.mark.parametrize("what", RIGHT)
async def test_the_right_value_passes_however_it_is_written(pool: Pool, what: str) -> None:
    verdict = await judged(pool, *RIGHT[what])
    assert (verdict.reward, verdict.flags) == (1.0, ()), verdict.evidence


@pytest.mark.parametrize("what", WRONG)
async def test_a_value_that_only_looks_right_fails_without_proof_of_anything(pool: Pool, what: str) -> None:
    verdict = await judged(pool, *WRONG[what])
    assert verdict.reward == 0.0, verdict.evidence
    assert not any(flag.is_proof for flag in verdict.flags)


@pytest.mark.parametrize(
    "frame",
    [
        b' ["value",1]',
        b'["value",1] ',
        b'["value", 1]',
        b'["value",1e400]',
        b'["value",{"a":2,"a":1}]',
        b"[" * 30_000,
        b'["value",NaN]',
        b'\xef\xbb\xbf["value",1]',
        b'["value",1]\x00',
        b'["value","\xff"]',
    ],
)
def test_what_no_runner_of_ours_writes_is_no_answer(frame: bytes) -> None:
    with pytest.raises(ValueError):
        parse(frame)


def test_equal_means_equal_in_type_and_value_all_the_way_down() -> None:
    deep = parse(b"[" * MAX_DEPTH + b"1.0" + b"]" * MAX_DEPTH)
    assert same(deep, deep) and not same(deep, parse(b"[" * MAX_DEPTH + b"1" + b"]" * MAX_DEPTH))
    assert same({"a": [0.0]}, {"a": [-0.0]}, 1e-9) and not same({"a": [0.0]}, {"a": [-0.0]})
    assert not same(1.7e308, -1.7e308, 1e-6)


async def test_data_and_helpers_are_carried_and_what_is_left_over_costs_nobody_a_verdict(pool: Pool) -> None:
    plus = task("def solve(n):\n    return n + 1\n", 1, 2)
    source = (
        "import json, test_data\ndef solve(n):\n    return n + json.load(open('data/k.json')) * test_data.K\n"
    )
    spare = {f"bak{number}__copy_DOT_py": "#" * 50_000 for number in range(9)} | {
        "all_DOT_log": "x" * 900_000
    }
    verdict = await judged(pool, plus, source, data__k_DOT_json="1", test_data_DOT_py="K = 1\n", **spare)
    assert verdict.reward == 1.0 and "all.log" in verdict.evidence
    large = await judged(
        pool,
        plus,
        "import big\n" + source,
        data__k_DOT_json="1",
        test_data_DOT_py="K = 1\n",
        big_DOT_py="#" * 300_000,
    )
    assert large.reward == 0.0 and "at most" in large.evidence
