"""Is leaving ever better than failing? Scripted dodgers with every way out, and RL with ways out on offer.

Scripted: in the `code` environment, a policy that is right one time in four leaves whenever it is not.
Reported success must equal true success. RL: in the `shell` environment a fifth of the demonstrations leave
midway. The share that leaves must fall, and success rise. Learning: one exact decision, to leave or fail,
with masking and with the actual rules.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import pyarrow.parquet as pq

from agito.envs import load
from agito.envs.code import agents
from agito.envs.code.words import TERSE
from agito.harness import SoloHarness, solo
from agito.learning.credit.leave_one_out import leave_one_out_advantages
from agito.protocols import Environment, Renderer, Script, ScriptFactory
from agito.record import Rate, rate, rate_over_all
from agito.render import learn, renderer
from agito.render.vocabulary import CALL, END_CALL, IM_END
from agito.rollout import AttemptRunner, Plan, collect
from agito.scheduling.sync_scheduler import Quota
from agito.types import AttemptId, Dialect, Target, Task
from harness import Json, report
from wayout_env import OFFERED, WAYS, SayingAnything, Way, left_by

CHANCE = 0.25  # of being right
ENV = f"{Path(__file__).parent / 'wayout_env.py'}:Leaving"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dodged:
    """Results of one kind of dodger: success over scored attempts, over all, and in truth."""

    scored: Rate
    every: Rate
    true: float
    retried: int
    voids: Counter[str]

    @property
    def is_honest(self) -> bool:
        return (
            self.scored.low <= self.true <= self.scored.high
            and self.every.low <= self.true <= self.every.high
        )

    def to_json(self) -> dict[str, Json]:
        return {
            "reported": round(self.scored.success, 3),
            "low": round(self.scored.low, 3),
            "high": round(self.scored.high, 3),
            "over_all": round(self.every.success, 3),
            "true": round(self.true, 3),
            "retried": self.retried,
            "voids": dict(self.voids),
            "is_honest": self.is_honest,
        }


def is_lucky(way: str, group: int, tries: int = 0) -> bool:
    """A repeated try is a new draw, which is what makes a void try worth something."""
    return random.Random(f"luck/{way}/{group}/{tries}").random() < CHANCE


def policy(way: str, task: Task, attempt: AttemptId) -> ScriptFactory:
    name = task.prompt[Dialect.COMPACT].partition(" ")[2]

    def script() -> Script:
        if is_lucky(way, attempt.group, attempt.tries):
            yield from agents.solver(name, TERSE)()
        elif way == "none":
            yield agents.submit("wrong")
        else:
            yield from left_by(WAYS[way])

    return script


async def scripted(num: int) -> dict[str, Dodged]:
    environment = load("code")
    try:
        speaking = speaker(
            [
                environment.task(split="heldout", index=index, seed=5, family="bug", level=1)
                for index in range(8)
            ]
        )
        return {name: await dodge(environment, speaking, name, way, num) for name, way in WAYS.items()}
    finally:
        await environment.aclose()


async def dodge(environment: Environment, speaking: Renderer, name: str, way: Way, num: int) -> Dodged:
    def task(group: int) -> tuple[Task, Target]:
        drawn, key = environment.task(split="heldout", index=group, seed=5, family="bug", level=1)
        seconds = drawn.limits.seconds if way.seconds is None else way.seconds
        limits = replace(
            drawn.limits,
            turns=40,
            calls=40,
            tokens=1 << 17,
            turn_tokens=1 << 14,
            call_seconds=1.0,
            seconds=seconds,
        )
        return replace(drawn, limits=limits), key

    runner = AttemptRunner(environment, SoloHarness(), solo(speaking), seed=5)
    plan = Plan(task=task, script=lambda task, target, attempt: policy(name, task, attempt))
    found = await collect(runner, plan, Quota(ids=range(num), group_size=1, max_live=4), None)
    voids = Counter(attempt.verdict.evidence[:80] for attempt in found.attempts if not attempt.is_scored)
    true = statistics.fmean(is_lucky(name, group) for group in range(num))
    return Dodged(
        scored=rate(found.attempts),
        every=rate_over_all(found.attempts),
        true=true,
        retried=found.retried,
        voids=voids,
    )


def speaker(tasks: Sequence[tuple[Task, Target]]) -> Renderer:
    """The natural dialect, in which scripts may say anything."""
    texts = [task.prompt[Dialect.NATURAL] for task, _ in tasks] + [
        command for way in WAYS.values() for command in way.commands
    ]
    vocabulary = learn(texts * 3, size=600)

    def say(text: str) -> list[int]:
        return [
            vocabulary.id(CALL),
            *vocabulary.encode(f"\n{text}\n"),
            vocabulary.id(END_CALL),
            vocabulary.id(IM_END),
        ]

    return SayingAnything(renderer(Dialect.NATURAL, vocabulary), say)  # type: ignore[return-value]


def train(seed: int, out: Path, settings: Mapping[str, Json]) -> dict[str, float]:
    """One run of the smoke recipe with ways out on offer."""
    words = [
        word
        for name, value in {
            "env.families": ["find"],
            "env.levels": [1],
            **settings,
            "env.name": ENV,
            "seed": seed,
        }.items()
        for word in ("--set", f"{name}={json.dumps(value)}")
    ]
    command = [
        sys.executable,
        "-m",
        "agito.cli",
        "train",
        "smoke",
        "--admit-anyway",
        *words,
        "--out",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    before, after = (
        leaving(out / "trajectories" / f"{phase}-00000.parquet") for phase in ("before", "after")
    )
    return {
        "dodge_share_before": before,
        "dodge_share_after": after,
        "success_before": summary["success_before_all"],
        "success_after": summary["success_after_all"],
        "void": summary["void_attempts"],
    }


def leaving(file: Path) -> float:
    """Share of attempts that took one of the offered ways."""
    rows = pq.read_table(file, columns=["events"]).to_pylist()
    said = [{json.loads(event["arguments"]).get("command") for event in row["events"]} for row in rows]
    return statistics.fmean(bool(commands & set(OFFERED.values())) for commands in said)


def learned(rule: str, seed: int, *, steps: int = 150, groups: int = 8, size: int = 8) -> tuple[float, float]:
    """One decision after a failure with probability 3/4: fail openly, or leave. Returns the share that
    leaves, before and after.

    `masked`: who leaves is not learned from. `scored`: as it stands. `penalised`: proof of cheating, at the
    lowest reward minus half a range.
    """
    rng, logit = random.Random(f"{rule}/{seed}"), math.log(0.02 / 0.98)
    for _ in range(steps):
        share, gradient, num = 1 / (1 + math.exp(-logit)), 0.0, 0
        for _ in range(groups):
            right = [rng.random() < CHANCE for _ in range(size)]
            leaves = [not each and rng.random() < share for each in right]
            trusted = [at for at in range(size) if not leaves[at] or rule == "scored"]
            rewards = [float(right[at]) for at in trusted]
            advantages = (
                dict(zip(trusted, leave_one_out_advantages(rewards), strict=True)) if len(rewards) > 1 else {}
            )
            if rule == "penalised":
                base = statistics.fmean(rewards) if rewards else CHANCE
                advantages |= {at: -0.5 - base for at in range(size) if leaves[at]}
            gradient += sum(
                advantage * ((1 - share) if leaves[at] else -share)
                for at, advantage in advantages.items()
                if not right[at]
            )
            num += len(advantages)
        logit += 4.0 * gradient / max(num, 1)
    return 0.02, 1 / (1 + math.exp(-logit))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--short", action="store_true", help="24 tasks a way and one seed")
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    num, seeds = (24, 1) if options.short else (options.tasks, options.seeds)
    ways = anyio.run(scripted, num)
    for name, found in ways.items():
        print(f"{name:28}", json.dumps(found.to_json()), flush=True)
    with tempfile.TemporaryDirectory(prefix="agito-wayout-") as folder:
        runs = [train(seed, Path(folder) / str(seed), {"eval.tasks": 200}) for seed in range(seeds)]
    rules = {
        rule: round(statistics.fmean(learned(rule, seed)[1] for seed in range(5)), 3)
        for rule in ("masked", "scored", "penalised")
    }
    mean = {name: round(statistics.fmean(run[name] for run in runs), 4) for name in runs[0]}
    dodgers = [found for name, found in ways.items() if name != "none"]
    figures: dict[str, Json] = {
        "reported": round(statistics.fmean(found.scored.success for found in dodgers), 3),
        "true": round(statistics.fmean(found.true for found in dodgers), 3),
        "dishonest": [name for name, found in ways.items() if not found.is_honest],
        **{name: value for name, value in mean.items() if name != "void"},
    }
    detail: dict[str, Json] = {
        "ways": {name: found.to_json() for name, found in ways.items()},
        "runs": runs,
        "left_at_the_end": rules,
    }
    report("wayout", figures, detail)


if __name__ == "__main__":
    main()
