"""What a sandbox costs: each action against the same command run plainly in the same rounds.

`python benchmarks/sandbox.py [--short]`. Rounds are interleaved, so a busy machine slows both sides; ratios
are medians over rounds. CPU time covers this script and everything it started, from a control group if one
can be made; otherwise that of the whole machine, which must then be idle. The source is printed.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio

from agito.protocols import SandboxSpec
from agito.worlds.sandbox import Pool
from agito.worlds.sandbox.box import Box
from harness import report, spread

ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "HOME": "/work", "SHELL": "/bin/bash"}
COMMAND = "cat notes/a.txt"  # one coreutil: the sandbox starts it as bash -c would
THROUGH_BASH = "cat $PWD/notes/a.txt"  # the same where bash has something to expand
# the same where variables may change: with an exit trap and one more process
STATEFUL = "x=1; cat notes/a.txt"
FILES = {f"notes/{name}.txt": f"{name}: some value\n" for name in "abcdefgh"}
EPISODE = ("ls notes", COMMAND, "grep -rn value .", "echo hi > out.txt")
ACCOUNT = Path("/sys/fs/cgroup/cpuacct")


class CpuMeter:
    """CPU milliseconds of this process tree. `source` says how they are counted."""

    def __init__(self) -> None:
        group = ACCOUNT / f"agito-bench-{os.getpid()}"
        try:
            group.mkdir()
            (group / "cgroup.procs").write_text(str(os.getpid()))
            self._usage: Path | None = group / "cpuacct.usage"
            self.source = "control group"
        except OSError:
            self._usage = None
            self.source = "whole machine"

    def read_ms(self) -> float:
        if self._usage is not None:
            return int(self._usage.read_text()) / 1e6
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        return (sum(fields[:8]) - fields[3] - fields[4]) * 1000 / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        if self._usage is not None:
            (ACCOUNT / "cgroup.procs").write_text(str(os.getpid()))
            self._usage.parent.rmdir()


def run_plainly(argv: list[str], directory: Path) -> None:
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=directory,
        env=ENV,
        check=True,
    )
    assert done.stdout


async def sandboxed(action: Callable[[], Awaitable[object]], count: int) -> list[float]:
    """Milliseconds of each of `count` calls."""
    times: list[float] = []
    for _ in range(count):
        started = time.perf_counter()
        await action()
        times.append((time.perf_counter() - started) * 1e3)
    return times


def plain(argv: list[str], directory: Path, count: int) -> list[float]:
    times: list[float] = []
    for _ in range(count):
        started = time.perf_counter()
        run_plainly(argv, directory)
        times.append((time.perf_counter() - started) * 1e3)
    return times


async def compare_actions(pool: Pool, directory: Path, rounds: int, count: int) -> dict[str, list[float]]:
    """Medians of each round, interleaved: three kinds of shell action, a snippet, and both plainly."""
    box = await pool.start(SandboxSpec())
    await box.write(FILES)
    found: dict[str, list[float]] = {
        name: [] for name in ("shell", "bash", "stateful", "py", "plain_shell", "plain_py")
    }
    for _ in range(rounds):
        found["shell"].append(statistics.median(await sandboxed(lambda: box.sh(COMMAND), count)))
        found["plain_shell"].append(statistics.median(plain(["/bin/bash", "-c", COMMAND], directory, count)))
        found["bash"].append(statistics.median(await sandboxed(lambda: box.sh(THROUGH_BASH), count)))
        found["stateful"].append(statistics.median(await sandboxed(lambda: box.sh(STATEFUL), count)))
        found["py"].append(statistics.median(await sandboxed(lambda: box.py("print(1)"), count)))
        found["plain_py"].append(
            statistics.median(
                plain(["/usr/bin/python3", "-I", "-S", "-c", "print(1)"], directory, max(count // 4, 3))
            )
        )
    await box.close()
    return found


async def cold_starts(pool: Pool, count: int) -> list[float]:
    """From nothing to a sandbox that answers, without a warm pool."""
    times: list[float] = []
    for _ in range(count):
        started = time.perf_counter()
        box = await pool.start(SandboxSpec())
        times.append((time.perf_counter() - started) * 1e3)
        await box.close()
    return times


async def forks(pool: Pool, count: int) -> tuple[list[float], list[float]]:
    """Milliseconds of whole forks from one snapshot, and of snapshots."""
    box = await pool.start(SandboxSpec())
    await box.write(FILES)
    snapshots: list[float] = []
    for _ in range(max(count // 4, 2)):
        started = time.perf_counter()
        snapshot = await box.snapshot()
        snapshots.append((time.perf_counter() - started) * 1e3)
    times: list[float] = []
    for _ in range(count):
        started = time.perf_counter()
        child = await pool.fork(snapshot)
        times.append((time.perf_counter() - started) * 1e3)
        await child.close()
    await box.close()
    return times, snapshots


async def throughput(pool: Pool, directory: Path, rounds: int, count: int) -> tuple[list[float], list[float]]:
    """Actions per second with two in flight, sandboxed and plain, of each round."""
    boxes = [await pool.start(SandboxSpec()) for _ in range(2)]
    for box in boxes:
        await box.write(FILES)

    async def many(box: Box) -> None:
        for _ in range(count):
            await box.sh(COMMAND)

    async def many_plain(_box: Box) -> None:
        for _ in range(count):
            await anyio.to_thread.run_sync(run_plainly, ["/bin/bash", "-c", COMMAND], directory)

    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for rate, work in zip(rates, (many, many_plain), strict=True):
            started = time.perf_counter()
            async with anyio.create_task_group() as group:
                for box in boxes:
                    group.start_soon(work, box)
            rate.append(2 * count / (time.perf_counter() - started))
    for box in boxes:
        await box.close()
    return rates


async def episodes(pool: Pool, meter: CpuMeter, rounds: int, count: int) -> list[float]:
    """CPU milliseconds of one episode: start, write, four actions, read everything back, close. One value per
    round.
    """

    async def episode() -> None:
        box = await pool.start(SandboxSpec())
        await box.write(FILES)
        for command in EPISODE:
            assert (await box.sh(command)).exit_code == 0
        await box.kill()
        assert len(await box.files()) == len(FILES) + 1
        await box.close()

    figures: list[float] = []
    for _ in range(rounds):
        before = meter.read_ms()
        for _ in range(count):
            await episode()
        await anyio.sleep(0.05)  # the kernel releases namespaces afterwards
        figures.append((meter.read_ms() - before) / count)
    return figures


async def host_cpu(pool: Pool, count: int) -> float:
    """CPU milliseconds of this process alone for one shell action."""
    box = await pool.start(SandboxSpec())
    await box.write(FILES)
    before = time.process_time()
    for _ in range(count):
        await box.sh(COMMAND)
    await box.close()
    return (time.process_time() - before) * 1e3 / count


async def main(is_short: bool) -> None:
    rounds, count = (3, 20) if is_short else (7, 60)
    meter = CpuMeter()
    directory = Path(os.environ.get("TMPDIR", "/tmp")) / f"agito-bench-{os.getpid()}"
    for name, text in FILES.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    async with await Pool.open(warm=0) as pool:
        await cold_starts(pool, 3)
        actions = await compare_actions(pool, directory, rounds, count)
        ready = [statistics.median(await cold_starts(pool, count)) for _ in range(rounds)]
        forked, snapshots = await forks(pool, count)
        fast, slow = await throughput(pool, directory, rounds, count)
        cpu = await episodes(pool, meter, rounds, count)
        host_ms = await host_cpu(pool, 5 * count)
        tier = pool.tier
    meter.close()
    shutil.rmtree(directory)
    shell_ratios = [a / b for a, b in zip(actions["shell"], actions["plain_shell"], strict=True)]
    bash_ratios = [a / b for a, b in zip(actions["bash"], actions["plain_shell"], strict=True)]
    stateful_ratios = [a / b for a, b in zip(actions["stateful"], actions["plain_shell"], strict=True)]
    figures = {
        "shell_ratio": round(statistics.median(shell_ratios), 3),
        "shell_through_bash_ratio": round(statistics.median(bash_ratios), 3),
        "shell_stateful_ratio": round(statistics.median(stateful_ratios), 3),
        "py_ms_p50": round(statistics.median(actions["py"]), 3),
        "ready_ms_p50": round(statistics.median(ready), 3),
        "fork_ms_p50": round(statistics.median(forked), 3),
        "throughput_ratio": round(statistics.median(a / b for a, b in zip(fast, slow, strict=True)), 3),
        "episode_cpu_ms": round(statistics.median(cpu), 3),
        "host_cpu_ms_per_action": round(host_ms, 3),
        "isolation_tier": tier,
    }
    detail = {f"{name}_ms": spread(values) for name, values in actions.items()}
    detail |= {
        "shell_ratio": spread(shell_ratios),
        "shell_through_bash_ratio": spread(bash_ratios),
        "shell_stateful_ratio": spread(stateful_ratios),
        "ready_ms": spread(ready),
        "fork_ms": spread(forked),
    }
    detail |= {
        "snapshot_ms": spread(snapshots),
        "actions_per_s_at_2": spread(fast),
        "plain_per_s_at_2": spread(slow),
        "episode_cpu_ms": spread(cpu),
    }
    report(
        "sandbox",
        figures,
        {**detail, "cpu_counted_by": meter.source, "commands": [COMMAND, THROUGH_BASH, STATEFUL, *EPISODE]},
    )


if __name__ == "__main__":
    anyio.run(main, "--short" in sys.argv[1:])
