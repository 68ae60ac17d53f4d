"""Isolation from neighbours: what an episode uses up is its own, and nobody else is killed, starved or
refused for it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from agito.protocols import SandboxSpec
from agito.worlds.sandbox import Pool
from agito.worlds.sandbox import cgroup as cgroups
from agito.worlds.sandbox.box import Box
from agito.worlds.sandbox.launch import launch
from agito.worlds.sandbox.link import Pulse

pytestmark = pytest.mark.anyio
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root has users to give away")
HAS_GROUPS = (probe := cgroups.make(1 << 30)) is not None and probe.remove()
NEEDS_GROUPS = pytest.mark.skipif(not HAS_GROUPS, reason="needs a control group that this user may divide")
# Memory in no process's own account: shared, written, and given back by the process alone.
UNSEEN = """
import mmap
held = []
while True:
    m = mmap.mmap(-1, 1 << 20)
    for at in range(0, 1 << 20, 4096): m[at] = 1
    m.madvise(mmap.MADV_DONTNEED); held.append(m)
"""
IN_FLIGHT = """
import array, os, socket, time
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
fd = os.open("/dev/null", os.O_RDONLY); n = 0
try:
    while True: a.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd] * 200))]); n += 200
except OSError: print(n)
if os.fork() == 0: time.sleep(60)
"""  # noqa: E501


async def both(box: Box) -> tuple[bytes, bytes]:
    return (await box.sh("cat file", timeout_s=20)).output, (await box.py("print(1)", timeout_s=20)).output


def status_of(pid: int, name: str) -> list[str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line for line in lines if line.startswith(f"{name}:")).split()[1:]


@NEEDS_GROUPS
async def test_memory_that_no_process_seems_to_hold_ends_in_its_own_sandbox() -> None:
    async with await Pool.open(warm=0, limit_mb=300) as pool:
        others = [await pool.start(SandboxSpec(mem_mb=64)) for _ in range(4)]
        for other in others:
            await other.write({"file": "state\n"})
        bad = await pool.start(SandboxSpec(mem_mb=64, work_mb=8, tmp_mb=4))
        result = await bad.py(UNSEEN, timeout_s=20)
        assert result.exit_code != 0
        assert result.killed_by != "deadline"
        assert [await both(other) for other in others] == [(b"state\n", b"1\n")] * 4
        assert (await bad.sh("echo alive")).output == b"alive\n"
        assert (await (await pool.start(SandboxSpec())).sh("echo new")).output == b"new\n"


@NEEDS_GROUPS
async def test_what_the_kernel_ends_for_memory_is_said_to_be_ended_for_memory(pool: Pool) -> None:
    box = await pool.start(SandboxSpec(mem_mb=64, work_mb=1, tmp_mb=1))
    buffers = (  # in no process's account, so pid 1 does not see them
        "import resource, socket\nkeep = []\nwhile True:\n  a, b = socket.socketpair(); "
        "a.setblocking(False); keep += [a, b]\n"
        "  try:\n    while True: a.send(b'x' * 65536)\n  except BlockingIOError: pass"
    )
    assert (await box.py("import os; os.kill(os.getpid(), 9)")).killed_by == "signal 9"
    result = await box.py(buffers, timeout_s=20)
    assert (result.killed_by, result.exit_code) == ("memory", None)
    assert (await box.py("import os; os.kill(os.getpid(), 9)")).killed_by == "signal 9"


@NEEDS_ROOT
async def test_each_sandbox_has_a_user_and_a_control_group_of_its_own(pool: Pool) -> None:
    boxes = [await pool.start(SandboxSpec()) for _ in range(3)]
    users = {status_of(box.pid, "Uid")[0] for box in boxes}
    assert len(users) == 3
    assert all(int(user) > 60_000 for user in users)
    if HAS_GROUPS:
        groups = {Path(f"/proc/{box.pid}/cgroup").read_text() for box in boxes}
        assert len(groups) == 3
    async with await Pool.open(warm=0) as other:
        assert status_of((await other.start(SandboxSpec())).pid, "Uid")[0] not in users


@NEEDS_GROUPS
async def test_a_control_group_follows_what_its_sandbox_may_hold(pool: Pool) -> None:
    for mem_mb in (64, 256):
        box = await pool.start(SandboxSpec(mem_mb=mem_mb, work_mb=8, tmp_mb=4, procs=9))
        lines = [line.split(":", 2) for line in Path(f"/proc/{box.pid}/cgroup").read_text().splitlines()]
        limits = {
            name: int(path.read_text())
            for _, controllers, group in lines
            for name in ("memory.limit_in_bytes", "memory.max", "pids.max")
            if (path := Path("/sys/fs/cgroup") / controllers / group.lstrip("/") / name).exists()
        }
        assert (
            mem_mb + 12
            < min(value for name, value in limits.items() if name != "pids.max") >> 20
            < mem_mb + 100
        )
        assert limits["pids.max"] < 40
        await box.close()


@pytest.mark.parametrize("users", [True, False], ids=["a user each", "one user for all"])
async def test_descriptors_under_way_in_one_episode_hinder_no_other(users: bool) -> None:
    async with Pool(await launch(users=users), 0) as pool, await Pool.open(warm=0) as second:
        bystander, bad = await pool.start(SandboxSpec()), await pool.start(SandboxSpec())
        held = await bad.py(IN_FLIGHT)
        assert int(held.output) >= 1000  # control: it did reach the limit
        assert (await (await pool.start(SandboxSpec())).sh("echo new")).output == b"new\n"
        assert (await (await second.start(SandboxSpec())).sh("echo new")).output == b"new\n"
        listener = await bystander.listen()
        service = await bystander.launch("cat")
        os.write(service.stdin, b"hello\n")
        await anyio.wait_readable(service.stdout)
        assert os.read(service.stdout, 10) == b"hello\n"
        for descriptor in (listener.detach(), service.stdin, service.stdout, service.stderr):
            os.close(descriptor)
        assert (await bystander.sh("echo fine")).output == b"fine\n"


async def test_what_an_episode_runs_is_killed_before_its_pid_1_and_comes_after_it(box: Box) -> None:
    reports = [
        (await box.sh("cat /proc/self/oom_score_adj; nice")).output.split(),
        (await box.sh("x=1; cat /proc/self/oom_score_adj; nice")).output.split(),
        (
            await box.py("import os\nprint(open('/proc/self/oom_score_adj').read())\nprint(os.nice(0))")
        ).output.split(),
    ]
    # read once the commands have ended: pid 1 lends them its score at the moment of their start
    of_pid_1 = int(Path(f"/proc/{box.pid}/oom_score_adj").read_text())
    niceness_of_pid_1 = os.getpriority(os.PRIO_PROCESS, box.pid)
    for report in reports:
        score, niceness = (int(word) for word in report)
        assert of_pid_1 < score
        assert niceness_of_pid_1 < niceness


RACE = """
import anyio, sys
from agito.worlds.sandbox import Pool
async def main():
    tiers = []
    for _ in range(int(sys.argv[1])):
        async with await Pool.open(warm=0) as pool:
            tiers.append(pool.tier)
    print(tiers.count("native+watchdog"))
