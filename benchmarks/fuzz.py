"""Malformed calls to all tools of all bundled environments: each must be a readable event.

`python benchmarks/fuzz.py [--short] [--seed N]`. 10,000 calls, shared evenly: unknown tools; missing, surplus
and wrongly typed arguments; hostile strings; raw junk through both dialects' parsers. Beside each fuzzed
episode another one is open, halfway through a solution. A *crash* is an exception, or anything but one event
per call; *unreadable* is a fault without text; an episode is *disturbed* if its digest changes while the
other is fuzzed, or if its continued solution no longer earns full marks.
"""

from __future__ import annotations

import random
import string
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import anyio

from agito.envs import load
from agito.envs.registry import bundled
from agito.protocols import Control, Environment, Renderer
from agito.render import learn, renderer
from agito.testing.episodes import act_out, budget
from agito.types import AttemptId, Call, Dialect, Event, Json, Status, Target, Task, ToolSpec
from harness import Json as Figures
from harness import report

CALLS_AN_EPISODE = 25
DEADLINE_S = 60.0  # per call
HOSTILE = (
    "",
    " ",
    "\x00",
    "\n",
    "\ud800",
    "\ufeff\u202e",
    "'; DROP TABLE orders; --",
    "../../etc/passwd",
    "/dev/zero",
    "$(",
    "`",
    "${IFS}",
    "'",
    '"',
    "|",
    ">",
    "&",
    "exit 7",
    "kill -9 -1",
    "%s%n",
    "<|end|>",
    "</tool_call>",
    "{",
    "[[[[",
    "NaN",
    "-1",
    "1e999",
    "9" * 400,
    "null",
    "true",
    "submit",
    "a" * 70_000,
    "\N{SNOWMAN}" * 5_000,
    "AND OR NOT",
    "*:*",
    "SELECT 1",
    "http://169.254.169.254/",
    "\x1b[2J",
    "-rf *",
)


@dataclass(slots=True)
class UsageCounters:
    calls: int = 0
    crashes: int = 0
    unreadable: int = 0
    episodes: int = 0
    disturbed: int = 0
    faults: Counter[str] = field(default_factory=Counter[str])
    first: list[str] = field(default_factory=list[str])  # the first findings, for people

    def note(self, finding: str) -> None:
        if len(self.first) < 5:
            self.first.append(finding[:400])


class Fuzzer:
    """Calls that no honest policy makes, from a seed."""

    def __init__(self, rng: random.Random, renderers: Mapping[Dialect, Renderer], vocab_size: int) -> None:
        self.rng, self.renderers, self.vocab_size = rng, renderers, vocab_size

    def call(self, tools: tuple[ToolSpec, ...]) -> Call:
        kinds: list[Callable[[tuple[ToolSpec, ...]], Call]] = [
            self.arguments,
            self.arguments,
            self.unknown,
            self.junk,
        ]
        return self.rng.choice(kinds)(tools)

    def unknown(self, tools: tuple[ToolSpec, ...]) -> Call:
        name = self.rng.choice(
            (*HOSTILE, "Submit", "submit ", "__init__", "act", *(tool.name + "x" for tool in tools))
        )
        return Call(tool=name, arguments={self.text(): self.value()}, raw=name)

    def arguments(self, tools: tuple[ToolSpec, ...]) -> Call:
        """A known tool with arguments of the wrong kind, number or content."""
        tool = self.rng.choice(tools)
        names = [name for name in _properties(tool) if self.rng.random() < 0.8]
        if self.rng.random() < 0.2:
            names.append(self.text()[:50])
        return Call(tool=tool.name, arguments={name: self.value() for name in names}, raw=tool.name)

    def junk(self, tools: tuple[ToolSpec, ...]) -> Call:
        """Random tokens, as from a policy with random weights."""
        dialect = self.rng.choice(list(Dialect))
        parser = self.renderers[dialect]
        ids = array("i", [self.rng.randrange(self.vocab_size) for _ in range(self.rng.randrange(12))])
        if self.rng.random() < 0.7:
            ids.append(parser.stop_ids[0])
        return self.rng.choice(parser.parse(ids, tools))

    def text(self) -> str:
        if self.rng.random() < 0.6:
            return self.rng.choice(HOSTILE)
        return "".join(self.rng.choice(string.printable) for _ in range(self.rng.randrange(1, 30)))

    def value(self, depth: int = 0) -> Json:
        kind = self.rng.randrange(10)
        if kind < 5 or depth > 3:
            return self.text()
        if kind == 5:
            return self.rng.choice((None, True, False))
        if kind == 6:
            return self.rng.choice((0, -1, 2**63, -(2**70), 10**400, 3))
        if kind == 7:
            return self.rng.choice((0.5, float("nan"), float("inf"), -1e308))
        return (
            [self.value(depth + 1) for _ in range(3)]
            if kind == 8
            else {self.text()[:20]: self.value(depth + 1)}
        )


