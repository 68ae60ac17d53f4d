"""What worlds cost: steps, actions and queries per second, and reset, step and grade of every bundled
environment.

`python benchmarks/world.py [--short]`. One episode at a time, so a rate is that of about one core; in-process
figures are also per CPU-second of this process, which a busy machine does not change. Resets include the
first call, because sandboxes start with it. The scripts' success is listed beside them: floor and ceiling of
what can be learned.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio

from agito.envs import load
from agito.envs.registry import bundled
from agito.protocols import Control, Environment, SandboxSpec
from agito.record import clopper_pearson
from agito.testing.episodes import budget, play
from agito.types import AttemptId, Budget, Call, Dialect, Limits, Target, Task
from agito.worlds.api import Operation, Service, image
from agito.worlds.component import Answer, Machine, spec
from agito.worlds.sandbox import Pool
from agito.worlds.search import Corpus, Document
from agito.worlds.world import World
from harness import Json, report, spread

LEFT = Budget(turns=9, calls=9, tokens=99)
BIT = spec("flip", "Flips a bit.", ["which"])


class Bit(Machine):
    """The smallest possible component, so that the world around it is measured."""

    name, tools = "bit", (BIT,)
    state: list[bool]

    def step(self, call: Call) -> Answer:
        self.state[0] = not self.state[0]
        return Answer(text="on" if self.state[0] else "off")


async def rate(action: Callable[[], Awaitable[object]], seconds: float) -> dict[str, Json]:
    """Repeats `action` for about `seconds`."""
    for _ in range(3):
        await action()
    count, started, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds:
        for _ in range(10):
            await action()
        count += 10
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    return {
        "per_s": round(count / wall_s, 1),
        "per_cpu_s": round(count / max(cpu_s, 1e-9), 1),
        "count": count,
    }


async def parts(seconds: float) -> dict[str, dict[str, Json]]:
    task = Task(
        id="t",
        env="e",
        split="train",
        family="f",
        level=1,
        prompt=dict.fromkeys(Dialect, "x"),
        tools=(BIT,),
        limits=Limits(),
    )
    world = World(task, [Bit([False])], AttemptId(group=0, slot=0), noise_seed=0)
    flip = (Call(tool="flip", arguments={"which": "a"}),)
    found = {"steps": await rate(lambda: world.session.act(flip, LEFT), seconds)}
    found["queries"] = await rate(queries(), seconds)
    found["requests"] = await rate(requests(), seconds)
    pool = await Pool.open(warm=1)
    try:
        box = await pool.start(SandboxSpec())
        found["actions"] = await rate(lambda: box.sh("echo hi"), seconds)
        found["snippets"] = await rate(lambda: box.py("1"), seconds)
        await box.close()
    finally:
        await pool.aclose()
    return found


def queries() -> Callable[[], Awaitable[object]]:
    """Three random words, over 20,000 documents of 40 words."""
    rng = random.Random(0)
    words = [f"w{number}" for number in range(5000)]
    corpus = Corpus(
        [
            Document(id=str(number), title=f"t{number}", text=" ".join(rng.choices(words, k=40)))
            for number in range(20_000)
        ]
    )

    async def ask() -> object:
        return corpus.search(" ".join(rng.choices(words, k=3)), 5)

    return ask


def requests() -> Callable[[], Awaitable[object]]:
    """One row changed in a transaction."""
    add = Operation(
        tool=spec("add", "Adds.", {"count": "integer"}),
        writes=True,
        run=lambda connection, arguments, caller: (
            connection.execute("UPDATE t SET n = n + ?", (arguments["count"],)).rowcount
        ),
    )
    service = Service([add], image("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER);", {"t": [(1, 0)]}))
    call = Call(tool="add", arguments={"count": 1})
    return lambda: service.call(call, timeout_s=1.0)


@dataclass(slots=True)
class Costs:
    """Milliseconds of each."""

    task: list[float] = field(default_factory=list[float])
    reset: list[float] = field(default_factory=list[float])
    step: list[float] = field(default_factory=list[float])
    grade: list[float] = field(default_factory=list[float])


async def episode(env: Environment, task: Task, target: Target, at: int, costs: Costs) -> bool:
    """Acts out a solution; whether it earned full marks."""
    script = env.solutions(task, target)[0]()
    started = time.perf_counter()
    control: Control = await env.open(task, target, AttemptId(group=at, slot=0), noise_seed=0)
    times: list[float] = []
    try:
        call = next(script)
        while len(times) < task.limits.calls:
            (event,) = await control.session.act((call,), budget(task.limits, len(times) + 1))
            now = time.perf_counter()
            times.append((now - started) * 1e3)
            started = now
            if event.ended:
                break
            call = script.send(event)
    except StopIteration:
        pass
    started = time.perf_counter()
    verdict = await env.grade(await control.seal(), target, 0)
    costs.grade.append((time.perf_counter() - started) * 1e3)
    await control.close()
    costs.reset.append(times[0])
    costs.step.extend(times[1:])
    return verdict.reward == 1.0


async def environment(name: str, seconds: float) -> dict[str, Json]:
    env, costs, solved, count = load(name), Costs(), 0, 0
    try:
        task, target = env.task(split="train", index=0, seed=1)
        # what is made once per process, such as a pool, is not an episode's cost
        await episode(env, task, target, 0, Costs())
        began, cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() - began < seconds or count < len(env.families) * len(env.levels):
            started = time.perf_counter()
            task, target = env.task(split="train", index=count, seed=0)
            costs.task.append((time.perf_counter() - started) * 1e3)
            solved += await episode(env, task, target, count, costs)
            count += 1
        wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    finally:
        await env.aclose()
    steps = len(costs.step) + len(costs.reset)
    return {
        "episodes": count,
        "solved": solved,
        "episodes_per_s": round(count / wall_s, 1),
        "steps_per_s": round(steps / wall_s, 1),
        "own_cpu_ms_per_episode": round(cpu_s / count * 1e3, 2),
        **{name: tails(getattr(costs, name)) for name in ("task", "reset", "step", "grade")},
    }


async def scripts(name: str, count: int) -> dict[str, Json]:
    """Success of every script on the first `count` tasks, cycling through families and levels, as [value,
    low, high]; the demonstrator has half skill.
    """
    env = load(name)
    found: dict[str, Json] = {}
    try:
        tasks = [env.task(split="heldout", index=index, seed=0) for index in range(count)]
        kinds = ["solver", "demonstrator", *env.negative_controls(tasks[0][0])]
        for kind in kinds:
            right = 0
            for number, (task, key) in enumerate(tasks):
                if kind == "solver":
                    script = env.solutions(task, key)[0]
                elif kind == "demonstrator":
                    script = env.demonstrator(task, key, skill=0.5, seed=number)
                else:
                    script = env.negative_controls(task)[kind]
                played = await play(env, task, key, script, AttemptId(group=number, slot=0))
                right += played.verdict.reward == 1.0
            found[kind] = [round(value, 4) for value in (right / count, *clopper_pearson(right, count))]
    finally:
        await env.aclose()
    return found


def tails(times_ms: list[float]) -> dict[str, Json]:
    ordered = sorted(times_ms)
    return {
        "p50_ms": spread(ordered)["p50"],
        "p95_ms": round(ordered[int(0.95 * (len(ordered) - 1))], 4),
        "n": len(ordered),
    }


async def main() -> None:
    seconds = 1.0 if "--short" in sys.argv else 6.0
    rates = await parts(seconds)
    environments: dict[str, dict[str, Json]] = {}
    for name in bundled():
        count = 20 if seconds < 2 or name == "web" else 200
        environments[name] = await environment(name, seconds) | {"scripts": await scripts(name, count)}
    figures: dict[str, Json] = {f"{name}_per_s": found["per_s"] for name, found in rates.items()}
    for name in ("steps", "queries", "requests"):
        figures[f"{name}_per_cpu_s"] = rates[name]["per_cpu_s"]
    report("world", {**figures, "environments": environments}, {"parts": rates})


if __name__ == "__main__":
    anyio.run(main)
