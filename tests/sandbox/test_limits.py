"""Limits of an action, and what ends it beyond them."""

from __future__ import annotations

import time

import anyio
import pytest

from agito.errors import SandboxFailure
from agito.protocols import SandboxSpec
from agito.types import Fault
from agito.worlds.sandbox import Pool
from agito.worlds.sandbox.box import Box

pytestmark = pytest.mark.anyio


async def test_a_deadline_ends_everything_inside(box: Box) -> None:
    started = time.monotonic()
    result = await box.sh(
        "echo begun; trap '' TERM INT; setsid sleep 1000 & kill -STOP $!; sleep 1000", timeout_s=0.2
    )
    assert (result.exit_code, result.fault, result.killed_by, result.output) == (
        None,
        Fault.TIMEOUT,
        "deadline",
        b"begun\n",
    )
    assert time.monotonic() - started < 2
    assert (await box.sh("ps -e --no-headers | grep -c sleep")).output == b"0\n"


async def test_a_snippet_has_a_deadline_too(box: Box) -> None:
    result = await box.py("while True: pass", timeout_s=0.1)
    assert (result.exit_code, result.fault, result.killed_by) == (None, Fault.TIMEOUT, "deadline")


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("inf"), float("nan")])
async def test_every_action_needs_a_finite_deadline(box: Box, timeout_s: float) -> None:
    with pytest.raises(ValueError, match="timeout_s"):
        await box.sh("true", timeout_s=timeout_s)


async def test_long_output_is_kept_at_both_ends_and_counted(pool: Pool) -> None:
    box = await pool.start(SandboxSpec(output_bytes=100))
    result = await box.sh("seq 1 100000")
    assert result.total_bytes == 588895
    assert result.output.startswith(b"1\n2\n3\n")
    assert result.output.endswith(b"99999\n100000\n")
    assert b"[... 588795 bytes omitted ...]" in result.output
    assert (await box.sh("seq 1 20")).output == b"".join(b"%d\n" % i for i in range(1, 21))


async def test_a_flood_of_output_is_stopped(pool: Pool) -> None:
    box = await pool.start(SandboxSpec(output_bytes=1000))
    result = await box.sh("yes", timeout_s=20)
    assert (result.exit_code, result.fault, result.killed_by) == (None, Fault.BUDGET, "output")
    assert len(result.output) < 1100


async def test_memory_of_one_process_is_bounded(pool: Pool) -> None:
    box = await pool.start(SandboxSpec(mem_mb=64))
    result = await box.py("x = bytearray(200 << 20)")
    assert b"MemoryError" in result.output


async def test_memory_of_all_processes_together_is_bounded(pool: Pool) -> None:
    box = await pool.start(SandboxSpec(mem_mb=100))
    hold = "python3 -S -c 'x = bytearray(60 << 20); import time; time.sleep(20)'"
    result = await box.sh(f"{hold} & {hold} & {hold} & wait", timeout_s=15)
    assert (result.exit_code, result.fault, result.killed_by) == (None, Fault.BUDGET, "memory")
    assert (await box.sh("echo alive")).output == b"alive\n"


async def test_shared_memory_is_counted_once(pool: Pool) -> None:
    box = await pool.start(SandboxSpec(mem_mb=100))
    code = (
        "import mmap, os, time\nm = mmap.mmap(-1, 40 << 20)\nm.write(b'x' * (40 << 20))\n"
        "[os.fork() for _ in range(2)]\nsum(m[:1 << 20])\ntime.sleep(0.3)"
    )
    assert (await box.py(code, timeout_s=15)).killed_by is None


async def test_processes_are_bounded_and_the_sandbox_recovers(pool: Pool) -> None:
    box = await pool.start(SandboxSpec(procs=8))
    result = await box.sh("for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 100 & done", timeout_s=1)
    assert b"fork" in result.output
    await box.kill()
    assert (await box.sh("echo alive")).output == b"alive\n"


async def test_a_full_process_table_is_the_episodes_fault_and_not_the_sandboxs(pool: Pool) -> None:
    box = await pool.start(SandboxSpec(procs=4))
    swarm = "while True:\n  try:\n    if os.fork() == 0: time.sleep(100)\n  except OSError: time.sleep(0.001)"
    await box.py(f"import os, time\nif os.fork() == 0:\n {swarm.replace(chr(10), chr(10) + ' ')}")
    with anyio.fail_after(10):
        while (result := await box.sh("true")).killed_by is None:
            pass
    assert (result.exit_code, result.fault, result.killed_by) == (None, Fault.BUDGET, "no process left")
    await box.kill()
    assert (await box.sh("echo alive")).output == b"alive\n"


@pytest.mark.parametrize(("place", "size_mb"), [("/work", 4), ("/tmp", 2), ("/dev/shm", 2)])
async def test_disk_is_bounded(pool: Pool, place: str, size_mb: int) -> None:
    box = await pool.start(SandboxSpec(work_mb=4, tmp_mb=2))
    result = await box.sh(f"head -c 20M /dev/zero > {place}/big; stat -c %s {place}/big")
    assert b"No space left" in result.output
    assert int(result.output.split()[-1]) <= size_mb << 20


async def test_the_number_of_files_is_bounded(pool: Pool) -> None:
    box = await pool.start(SandboxSpec(work_mb=1))
    result = await box.py("for i in range(2000): open(f'f{i}', 'w').close()")
    assert b"No space left" in result.output


async def test_a_single_file_is_bounded(pool: Pool) -> None:
    box = await pool.start(SandboxSpec(fsize_mb=1))
    result = await box.sh("head -c 2M /dev/zero > big; stat -c %s big")
    assert result.output.endswith(b"1048576\n")


async def test_cpu_time_of_a_process_is_bounded(pool: Pool) -> None:
    box = await pool.start(SandboxSpec(cpu_s=1))
    result = await box.py("while True: pass", timeout_s=20)
    assert (result.fault, result.killed_by) == (Fault.BUDGET, "cpu")


async def test_a_write_into_a_full_workspace_says_so(pool: Pool) -> None:
    box = await pool.start(SandboxSpec(work_mb=1))
    with pytest.raises(OSError, match="No space left"):
        await box.write({"big": b"x" * (2 << 20)})


async def test_a_silent_pid_1_is_killed_from_outside(box: Box) -> None:
    assert (await box.sh("true")).exit_code == 0
    box.suspend()
    result = await box.sh("true", timeout_s=0.1)
    assert (result.exit_code, result.fault, result.killed_by) == (None, Fault.TIMEOUT, "pid 1 silent")
    with pytest.raises(SandboxFailure, match="silent"):
        await box.sh("true")
