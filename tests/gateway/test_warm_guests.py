"""A guest that is forked from an interpreter with all its modules is as one that imports them anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from agito.harness.foreign import boxed
from agito.harness.foreign.guest import Ended, OwnClock
from agito.harness.foreign.layout import layout
from agito.protocols import SandboxPool, SandboxSpec, WarmPython
from agito.worlds.sandbox import Pool, launch

pytestmark = pytest.mark.anyio

TELLS = """
import atexit, gc, json, os, sys, threading, time
import known
GLOBAL = "a global"
known.seen.append(1)
atexit.register(lambda: print("at exit"))
threading.Thread(target=lambda: (time.sleep(0.2), print("a thread", flush=True))).start()
others = {"SHLVL", "_", "OLDPWD", "OPENAI_API_KEY"}
print(json.dumps({
    "main": [__name__, __file__, sys.argv, sys.modules["__main__"].GLOBAL],
    "python": [sys.prefix, sys.executable, sys.path, sys.flags.hash_randomization, gc.isenabled()],
    "place": [os.getcwd(), sys.stdin.read(), {k: v for k, v in os.environ.items() if k not in others}],
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
    (site / "tools.py").write_text("whose = 'the package'\n")
    (site / "wants.py").write_text("import calendar\n")
    (site / "hangs.py").write_text("import time\ntime.sleep(3600)\n")
    (site / "asks.py").write_text(
        "import os\nbase = os.environ.get('OPENAI_BASE_URL'), os.environ.get('HOME')\n"
        "key = os.environ.get('OPENAI_API_KEY')\n"
    )
    (site / "draws.py").write_text("import random\ncoin, die = random.Random(1), random.Random()\n")
    return venv / "bin/python"


async def ran(
    folder: Path, python: Path, does: str, *, warm: bool, times: int = 1
) -> list[tuple[Ended, float]]:
    """How a guest's attempts ended, one after another, and the seconds of each."""
    (folder / "agent.py").write_text(does)
    for name in ("tools.py", "calendar.py"):
        (folder / name).write_text("whose = 'the guest'\n")
    argv, files = [str(python), "agent.py", "--deep", "2"], ("tools.py", "calendar.py")
    env = {"OPENAI_BASE_URL": "http://here/v1"}
    place = layout(argv, folder, files=files, shown=(), warm=warm, env=env)
    found = list[tuple[Ended, float]]()
    async with await Pool.open(warm=0, shown=place.shown, python=place.python) as pool:
        for _ in range(times):
            given = {**env, "GIVEN": "word", "OPENAI_API_KEY": f"key {len(found)}"}
            box = await pool.start(SandboxSpec(procs=64, fsize_mb=1, env=given, path=place.path))
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
        ("import builtins\nprint(__builtins__ is builtins)", 0, "True"),
        (
            "import socket\na, b = socket.socketpair()\nb.close()\ntry:\n    a.send(b'x')\n"
            "except BrokenPipeError:\n    print('caught')",
            0,
            "caught",
        ),
        ("import subprocess\nsubprocess.run(['true'], input=b'x' * 10**6)\nprint('went on')", 0, "went on"),
        (
            "try:\n    open('large', 'wb').write(b'x' * (2 << 20))\nexcept OSError as error:\n"
            "    print('errno', error.errno)",
            0,
            "errno 27",
        ),
        (
            "import wants, tools, calendar\nprint(tools.whose, calendar.whose, wants.calendar.__name__)",
            0,
            "the guest the guest calendar",
        ),
        ("import draws, random\nprint(type(draws.die).__name__, draws.coin is not None)", 0, "Random True"),
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


async def test_what_a_guest_wrote_is_kept_when_it_is_read_after_its_end() -> None:
    (out_r, out_w), (err_r, err_w) = os.pipe(), os.pipe()
    for each in (out_r, err_r):
        os.set_blocking(each, False)
    said = boxed._Said("abc")
    os.write(err_w, b"warned\n" + b"\nabc 3\n")
    os.close(err_w)
    async for data in said.error(err_r):
        said.add(data)
    assert said.ended.is_set() and said.exit_code == 3
    os.write(out_w, b"the answer\n")
    os.close(out_w)
    async for data in said.out(out_r):
        said.add(data)
    assert said.exit_code == 3
    assert said.tail() == "warned\nthe answer"


async def test_the_last_line_is_found_in_pieces_and_only_on_standard_error() -> None:
    for stream, ends in (("error", True), ("out", False)):
        reads, writes = os.pipe()
        os.set_blocking(reads, False)
        said = boxed._Said("abc")
        pieces = getattr(said, stream)(reads)
        for piece in (b"x" * 70_000, b"\nab", b"c 1", b"7\n"):
            os.write(writes, piece[:60_000])
            said.add(await anext(pieces))
        assert (said.exit_code, said.ended.is_set()) == ((17, True) if ends else (None, False))
        await pieces.aclose()
        os.close(reads)
        os.close(writes)


MARK = 918_273  # of this test's sandboxes
DRAWS = "import draws, json\nprint(json.dumps([draws.coin.random(), draws.die.random()]))"


async def test_generators_that_an_import_has_made_draw_other_numbers_in_each_attempt(
    tmp_path: Path, python: Path
) -> None:
    said = [json.loads(ended.tail) for ended, _ in await ran(tmp_path, python, DRAWS, warm=True, times=3)]
    assert len({die for _, die in said}) == 3


async def test_an_import_reads_the_variables_that_all_attempts_share_and_no_key(
    tmp_path: Path, python: Path
) -> None:
    does = "import asks, os, json\nprint(json.dumps([*asks.base, asks.key, os.environ['OPENAI_API_KEY']]))"
    said = [json.loads(ended.tail) for ended, _ in await ran(tmp_path, python, does, warm=True, times=2)]
    assert said == [["http://here/v1", "/work", None, f"key {at}"] for at in range(2)]


async def test_an_import_that_hangs_leaves_no_process_and_is_not_tried_again(
    tmp_path: Path, python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_IMPORTED_S", 2.0)
    (tmp_path / "agent.py").write_text("import hangs")
    place = layout([str(python), "agent.py"], tmp_path, files=(), shown=(), warm=True)
    opened = list[WarmPython | None]()

    async def opens(*, warm: int, shown: Sequence[str], python: WarmPython | None) -> SandboxPool:
        opened.append(python)
        return await Pool.open(warm=warm, shown=shown, python=python, hash_seed=MARK)

    boxes = boxed.Boxes(place, opens)
    for _ in range(2):
        async with boxes.box({}, cpu_s=10) as (_, is_warm):
            assert not is_warm
    assert [each is not None for each in opened] == [True, False]
    assert not alive(f"PYTHONHASHSEED={MARK}\0".encode())


def alive(variable: bytes) -> list[int]:
    """Processes with this variable."""
    found = list[int]()
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if variable in (place / "environ").read_bytes():
                found.append(int(place.name))
    return found
