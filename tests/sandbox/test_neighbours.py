"""One episode against the others: what it uses up is its own, and nobody else is killed, starved or refused for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agito.protocols import SandboxSpec
from agito.world.sandbox import Pool
from agito.world.sandbox import cgroup as cgroups
from agito.world.sandbox.box import Box

pytestmark = pytest.mark.anyio
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root has users to give away")
HAS_GROUPS = (probe := cgroups.make(1 << 30)) is not None and probe.remove()
NEEDS_GROUPS = pytest.mark.skipif(not HAS_GROUPS, reason="needs a control group that this user may divide")
# Memory that is in no process's own account: shared, written, and given back by the process alone.
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
"""


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
        assert mem_mb + 12 < min(value for name, value in limits.items() if name != "pids.max") >> 20 < mem_mb + 100
        assert limits["pids.max"] < 20
        await box.close()


@NEEDS_ROOT
async def test_descriptors_under_way_in_one_episode_hinder_no_other(pool: Pool) -> None:
    bystander, bad = await pool.start(SandboxSpec()), await pool.start(SandboxSpec())
    async with await Pool.open(warm=0) as second:
        held = await bad.py(IN_FLIGHT)
        assert int(held.output) >= 1000  # the control: it did reach the limit
        assert (await (await pool.start(SandboxSpec())).sh("echo new")).output == b"new\n"
        assert (await (await second.start(SandboxSpec())).sh("echo new")).output == b"new\n"
        listener = await bystander.listen()
        service = await bystander.launch("cat")
        for descriptor in (listener.detach(), service.stdin, service.stdout, service.stderr):
            os.close(descriptor)
        assert (await bystander.sh("echo fine")).output == b"fine\n"


async def test_what_an_episode_runs_is_killed_before_its_pid_1_and_comes_after_it(box: Box) -> None:
    reports = [
        (await box.sh("cat /proc/1/oom_score_adj /proc/self/oom_score_adj; nice")).output.split(),
        (await box.sh("x=1; cat /proc/1/oom_score_adj /proc/self/oom_score_adj; nice")).output.split(),
        (
            await box.py("import os\nfor p in (1, os.getpid()): print(open(f'/proc/{p}/oom_score_adj').read())\nprint(os.nice(0))")
        ).output.split(),
    ]
    of_pid_1 = os.getpriority(os.PRIO_PROCESS, box.pid)
    for report in reports:
        own, child, niceness = (int(word) for word in report)
        assert own < child
        assert of_pid_1 < niceness


RACE = """
import anyio, sys
from agito.world.sandbox import Pool
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
        "import os, sys\nfrom agito.world.sandbox import cgroup\ngroup = cgroup.make(1 << 30)\n"
        "for place in group.places: print(place.path, flush=True)\nsys.stdin.read()"
    )
    host = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    path = Path(host.stdout.readline().strip())
    assert (group := cgroups.make(1 << 30)) is not None
    assert path.exists()  # empty, and somebody's
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
    for _ in range(3):  # layers above layers, each written by another user
        box = await pool.fork(await box.snapshot())
        result = await box.sh(
            "stat -c '%U %a' d/a d/e; echo more >> d/a; rm d/e/b; echo two > d/e/b; chmod 640 d/a; chmod 600 d/a; cat d/a | wc -l"
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
        "s.setsockopt(41, 32, struct.pack('=16sIBBHHHI', b'\\xfdidden message!!', socket.htonl(0x12345), 0, 255, 1, 60, 60, 0))\n"
    )
    look = "import os; print([open('/proc/net/' + n).read() for n in ('snmp', 'snmp6', 'netstat', 'ip6_flowlabel', 'dev')])"
    async with await Pool.open(warm=0) as pool:
        box = await pool.start(SandboxSpec())
        fresh = (await box.py(look)).output
        for code in (leave, label):
            result = await box.py(code)
            assert result.exit_code == 0, result.output
            assert (await box.py(look)).output != fresh  # the control: it can be seen
            await box.close()
            seen: set[bytes] = set()
            for _ in range(3):
                box = await pool.start(SandboxSpec())
                seen.add((await box.py(look)).output)
                await box.close()
            assert seen == {fresh}
            box = await pool.start(SandboxSpec())
