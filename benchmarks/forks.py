"""Fork == continue: does a fork end like its original, and like an uninterrupted episode?

    python benchmarks/forks.py [--forks 200] [--only NAME]... [--short]

For every bundled environment: a task of a random family, level and split, acted out three times by its solver
or its demonstrator at half skill. Once without interruption; once with a snapshot after a random event; and
once in a fork from that snapshot. Events, captures and verdicts of all three must be equal, and the fork's
digest must be the snapshot's. `holds` says what the snapshot preserves; an environment whose snapshot is a
replay repeats the episode.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import dataclass, field

import anyio

from agito.envs import load
from agito.envs.registry import bundled
from agito.protocols import Control, Environment, ScriptFactory
from agito.testing.episodes import act_out, essence, play
from agito.types import AttemptId, Event, Target, Task
from harness import Json, report, spread

_SLOW = {"web"}  # in Chromium: half the forks in the short form


@dataclass(slots=True)
class Found:
    forks: int = 0
    different: int = 0
    holds: str = ""
    fork_ms: list[float] = field(default_factory=list[float])
    first: list[str] = field(default_factory=list[str])


async def one(env: Environment, rng: random.Random, number: int, found: Found) -> None:
    task, target = env.task(
        split=rng.choice(env.splits),
        index=number,
        seed=rng.randrange(1 << 20),
        family=rng.choice(env.families),
        level=rng.choice(env.levels),
    )
    seed, attempt = rng.randrange(1 << 20), AttemptId(group=number, slot=0)
    script = (
        env.solutions(task, target)[0] if number % 2 else env.demonstrator(task, target, skill=0.5, seed=seed)
    )
    whole = await play(env, task, target, script, attempt, noise_seed=seed)
    if not whole.events:
        return
    control = await env.open(task, target, attempt, noise_seed=seed)
    try:
        past = await act_out(control.session, task.limits, script, most=rng.randrange(len(whole.events)))
        snapshot = await control.snapshot()
        began = time.perf_counter()
        child = await control.fork(snapshot, attempt)
        found.fork_ms.append((time.perf_counter() - began) * 1e3)
        try:
            problem = (
                "" if await child.digest() == snapshot.digest else "the fork's digest is not the snapshot's"
            )
            continued = await _end(env, task, target, control, script, past)
            forked = await _end(env, task, target, child, script, past)
        finally:
            await child.close()
    finally:
        await control.close()
    expected = (tuple(map(essence, whole.events)), whole.sealed.digest, whole.verdict.reward)
    for name, ended in (("continued", continued), ("forked", forked)):
        if ended != expected:
            problem = problem or f"{name}: {_where(ended, expected)}"
    found.forks += 1
    found.holds = str(snapshot.exactness)
    found.different += bool(problem)
    if problem and len(found.first) < 3:
        found.first.append(f"{task.id} after {len(past)} of {len(whole.events)} events: {problem}"[:400])


async def _end(
    env: Environment,
    task: Task,
    target: Target,
    control: Control,
    script: ScriptFactory,
    past: tuple[Event, ...],
) -> tuple[tuple[tuple[object, ...], ...], str, float]:
    events = await act_out(control.session, task.limits, script, past=past)
    sealed = await control.seal()
    return tuple(map(essence, events)), sealed.digest, (await env.grade(sealed, target, 0)).reward


def _where(
    ended: tuple[tuple[tuple[object, ...], ...], str, float],
    expected: tuple[tuple[tuple[object, ...], ...], str, float],
) -> str:
    for mine, other in zip(ended[0], expected[0], strict=False):
        if mine != other:
            return f"{mine} where {other} was"
    return (
        "another number of events"
        if len(ended[0]) != len(expected[0])
        else "equal events, another digest or reward"
    )


async def measure(name: str, count: int) -> Found:
    env, found, rng = load(name), Found(), random.Random(f"forks/{name}")
    try:
        for number in range(count):
            await one(env, rng, number, found)
    finally:
        await env.aclose()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--forks", type=int, default=200)
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    parser.add_argument("--short", action="store_true", help="10 forks each")
    options = parser.parse_args()
    count = 10 if options.short else options.forks
    found: dict[str, Found] = {}
    for name in options.only or bundled():
        found[name] = anyio.run(measure, name, count // 2 if options.short and name in _SLOW else count)
        print(
            f"{name:10} {found[name].forks} forks, {found[name].different} different  {found[name].holds}  "
            f"{found[name].first}",
            flush=True,
        )
    figures: dict[str, Json] = {
        name: {"forks": each.forks, "different": each.different, "holds": each.holds}
        for name, each in found.items()
    }
    detail: dict[str, Json] = {
        name: {"fork_ms": spread(each.fork_ms), "first": each.first} for name, each in found.items()
    }
    report("forks", figures, detail)


if __name__ == "__main__":
    main()