anyio.run(main)
"""


@NEEDS_GROUPS
async def test_pools_that_open_at_the_same_time_keep_their_control_groups() -> None:
    racers = [subprocess.Popen([sys.executable, "-c", RACE, "6"], stdout=subprocess.PIPE) for _ in range(4)]
    assert [racer.communicate(timeout=60)[0] for racer in racers] == [b"0\n"] * 4


@NEEDS_GROUPS
async def test_the_group_of_a_living_host_is_never_swept_and_that_of_a_dead_one_is() -> None:
    code = (
        "import os, sys\nfrom agito.worlds.sandbox import cgroup\ngroup = cgroup.make(1 << 30)\n"
        "for place in group.places: print(place.path, flush=True)\nsys.stdin.read()"
    )
    host = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert host.stdout is not None
    path = Path(host.stdout.readline().strip())
    assert (group := cgroups.make(1 << 30)) is not None
    assert path.exists()  # empty, and owned
    assert group.remove()
    host.send_signal(signal.SIGKILL)
    host.communicate()
    assert (group := cgroups.make(1 << 30)) is not None
    assert not path.exists()
    assert group.remove()


@NEEDS_GROUPS
async def test_nothing_of_a_pool_stays_in_the_control_groups() -> None:
    async with await Pool.open(warm=2) as pool:
        assert pool.zygote.group is not None
        paths = [place.path for place in pool.zygote.group.places]
        boxes = [await pool.start(SandboxSpec()) for _ in range(3)]
        await boxes[0].close()
        assert all(path.exists() for path in paths)
    assert not any(path.exists() for path in paths)


async def test_a_fork_of_a_large_workspace_belongs_to_its_own_sandbox(pool: Pool) -> None:
    large = SandboxSpec(work_mb=64)
    box = await pool.start(large)
    await box.sh("mkdir -p d/e; echo one > d/a; echo two > d/e/b; chmod 600 d/a; ln d/a d/c")
    for _ in range(3):  # layers on layers, each written by another user
        box = await pool.fork(await box.snapshot())
        result = await box.sh(
            "stat -c '%U %a' d/a d/e; echo more >> d/a; rm d/e/b; echo two > d/e/b; chmod 640 d/a; chmod "
            "600 d/a; cat d/a | wc -l"
        )
        assert result.output.splitlines()[:2] == [b"agent 600", b"agent 755"]
    assert result.output.splitlines()[2] == b"4"


async def test_a_network_that_was_used_without_a_packet_is_not_used_again() -> None:
    leave = (
        "import socket, struct\nfor _ in range(50):\n  s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "  try: s.sendto(b'', ('8.8.8.8', 53))\n  except OSError: pass\n"
    )
    label = (
        "import socket, struct\ns = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        "s.setsockopt(41, 32, struct.pack('=16sIBBHHHI', b'\\xfdidden message!!', socket.htonl(0x12345), "
        "0, 255, 1, 60, 60, 0))\n"
    )
    look = (
        "import os; print([open('/proc/net/' + n).read() for n in ('snmp', 'snmp6', 'netstat', "
        "'ip6_flowlabel', 'dev')])"
    )
    async with await Pool.open(warm=0) as pool:
        box = await pool.start(SandboxSpec())
        fresh = (await box.py(look)).output
        for code in (leave, label):
            result = await box.py(code)
            assert result.exit_code == 0, result.output
            assert (await box.py(look)).output != fresh  # control: it can be seen
            await box.close()
            seen: set[bytes] = set()
            for _ in range(3):
                box = await pool.start(SandboxSpec())
                seen.add((await box.py(look)).output)
                await box.close()
            assert seen == {fresh}
            box = await pool.start(SandboxSpec())


SHARED_MEMORY = """
import mmap
held = []
for _ in range(24):
    m = mmap.mmap(-1, 16 << 20)
    for at in range(0, 16 << 20, 4096): m[at] = 1
    m.madvise(mmap.MADV_DONTNEED); held.append(m)
