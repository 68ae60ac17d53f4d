"""A team against one agent and against a fixed split, at equal sampled tokens, at every phi of `parallel`.

    python benchmarks/team.py [--seeds 3] [--runs runs/team] [--only ARM]... [--seed SEED] [--short]

Trains what is not in the folder yet, one run after the other. It can be stopped at any time and begun again:
a run that was not finished is resumed from its last checkpoint, one that was is read. `solo` sets the number
of tokens; every other arm first takes `PILOT` steps, and then as many as those tokens pay for, forks
included. All arms pay for their critical path alike. `--only`, `--seed`: these arms, this seed, and no
report; `planted` and `scripted` are parts that train nothing. `--short`: one seed with a fraction of
everything; its figures say nothing.

`team`, `solo`, `scripted`: success with its 95 % interval, on held-out tasks of phi >= .5. `scripted` hands
out two halves of every task, by hands as skilled as the demonstrator's. `critical_tokens_ratio`: tokens one
after the other on those tasks, of the team over one agent. `phi0_difference`: team less solo at phi = 0, with
its 95 % interval. `credit`: for each estimator its team's success; the mean square of the advantages of the
first step, where all estimators see the same attempts; and tokens sampled, with those of forks.
`planted_found`: estimators that tell a planted free-rider and a planted saboteur from who earns.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import anyio

from agito.concurrency import run as run_async
from agito.envs.parallel import ParallelEnvironment
from agito.envs.parallel.env import PHI
from agito.harness import TeamHarness
from agito.harness.team import LEAKED, TEAM_ROLES, TeamRules
from agito.learning.credit import CREDITS, agent_credits, by_replay
from agito.protocols import AgentSpec
from agito.record import Recorded, clopper_pearson, read_trajectories
from agito.render import Vocabulary, renderer
from agito.rollout import AttemptRunner, Plan
from agito.runtime import load_policy
from agito.testing.planted import SAID, planted_group
from agito.types import Attempt, AttemptId, Dialect, Trajectory
from harness import Json, report

HIGH = tuple(name for name, phi in PHI.items() if phi >= 0.5)
NONE = "phi-0"
PILOT = 2  # steps that tell what a step costs
CREDIT = ("leave_one_out", "per_role", "own_and_team", "by_replay")  # `team` is the first of them
ARMS = ("solo", *CREDIT)
PARTS = ("planted", "scripted")
# Parts of six steps: with shorter ones, handing them out costs as much as it saves. Tasks need this context.
COMMON = (
    "env.levels=[5]",
    "compute.context=608",
    "rl.groups=16",
    "rl.critical_price=0.3",
    "rl.checkpoint_every=2",
)
SHORT = (
    "env.levels=[1]",
    "compute.context=256",
    "model.hidden_size=32",
    "model.num_layers=1",
    "sft.demos=160",
    "sft.epochs=1",
    "sft.tokenizer_episodes=40",
    "rl.groups=2",
    "rl.group_size=4",
    "rl.checkpoint_every=1",
    "eval.tasks=20",
    "eval.structural_tasks=0",
    "eval.baseline_tasks=0",
)
STEPS = {False: 20, True: 2}  # of the solo agent; by whether it is the short form
Z = 1.96


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    runs: Path
    is_short: bool

    def arm(self, name: str, seed: int) -> Path:
        """The run of an arm, trained or resumed if it is not finished yet."""
        out = self.runs / f"{name}{'-short' if self.is_short else ''}-{seed}"
        if not is_done(out):
            self._train(name, seed, self._steps(name, seed), out)
        return out

    def _steps(self, name: str, seed: int) -> int:
        if name == "solo":
            return STEPS[self.is_short]
        pilot = self.runs / f"{name}{'-short' if self.is_short else ''}-pilot"
        if not is_done(pilot):
            few = ("eval.tasks=10", "eval.structural_tasks=0", "eval.baseline_tasks=0")
            self._train(name, 0, PILOT, pilot, few)
        a_step = sampled_tokens(pilot) / PILOT
        return max(1, round(sampled_tokens(self.arm("solo", seed)) / a_step))

    def _train(self, name: str, seed: int, steps: int, out: Path, changes: Sequence[str] = ()) -> None:
        sets = [f"seed={seed}", *COMMON, *(SHORT if self.is_short else ()), f"rl.steps={steps}", *changes]
        if name != "solo":
            sets.append(f"rl.credit={name}")
        recipe = "parallel" if name == "solo" else "team-parallel"
        what = [recipe, *(word for each in sets for word in ("--set", each)), "--out", str(out)]
        if is_begun := (out / "config.toml").exists():
            what = ["--resume", str(out)]
        print(f"{out.name}: {'goes on' if is_begun else f'{steps} steps'}", flush=True)
        command = [sys.executable, "-m", "agito.cli", "train", *what]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        seconds, cpu_s = seconds_of(out)
        print(f"{out.name}: {seconds:.0f} s, {cpu_s:.0f} CPU-seconds", flush=True)


def is_done(run: Path) -> bool:
    return (run / "summary.json").exists()


def seconds_of(run: Path) -> tuple[float, float]:
    """By the clock and of CPU, over all of its processes and resumptions."""
    summary = json.loads((run / "summary.json").read_text())
    return summary["wall_s"], summary["cpu_s"]


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def sampled_tokens(run: Path) -> float:
    """In training, forks included."""
    return sum(line.get("tokens/sampled_num", 0.0) for line in lines_of(run) if line["phase"] == "rl")


def recorded(run: Path, files: str) -> list[Recorded]:
    paths = sorted((run / "trajectories").glob(f"{files}.parquet"))
    return [each for path in paths for each in read_trajectories(path)]


def held_out(run: Path, families: Sequence[str]) -> list[Attempt]:
    """Attempts after training; a void one counts as a failure, so that nobody gains by it."""
    attempts = [each.attempt for each in recorded(run, "after-*")]
    return [each for each in attempts if each.trajectory.task.family in families]


def success(attempts: Sequence[Attempt]) -> list[Json]:
    won = sum(attempt.verdict.scores.get("success") == 1.0 for attempt in attempts)
    low, high = clopper_pearson(won, len(attempts))
    return [round(won / max(len(attempts), 1), 4), round(low, 4), round(high, 4)]


def difference(one: Sequence[Attempt], other: Sequence[Attempt]) -> list[Json]:
    """Of success, with its normal interval."""
    if not (one and other):
        return [None, None, None]
    rates = [fmean(attempt.verdict.scores.get("success", 0.0) for attempt in each) for each in (one, other)]
    variance = sum(p * (1 - p) / len(each) for p, each in zip(rates, (one, other), strict=True))
    gap, half = rates[0] - rates[1], Z * math.sqrt(variance)
    return [round(value, 4) for value in (gap, gap - half, gap + half)]


def critical(attempts: Sequence[Attempt]) -> float:
    return fmean([attempt.trajectory.num_critical for attempt in attempts] or [math.nan])


def ratio(one: float, other: float) -> Json:
    return round(one / other, 3) if other and math.isfinite(one / other) else None


def is_shared(trajectory: Trajectory) -> bool:
    return any(segment.spawned_by is not None for segment in trajectory.segments)


def spawn_share(attempts: Sequence[Attempt]) -> Json:
    return round(fmean(is_shared(each.trajectory) for each in attempts), 3) if attempts else None


def mean_square(run: Path) -> float:
    """Of the advantages of the tokens that the first step was trained on."""
    squares = [
        value * value
        for each in recorded(run, "rl-00000")
        for stats in each.stats
        if stats.advantages is not None
        for value in stats.advantages
        if value
    ]
    return fmean(squares) if squares else 0.0


async def scripted(run: Path, families: Sequence[str], num: int, skill: float) -> list[Attempt]:
    """The fixed split on held-out tasks, in the tokens of this run's vocabulary."""
    environment, directory = ParallelEnvironment(), load_policy.find(run)
    recipe = load_policy.recipe_of(directory)
    levels = recipe.env.levels or environment.levels
    spec = AgentSpec(renderer=renderer(Dialect.COMPACT, Vocabulary.read(directory)))
    runner = AttemptRunner(
        environment,
        TeamHarness(TeamRules(roles=TEAM_ROLES)),
        dict.fromkeys(TEAM_ROLES, spec),
        seed=recipe.seed,
    )
    plan = Plan(
        task=lambda group: environment.task(
            split="heldout",
            index=group,
            seed=recipe.seed,
            family=families[group % len(families)],
            level=levels[group // len(families) % len(levels)],
        ),
        script=lambda task, target, attempt: environment.fixed_split(
            task, target, role=TEAM_ROLES[1], skill=skill, seed=attempt.group
        ),
    )
    return [await runner.run(plan, AttemptId(group=group, slot=0), None) for group in range(num)]


async def by_scripts(bench: Bench, seeds: Sequence[int]) -> list[Attempt]:
    """The fixed split on as many tasks as the runs are evaluated on, by hands like the demonstrator's."""
    run = bench.arm(CREDIT[0], seeds[0])
    num = max(len(held_out(run, HIGH)) * len(seeds), 30)
    return await scripted(run, HIGH, num, load_policy.recipe_of(load_policy.find(run)).sft.skill)


async def found_planted(bench: Bench) -> tuple[list[str], dict[str, Json]]:
    return await planted(1 if bench.is_short else 5, 4 if bench.is_short else 16)


async def planted(num_groups: int, forks: int) -> tuple[list[str], dict[str, Json]]:
    """Estimators that put the seer above the idler above the liar, and the mean credit of each by replay."""
    groups = [await planted_group(number, size=4, forks=forks) for number in range(num_groups)]
    found: list[str] = []
    for name, credit in CREDITS.items():
        means = {agent: list[float]() for agent in SAID}
        for group in groups:
            for sample in credit(group, running_mean=math.nan):
                if sample.attempt.slot < 4 and sample.segment:
                    means[list(SAID)[sample.segment - 1]] += [each for each in sample.advantages if each]
        seer, idler, liar = (fmean(means[agent] or [0.0]) for agent in SAID)
        found += [name] if seer > idler + 0.1 and idler > liar + 0.1 else []
    measured = [agent_credits(attempt, group) for group in groups for attempt in group.trusted]
    by_agent: dict[str, Json] = {
        agent: round(fmean(each[f"worker-0.{at}"] for each in measured), 3) for at, agent in enumerate(SAID)
    }
    return found, {by_replay.__name__: by_agent}


def of_credit(bench: Bench, seeds: Sequence[int]) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for name in CREDIT:
        runs = [bench.arm(name, seed) for seed in seeds]
        lines = [line for run in runs for line in lines_of(run)]
        found[name] = {
            "value": success([each for run in runs for each in held_out(run, HIGH)]),
            "variance": round(fmean(map(mean_square, runs)), 4),
            "tokens": sum(map(sampled_tokens, runs)),
            "fork_tokens": sum(line.get("fork/tokens_num", 0.0) for line in lines),
        }
    return found


def figures_of(bench: Bench, seeds: Sequence[int]) -> tuple[dict[str, Json], dict[str, Json]]:
    solo, team = ([bench.arm(name, seed) for seed in seeds] for name in ("solo", CREDIT[0]))
    of_solo, of_team = (
        {name: [each for run in runs for each in held_out(run, (name,))] for name in PHI}
        for runs in (solo, team)
    )
    high_solo, high_team = ([each for name in HIGH for each in of[name]] for of in (of_solo, of_team))
    fixed = anyio.run(by_scripts, bench, seeds)
    perfect = anyio.run(scripted, team[0], HIGH, 30, 1.0)
    found, by_agent = run_async(lambda: found_planted(bench))
    leaks = [
        each.attempt.trajectory.detail.startswith(LEAKED)
        for name in CREDIT
        for seed in seeds
        for each in recorded(bench.arm(name, seed), "*")
    ]
    figures: dict[str, Json] = {
        "team": success(high_team),
        "solo": success(high_solo),
        "scripted": success(fixed),
        "critical_tokens_ratio": ratio(critical(high_team), critical(high_solo)),
        "phi0_difference": difference(of_team[NONE], of_solo[NONE]),
        "phi0_spawn_share": spawn_share(of_team[NONE]),
        "credit": of_credit(bench, seeds),
        "planted_found": found,
        "canary_leaks": sum(leaks),
    }
    detail: dict[str, Json] = {
        "seeds": list(seeds),
        "tokens": {"solo": sum(map(sampled_tokens, solo)), "team": sum(map(sampled_tokens, team))},
        "by_phi": {name: by_phi(of_solo[name], of_team[name]) for name in PHI},
        "scripted_perfect": {"success": success(perfect), "critical": round(critical(perfect), 1)},
        "planted_credit": by_agent,
        "scripted_critical": round(critical(fixed), 1),
        "episodes": len(leaks),
        "seconds": {
            name: [[round(each) for each in seconds_of(bench.arm(name, seed))] for seed in seeds]
            for name in ARMS
        },
    }
    return figures, detail


def by_phi(solo: Sequence[Attempt], team: Sequence[Attempt]) -> Mapping[str, Json]:
    return {
        "solo": success(solo),
        "team": success(team),
        "critical": [round(critical(solo), 1), round(critical(team), 1)],
        "spawn_share": spawn_share(team),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/team"))
    parser.add_argument("--only", choices=(*ARMS, *PARTS), action="append", default=[])
    parser.add_argument("--seed", type=int, action="append", default=[])
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    bench = Bench(runs=options.runs, is_short=options.short)
    seeds = options.seed or range(1 if options.short else options.seeds)
    for name in options.only or ARMS:
        if name == "planted":
            print(json.dumps(run_async(lambda: found_planted(bench))))
        elif name == "scripted":
            print(json.dumps({"scripted": success(anyio.run(by_scripts, bench, seeds))}))
        else:
            for seed in seeds:
                bench.arm(name, seed)
    if not options.only and not options.seed:
        report("team-short" if options.short else "team", *figures_of(bench, seeds))


if __name__ == "__main__":
    main()