def _properties(tool: ToolSpec) -> list[str]:
    properties = tool.parameters.get("properties")
    return list(properties) if isinstance(properties, dict) else []


async def fuzz(env: Environment, fuzzer: Fuzzer, num_calls: int, tally: UsageCounters) -> None:
    """Cycles through episodes of every cell until `num_calls` calls were made."""
    at = 0
    while tally.calls < num_calls:
        task, target = env.task(split="heldout", index=at, seed=77)
        bystander = await env.open(task, target, AttemptId(group=at, slot=1), noise_seed=0)
        past = await act_out(bystander.session, task.limits, env.solutions(task, target)[0], most=1)
        before = await bystander.digest()
        await attack(env, task, target, at, fuzzer, min(CALLS_AN_EPISODE, num_calls - tally.calls), tally)
        tally.episodes += 1
        if await bystander.digest() != before or not await still_solved(env, task, target, bystander, past):
            tally.disturbed += 1
            tally.note(f"{task.id}: the episode beside it was disturbed")
        await bystander.close()
        at += 1


async def still_solved(
    env: Environment, task: Task, target: Target, control: Control, past: tuple[Event, ...]
) -> bool:
    if not (past and past[-1].ended):
        await act_out(control.session, task.limits, env.solutions(task, target)[0], past=past)
    return (await env.grade(await control.seal(), target, 0)).reward == 1.0


async def attack(
    env: Environment,
    task: Task,
    target: Target,
    at: int,
    fuzzer: Fuzzer,
    num_calls: int,
    tally: UsageCounters,
) -> None:
    """One fuzzed episode, reopened whenever a call ends it; graded like any other."""
    control = await env.open(task, target, AttemptId(group=at, slot=0), noise_seed=0)
    for number in range(num_calls):
        call = fuzzer.call(task.tools)
        tally.calls += 1
        ended = True
        try:
            with anyio.fail_after(DEADLINE_S):
                (event,) = await control.session.act((call,), budget(task.limits, number + 1))
            ended = event.ended
            tally.faults[str(event.fault)] += 1
            if event.fault is not None and not event.text.strip():
                tally.unreadable += 1
                tally.note(f"{task.id}: nothing to read after {call!r}")
        except Exception as error:  # crashes are what is counted
            tally.crashes += 1
            tally.note(f"{task.id}: {type(error).__name__}: {error} after {call!r}")
        if ended:
            await settle(env, control, target, task, tally)
            control = await env.open(
                task, target, AttemptId(group=at, slot=0, tries=number + 1), noise_seed=0
            )
    await settle(env, control, target, task, tally)


async def settle(
    env: Environment, control: Control, target: Target, task: Task, tally: UsageCounters
) -> None:
    try:
        verdict = await env.grade(await control.seal(), target, 0)
        if verdict.status is not Status.SCORED:
            tally.note(f"{task.id}: a fuzzed episode is void: {verdict.evidence}")
    except Exception as error:  # as above
        tally.crashes += 1
        tally.note(f"{task.id}: {type(error).__name__}: {error} when it was graded")
    await control.close()


async def main() -> None:
    total = 1_000 if "--short" in sys.argv else 10_000
    seed = int(sys.argv[sys.argv.index("--seed") + 1]) if "--seed" in sys.argv else 0
    vocabulary = learn(
        ['submit open search orders refund ask grep cat ls sed done { } [ ] " : , name arguments'] * 3,
        size=400,
    )
    renderers = {dialect: renderer(dialect, vocabulary) for dialect in Dialect}
    tallies: dict[str, UsageCounters] = {}
    seconds: dict[str, Figures] = {}
    for number, name in enumerate(bundled()):
        started, env, tally = time.perf_counter(), load(name), UsageCounters()
        fuzzer = Fuzzer(random.Random(f"fuzz/{seed}/{name}"), renderers, len(vocabulary))
        try:
            await fuzz(
                env, fuzzer, total * (number + 1) // len(bundled()) - total * number // len(bundled()), tally
            )
        finally:
            await env.aclose()
        tallies[name], seconds[name] = tally, round(time.perf_counter() - started, 1)
    each = tallies.values()
    figures: dict[str, Figures] = {
        "calls": sum(t.calls for t in each),
        "crashes": sum(t.crashes for t in each),
        "unreadable": sum(t.unreadable for t in each),
        "episodes": sum(t.episodes for t in each),
        "disturbed": sum(t.disturbed for t in each),
    }
    detail: dict[str, Figures] = {
        name: {
            "calls": t.calls,
            "crashes": t.crashes,
            "disturbed": t.disturbed,
            "faults": dict(t.faults),
            "first": t.first,
            "wall_s": seconds[name],
        }
        for name, t in tallies.items()
    }
    report("fuzz", figures, detail)


if __name__ == "__main__":
    anyio.run(main)