print("held")
"""
HIDING = "import ctypes; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)" + SHARED_MEMORY
UNREADABLE = f"""
import os, shutil
open("hold.py", "w").write({SHARED_MEMORY!r})
shutil.copy(os.path.realpath("/usr/bin/python3"), "python"); os.chmod("python", 0o111)
os.execv("./python", ["python", "hold.py"])
"""
ZERO = SHARED_MEMORY.replace(
    "mmap.mmap(-1, 16 << 20)", "mmap.mmap(os.open('/dev/zero', 2), 16 << 20)"
).replace("mmap\n", "mmap, os\n", 1)
FIRST_THREAD_ENDED = """
import ctypes, os, threading, time
def hold():
    time.sleep(0.1)
    held = [bytearray(b"x") * (20 << 20) for _ in range(2)]
    time.sleep(2); os._exit(0)
for _ in range(8):
    if os.fork() == 0:
        threading.Thread(target=hold).start(); time.sleep(0.05)
        ctypes.CDLL(None).syscall(60 if os.uname().machine == "x86_64" else 93, 0)
time.sleep(1.5); print("held")
"""
PAGE_TABLES = """
import ctypes, time
l = ctypes.CDLL(None); l.mmap.restype = ctypes.c_void_p
l.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
l.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
n = 300 << 8
p = l.mmap(None, n << 21, 1, 0x4022, -1, 0)
l.madvise(p, n << 21, 15)
for i in range(n): ctypes.c_char.from_address(p + (i << 21)).value
time.sleep(1); print("held")
"""


@pytest.mark.parametrize(
    "code",
    [SHARED_MEMORY, ZERO, HIDING, UNREADABLE, FIRST_THREAD_ENDED, PAGE_TABLES],
    ids=["shared", "of a device", "hiding", "unreadable program", "first thread ended", "page tables"],
)
async def test_without_a_control_group_hidden_memory_is_found(code: str) -> None:
    async with Pool(await launch(cgroup=False), 0) as pool:
        result = await (await pool.start(SandboxSpec(mem_mb=64))).py(code, timeout_s=20)
        assert (result.killed_by, result.output) == ("memory", b"")
        roomy = await (await pool.start(SandboxSpec(mem_mb=900))).py(code, timeout_s=20)
        assert (roomy.killed_by, roomy.output) == (None, b"held\n")  # control


@NEEDS_ROOT
async def test_without_a_control_group_a_crowd_takes_turns() -> None:
    code = (
        "import os, time\nfor i in range(40):\n  if os.fork() == 0:\n    os.setsid(); f = os.open(f'{i}', "
        "65)\n"
        "    while True:\n      for _ in range(20000): pass\n      os.write(f, b'.')\ntime.sleep(60)"
    )
    async with Pool(await launch(cgroup=False), 0) as pool:
        box = await pool.start(SandboxSpec())
        (user,) = {status_of(box.pid, "Uid")[0]}
        running: list[int] = []

        async def look() -> None:
            while True:
                await anyio.sleep(0.1)
                running.append(
                    sum(is_running(entry, user) for entry in Path("/proc").iterdir() if entry.name.isdigit())
                )

        async with anyio.create_task_group() as group:
            group.start_soon(look)
            assert (await box.py(code, timeout_s=3)).killed_by == "deadline"
            group.cancel_scope.cancel()
        files = await box.files()
        assert len(files) == 40
        assert all(files.values())  # everybody had a turn
        assert sorted(running)[len(running) // 2] <= 2 * len(os.sched_getaffinity(0)) + 2


def is_running(entry: Path, user: str) -> bool:
    try:
        status = (entry / "status").read_text()
    except OSError:
        return False
    return "State:\tR" in status and f"Uid:\t{user}\t" in status


@NEEDS_GROUPS
async def test_a_sandbox_that_gets_no_processor_is_waited_for(box: Box) -> None:
    lines = [line.split(":", 2) for line in Path(f"/proc/{box.pid}/cgroup").read_text().splitlines()]
    group = next((name for _, controllers, name in lines if controllers == "cpu"), "").lstrip("/")
    quota = Path("/sys/fs/cgroup/cpu") / group / "cpu.cfs_quota_us"
    if not quota.exists():
        pytest.skip("needs the cpu controller of control groups, version 1")
    quota.with_name("cpu.cfs_period_us").write_text("1000000")

    async def relieve() -> None:
        await anyio.sleep(0.2)
        quota.write_text("1000")  # a thousandth of a CPU
        await anyio.sleep(2.8)
        quota.write_text("-1")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(relieve)
        result = await box.sh("for i in $(seq 30); do while :; do :; done & done; wait", timeout_s=0.3)
    assert result.killed_by == "deadline"
    assert (await box.sh("echo alive")).output == b"alive\n"


async def test_what_stands_still_has_no_pulse() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    idle = subprocess.Popen(["sleep", "100"])
    try:
        pulses = [Pulse(busy.pid), Pulse(idle.pid)]
        await anyio.sleep(0.2)
        assert [pulse.is_alive() for pulse in pulses].count(True) >= 1
        await anyio.sleep(0.2)
        assert [pulse.is_alive() for pulse in pulses] == [True, False]
        busy.send_signal(signal.SIGSTOP)
        await anyio.sleep(0.1)
        assert not pulses[0].is_alive()
    finally:
        for process in (busy, idle):
            process.kill()
            process.wait()


async def test_keepers_that_are_not_needed_end() -> None:
    async with Pool(await launch(), 0) as pool:

        async def crowd(count: int) -> None:
            boxes: list[Box] = []

            async def start() -> None:
                boxes.append(await pool.start(SandboxSpec()))

            async with anyio.create_task_group() as group:
                for _ in range(count):
                    group.start_soon(start)
            assert (await boxes[-1].sh("echo fine")).output == b"fine\n"
            zygote.add(
                int(Path(f"/proc/{parent(boxes[0].pid)}/stat").read_text().rpartition(")")[2].split()[1])
            )
            for box in boxes:
                await box.close()

        zygote: set[int] = set()
        await crowd(150)
        with anyio.fail_after(20):
            while True:
                # the zygote reads free keepers with its next request
                await (await pool.start(SandboxSpec())).close()
                (first,) = zygote
                keepers = [
                    entry
                    for entry in Path("/proc").iterdir()
                    if entry.name.isdigit() and parent(int(entry.name)) == first
                ]
                if len(keepers) <= 130:
                    break
        await crowd(150)


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
