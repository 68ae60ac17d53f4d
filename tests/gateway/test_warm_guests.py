"""A guest that is forked from an interpreter with all its modules is as one that imports them anew."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import anyio
import pytest

from agito.harness.foreign import boxed
from agito.harness.foreign.guest import Ended, OwnClock
from agito.harness.foreign.layout import layout
from agito.protocols import SandboxSpec
from agito.worlds.sandbox import Pool

pytestmark = pytest.mark.anyio

TELLS = """
import atexit, gc, json, os, sys, threading, time
import known
GLOBAL = "a global"
known.seen.append(1)
atexit.register(lambda: print("at exit"))
threading.Thread(target=lambda: (time.sleep(0.2), print("a thread", flush=True))).start()
of_bash = {"SHLVL", "_", "OLDPWD"}
print(json.dumps({
    "main": [__name__, __file__, sys.argv, sys.modules["__main__"].GLOBAL],
    "python": [sys.prefix, sys.executable, sys.path, sys.flags.hash_randomization, gc.isenabled()],
    "place": [os.getcwd(), sys.stdin.read(), {k: v for k, v in os.environ.items() if k not in of_bash}],
    "state": [known.seen, type(exit).__name__, sys.getrecursionlimit(), sys.stdout.encoding],
}, sort_keys=True))
"""
KNOWN = "import time\ntime.sleep(1.5)\nseen = []\n"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a virtual environment with packages of its own."""
    venv = tmp_path_factory.mktemp("guest") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "known.py").write_text(KNOWN)
    (site / "threads.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(3600,), daemon=True).start()\n"
    )
    (site / "fails.py").write_text("raise RuntimeError('no screen')\n")
    (site / "leaves.py").write_text("raise SystemExit(3)\n")
    return venv / "bin/python"


async def ran(
    folder: Path, python: Path, does: str, *, warm: bool, times: int = 1
) -> list[tuple[Ended, float]]:
    """How a guest's attempts ended, one after another, and the seconds of each."""
    (folder / "agent.py").write_text(does)
    place = layout([str(python), "agent.py", "--deep", "2"], folder, files=(), shown=(), warm=warm)
    found = list[tuple[Ended, float]]()
    async with await Pool.open(warm=0, shown=place.shown, python=place.python) as pool:
        for _ in range(times):
            box = await pool.start(SandboxSpec(procs=64, env={"GIVEN": "word"}, path=place.path))
            await box.write(place.contents())
            began = time.monotonic()
            ended = await boxed.run(
                box,
                place,
                is_warm=pool.cold is None,
                prompt="a task",
                over=anyio.Event(),
                seconds=60,
                clock=OwnClock(),
            )
            found.append((ended, time.monotonic() - began))
            await box.close()
    return found


async def test_a_warm_guest_finds_all_as_a_cold_one_does_and_nothing_of_the_one_before(
    tmp_path: Path, python: Path
) -> None:
    cold, warm, again = (
        (await ran(tmp_path, python, TELLS, warm=False))[0],
        *await ran(tmp_path, python, TELLS, warm=True, times=2),
    )
    said = [each.tail.splitlines() for each, _ in (cold, warm, again)]
    assert said[0][1:] == ["a thread", "at exit"]
    told = [json.loads(each[0]) for each in said]
    assert told[0]["main"][2] == ["agent.py", "--deep", "2"] and told[0]["place"][1] == "a task"
    assert told[0]["state"][0] == [1] and told[0]["place"][2]["GIVEN"] == "word"
    assert told[1] == told[0] and told[2] == told[0]
    assert said[1][1:] == said[2][1:] == said[0][1:]
    assert [each.exit_code for each, _ in (cold, warm, again)] == [0, 0, 0]
    assert cold[1] > 1.5 > max(warm[1], again[1]), "the import's seconds are paid once"


@pytest.mark.parametrize(
    ("does", "code", "says"),
    [
        ("import sys\nsys.exit(5)", 5, ""),
        ("import sys\nsys.exit('what is wrong')", 1, "what is wrong"),
        ("exit()", 0, ""),
        ("def f():\n    return 1 / 0\nf()", 1, "in f"),
        ("def f(:", 1, "SyntaxError"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", 137, ""),
        ("import os\nos.abort()", 134, ""),
        ("import fails", 1, "no screen"),
        ("import leaves", 3, ""),
        ("import absent", 1, "No module named 'absent'"),
        ("import threads\nprint(threads.__name__)", 0, "threads"),
        ("import agent\nprint(agent.__name__)", 0, "agent"),
        ("import random, os\nprint(len({random.random(), 1.0}))", 0, "2"),
    ],
)
async def test_a_warm_guest_ends_as_a_cold_one_does(
    does: str, code: int, says: str, tmp_path: Path, python: Path
) -> None:
    for warm in (True, False):
        ((ended, _),) = await ran(tmp_path, python, does, warm=warm)
        assert ended.exit_code == code and says in ended.tail, (warm, ended)


async def test_what_cannot_be_forked_soundly_is_not_kept_warm_and_the_pool_says_why(
    tmp_path: Path, python: Path
) -> None:
    (tmp_path / "agent.py").write_text("import threads")
    place = layout([str(python), "agent.py"], tmp_path, files=(), shown=(), warm=True)
    async with await Pool.open(warm=0, shown=place.shown, python=place.python) as pool:
        assert pool.cold is not None and "threads starts 1 thread" in pool.cold
        pool.zygote.control.close()
    assert layout(["/bin/sh", "agent.py"], tmp_path, files=(), shown=(), warm=True).python is None


async def test_attempts_draw_other_random_numbers(tmp_path: Path, python: Path) -> None:
    found = await ran(tmp_path, python, "import random\nprint(random.random())", warm=True, times=3)
    assert len({ended.tail for ended, _ in found}) == 3
