"""What one of two thousand live sandboxes costs whose agents all wait for a slow tool.

    python benchmarks/concurrency.py [--episodes 2000] [--wait 5] [--short]

Every episode is a real one of `shell`, driven by the demonstrator; each call waits before it runs in the
sandbox. Bytes: the drop of the machine's available memory while all are live, divided by their number, host
and sandbox sides together. CPU: the scheduling process's time per action, without the sandboxes.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import anyio

from agito.envs.shell import ShellEnvironment
from agito.harness import SoloHarness, solo
from agito.protocols import Control, Session
from agito.render import learn, renderer
from agito.rollout import AttemptRunner, Plan, collect
from agito.scheduling.sync_scheduler import Quota
from agito.types import AttemptId, Budget, Call, Dialect, Event, Target, Task
from harness import Json, report


class Slow(ShellEnvironment):
    """`shell` with `wait_s` added to every call. Counts waiting episodes."""

    wait_s = 5.0
    num_live = 0
    most_live = 0

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        self.num_live += 1
        self.most_live = max(self.most_live, self.num_live)
        return cast(
            "Control", _SlowControl(await super().open(task, target, attempt, noise_seed=noise_seed), self)
        )


class _SlowControl:
    def __init__(self, control: Control, environment: Slow) -> None:
        self._control, self._environment = control, environment
        self.session: Session = _SlowSession(control.session, environment.wait_s)
        self.seal, self.digest = control.seal, control.digest

    async def close(self) -> None:
        self._environment.num_live -= 1
        await self._control.close()


class _SlowSession:
    def __init__(self, session: Session, wait_s: float) -> None:
        self._session, self._wait_s, self.tools = session, wait_s, session.tools

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        await anyio.sleep(self._wait_s)
        return await self._session.act(calls, left)


async def measure(episodes: int, wait_s: float) -> dict[str, Json]:
    environment = Slow()
    environment.wait_s = wait_s
    vocabulary = learn(["find repair submit grep cat ls sed"] * 20, size=300)
    runner = AttemptRunner(environment, SoloHarness(), solo(renderer(Dialect.COMPACT, vocabulary)), seed=0)

    def patient(group: int) -> tuple[Task, Target]:
        """Twelve waits of five seconds exceed a task's own time limit."""
        task, target = environment.task(split="train", index=group, seed=0)
        return replace(task, limits=replace(task.limits, seconds=600.0)), target

    plan = Plan(
        task=patient,
        script=lambda task, target, attempt: environment.demonstrator(
            task, target, skill=0.9, seed=attempt.group
        ),
    )
    try:
        await collect(runner, plan, Quota(ids=range(10**6, 10**6 + 8), group_size=1), None)  # starts the pool
        free_before, least_free = _available(), _available()
        before_s, began = _cpu_s(), time.monotonic()
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                nonlocal least_free
                while True:
                    least_free = min(least_free, _available())
                    await anyio.sleep(0.2)

            tasks.start_soon(watch)
            collected = await collect(
                runner, plan, Quota(ids=range(episodes), group_size=1, max_live=episodes), None
            )
            tasks.cancel_scope.cancel()
        wall_s, cpu_s = time.monotonic() - began, _cpu_s() - before_s
    finally:
        await environment.aclose()
    actions = sum(len(attempt.trajectory.events) for attempt in collected.attempts)
    void = [attempt.verdict.evidence for attempt in collected.attempts if not attempt.is_scored]
    return {
        "episodes": environment.most_live,
        "bytes_per_episode": round((free_before - least_free) / environment.most_live),
        "cpu_ms_per_action": round(1e3 * cpu_s / actions, 3),
        "actions": actions,
        "wall_s": round(wall_s, 1),
        "void": len(void),
        "void_reasons": sorted(set(void))[:3],
    }


def _available() -> int:
    line = next(
        line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable")
    )
    return int(line.split()[1]) << 10


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--wait", type=float, default=5.0)
    parser.add_argument("--short", action="store_true", help="200 episodes, a second each")
    options = parser.parse_args()
    episodes, wait_s = (200, 1.0) if options.short else (options.episodes, options.wait)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    found = anyio.run(measure, episodes, wait_s)
    names = ("episodes", "bytes_per_episode", "cpu_ms_per_action")
    report(
        "concurrency",
        {name: found[name] for name in names},
        {name: value for name, value in found.items() if name not in names},
    )


if __name__ == "__main__":
    main()
