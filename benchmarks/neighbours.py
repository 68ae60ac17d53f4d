"""One of five hundred sandboxes is a bomb: do the others finish, how much slower, and what is left behind?

    python benchmarks/neighbours.py [--short] [--only BOMB,...] [--boxes N]

Each bomb has its own process, within a control group that protects the machine; as root, all are run twice,
the second time as an unprivileged user. Every other sandbox does twenty actions of five kinds, checks each
answer, and pauses 20 ms in between. The bomb is restarted as soon as it ends, in a new sandbox if its own is
gone. `p95_ratio` compares the 95th percentile of an action with that of the run without a bomb, `none` (the
mean of one before and one after the others). `left_over` counts processes, descriptors, mounts, control
groups and folders that remain after the pool is closed. The last line is JSON.
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio

from agito.errors import SandboxFailure
from agito.protocols import SandboxSpec
from agito.worlds.sandbox import Pool
from agito.worlds.sandbox.box import Box
from harness import Json, report

ORDINARY = 1_899_000_123  # a user with nothing else on the machine
ACTIONS, PAUSE_S, DEADLINE_S = 20, 0.02, 60.0
BOMB_S = 3.0  # time after which a bomb is ended and restarted
POOL_MB, GUARD_BYTES = 6_000, 10 << 30
SETTLE_S = 5.0
SHARED = ("/tmp", "/run", "/dev/shm")  # where others write too
BOMBS = {
    "none": ("sh", "true"),
    "fork": ("sh", "f() { f | f & }; f; wait; while :; do :; done"),
    "setsid": (
        "py",
        "import os\nwhile True:\n  try:\n    if os.fork() == 0: os.setsid()\n  except OSError: pass",
    ),
    "memory": (
        "py",
        "import os, time\nfor _ in range(60):\n  try:\n    if os.fork() == 0:\n      held = []\n"
        "      while True: held.append(bytearray(b'x') * (4 << 20))\n  except OSError: pass\ntime.sleep(60)",
    ),
    "shared": (
        "py",
        "import mmap\nheld = []\nwhile True:\n  m = mmap.mmap(-1, 16 << 20)\n  for at in range(0, 16 << "
        "20, 4096): m[at] = 1\n"
        "  m.madvise(mmap.MADV_DONTNEED); held.append(m)",
    ),
    "disk": (
        "sh",
        "while :; do head -c 30M /dev/zero > /work/a$RANDOM; head -c 30M /dev/zero > /tmp/a$RANDOM; done "
        "2>/dev/null",
    ),
    "inodes": (
        "py",
        "import os\nn = 0\nwhile True:\n  n += 1\n  for d in ('/work', '/tmp'):\n"
        "    try: os.makedirs(f'{d}/{n % 97}/{n}'); os.symlink('x', f'{d}/{n}')\n    except OSError: pass",
    ),
    "output": ("sh", "yes | head -c 60M; yes 1>&2"),
    "in flight": (
        "py",
        "import array, os, socket\nkeep = []\nfd = os.open('/dev/null', 0)\nwhile True:\n  try:\n    "
        "keep.append(socket.socketpair(1, 2))\n"
        "    while True: keep[-1][0].sendmsg([b'x'], [(1, 1, array.array('i', [fd] * 200))], 64)\n  except "
        "OSError: pass",
    ),
}


async def act(box: Box, number: int, turn: int) -> bool:
    """One of five kinds of action; whether its answer is right."""
    match turn % 5:
        case 0:
            result = await box.sh(f"echo {number}-{turn} > f{turn}; cat f{turn}", timeout_s=DEADLINE_S)
            return result.output == f"{number}-{turn}\n".encode()
        case 1:
            return (
                await box.py(f"print({number} * {turn})", timeout_s=DEADLINE_S)
            ).output == f"{number * turn}\n".encode()
        case 2:
            await box.write({f"w{turn}": f"{number}"})
            return await box.read(f"w{turn}") == f"{number}".encode()
        case 3:
            return (
                await box.sh("export V=$((V + 1)); cd /work && ls | wc -l && echo $V", timeout_s=DEADLINE_S)
            ).exit_code == 0
        case _:
            return (await box.sh("seq 1 2000 | sort -rn | head -1", timeout_s=DEADLINE_S)).output == b"2000\n"


async def episode(box: Box, number: int, times: list[float], done: list[int], wrong: list[str]) -> None:
    for turn in range(ACTIONS):
        started = time.monotonic()
        try:
            if not await act(box, number, turn):
                wrong.append(f"{number}: action {turn}")
                return
        except (SandboxFailure, OSError, ValueError) as error:
            wrong.append(f"{number}: action {turn}: {type(error).__name__}: {error}"[:120])
            return
        times.append(time.monotonic() - started)
        await anyio.sleep(PAUSE_S)
    done.append(number)


async def explode(pool: Pool, box: Box, bomb: str, ends: collections.Counter[str]) -> None:
    how, text = BOMBS[bomb]
    while True:
        try:
            result = await (box.py(text, timeout_s=BOMB_S) if how == "py" else box.sh(text, timeout_s=BOMB_S))
            ends[str(result.killed_by or result.exit_code)] += 1
            await anyio.sleep(PAUSE_S)
        except SandboxFailure as error:
            ends[f"{type(error).__name__}: {error}"[:80]] += 1
            await anyio.sleep(PAUSE_S)
            box = await pool.start(SandboxSpec())


async def start_all(pool: Pool, num_boxes: int) -> list[Box]:
    boxes: list[Box] = []

    async def start() -> None:
        boxes.append(await pool.start(SandboxSpec()))

    for at in range(0, num_boxes, 50):
        async with anyio.create_task_group() as group:
            for _ in range(min(50, num_boxes - at)):
                group.start_soon(start)
    return boxes


async def measure(bomb: str, num_boxes: int) -> dict[str, Json]:
    before = counts(())
    pool = await Pool.open(warm=0, limit_mb=POOL_MB)
    began = time.monotonic()
    boxes = await start_all(pool, num_boxes)
    started = time.monotonic()
    times: list[float] = []
    done: list[int] = []
    wrong: list[str] = []
    ends: collections.Counter[str] = collections.Counter()
    async with anyio.create_task_group() as bombing:
        bombing.start_soon(explode, pool, boxes[0], bomb, ends)
        async with anyio.create_task_group() as group:
            for number, box in enumerate(boxes[1:], 1):
                group.start_soon(episode, box, number, times, done, wrong)
        bombing.cancel_scope.cancel()
    ended = time.monotonic()
    places = tuple(place.path for place in pool.zygote.group.places) if pool.zygote.group is not None else ()
    tier, users = pool.tier, (pool.zygote.users.first, pool.zygote.users.count)
    await pool.aclose()
    boxes.clear()
    gc.collect()
    after = await settled(before, places, users)
    ordered = sorted(times) or [float("nan")]
    return {
        "tier": tier,
        "finished": len(done),
        "of": num_boxes - 1,
        "start_s": round(started - began, 2),
        "act_s": round(ended - started, 2),
        "p50_s": round(statistics.median(ordered), 4),
        "p95_s": round(ordered[int(len(ordered) * 0.95)], 4),
        "max_s": round(ordered[-1], 4),
        "wrong": wrong[:5],
        "bomb_ended": dict(ends),
        "left_over": {name: after[name] - before[name] for name in before if after[name] > before[name]},
        "load": round(os.getloadavg()[0], 1),
    }


async def settled(before: dict[str, int], places: Sequence[Path], users: tuple[int, int]) -> dict[str, int]:
    """The counts once nothing more goes away."""
    for _ in range(50):
        after = counts(places, users)
        if all(after[name] <= before[name] for name in before):
            break
        await anyio.sleep(SETTLE_S / 50)
    return after


def counts(places: Sequence[Path], users: tuple[int, int] = (0, 0)) -> dict[str, int]:
    """Counts processes and folders of the pool's users; leaves out this process but includes the temporary
    folder.
    """

    def is_ours(entry: Path) -> bool:
        try:
            return users[0] <= entry.lstat().st_uid < sum(users)
        except OSError:
            return False  # gone meanwhile

    everywhere = [entry for place in SHARED for entry in Path(place).iterdir()]
    processes = [
        entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and int(entry.name) != os.getpid()
    ]
    return {
        "processes": sum(map(is_ours, processes)),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        "groups": sum(place.exists() for place in places),
        "folders": len(list(Path(tempfile.gettempdir()).iterdir())) + sum(map(is_ours, everywhere)),
    }


def run_one(who: str, bomb: str, num_boxes: int) -> None:
    """In its own process: prints the result of `measure`."""

    async def nothing() -> None:
        await anyio.to_thread.run_sync(int)

    anyio.run(nothing)  # imports what could not be read later
    if who == "user" and os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(ORDINARY, ORDINARY, ORDINARY)
        os.setresuid(ORDINARY, ORDINARY, ORDINARY)
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # dumpable: its own /proc belongs to it
    os.chdir("/")
    print(json.dumps(anyio.run(measure, bomb, num_boxes)))


def guarded(who: str, bomb: str, num_boxes: int, guard: Path | None) -> dict[str, Any]:
    """Runs `run_one` in a process within `guard`, with its own folder; kills it if it takes too long."""
    command = [sys.executable, __file__, "--one", who, bomb, "--boxes", str(num_boxes)]

    def enter() -> None:
        if guard is not None:
            (guard / "cgroup.procs").write_text(str(os.getpid()))

    limit_s = 60 + num_boxes
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=limit_s,
                preexec_fn=enter,
                check=False,
                env={**os.environ, "TMPDIR": folder},
            )
        except subprocess.TimeoutExpired:
            return {"finished": 0, "error": f"not finished within {limit_s} s"}
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]) if lines else {"finished": 0, "error": done.stderr[-400:]}


def make_guard() -> Path | None:
    """A control group that stops this benchmark before the machine is out of memory, or None if none may be
    made.
    """
    lines = (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines())
    for _, controllers, name in lines:
        if controllers == "memory":
            guard = Path("/sys/fs/cgroup/memory") / name.lstrip("/") / f"neighbours-{os.getpid()}"
            try:
                guard.mkdir()
                (guard / "memory.limit_in_bytes").write_text(str(GUARD_BYTES))
            except OSError:
                return None
            return guard
    return None


def summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Json]:
    base = statistics.mean(run.get("p95_s", float("nan")) for run in runs["none"])
    return {
        bomb: {
            "finished": min(run["finished"] for run in each),
            "p95_ratio": round(statistics.mean(run.get("p95_s", float("nan")) for run in each) / base, 2),
            "left_over": sum(sum(run.get("left_over", {"unknown": 1}).values()) for run in each),
        }
        for bomb, each in runs.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", default=",".join(BOMBS))
    parser.add_argument("--boxes", type=int, default=0)
    parser.add_argument("--one", nargs=2, metavar=("WHO", "BOMB"))
    options = parser.parse_args()
    num_boxes = options.boxes or (60 if options.short else 500)
    if options.one:
        run_one(options.one[0], options.one[1], num_boxes)
        return
    bombs = [bomb for bomb in options.only.split(",") if bomb != "none"]
    guard = make_guard() if os.geteuid() == 0 else None
    figures: dict[str, Json] = {}
    detail: dict[str, Json] = {"boxes": num_boxes, "actions": ACTIONS, "guarded": guard is not None}
    for who in ("root", "user") if os.geteuid() == 0 else ("user",):
        runs: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
        for bomb in ("none", *bombs, "none"):
            runs[bomb].append(guarded(who, bomb, num_boxes, guard))
            print(who, bomb, json.dumps(runs[bomb][-1]), flush=True)
        figures[who] = summary(runs)
        detail[who] = dict(runs)
    if guard is not None:
        guard.rmdir()
    report("neighbours", figures, detail)


if __name__ == "__main__":
    main()
