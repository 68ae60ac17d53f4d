"""Success against compute: one checkpoint at four efforts, on the same held-out tasks.

    python benchmarks/effort.py [--seeds 5] [--first-seed 0] [--runs runs/effort] [--short]

Trains `think` for each seed that is not there yet, then asks for each effort. What counts, and how it is
analysed, is in `docs/decisions/effort.md`, which was committed before. Every turn is counted again from its
recorded tokens. `--short`: one seed with a fraction of the demonstrations, in two minutes; its curve says
nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from agito.concurrency import run
from agito.evaluation.effort import evaluate_efforts, measures_of
from agito.record.events import ignore
from agito.render import Vocabulary
from agito.render.vocabulary import END, END_THINK, THINK
from agito.runtime import load_policy
from agito.sampling.thinking_budget import whole_turns
from agito.types import Attempt, Effort
from harness import Json, report

PRICE = 0.002  # λ at which u is reported, in reward a think token
DRAWS, SLACK = 2000, 0.01
SHORT = ("sft.demos=600", "rl.steps=2", "eval.structural_tasks=20", "eval.baseline_tasks=20", "eval.tasks=40")
Row = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """One run: a row for each task at each effort, None for a void attempt."""

    rows: Mapping[Effort, Sequence[Row | None]]
    structural: Mapping[Effort, float]
    levels: Sequence[int]
    num_turns: int
    over_budget: int
    summary: Mapping[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/effort"))
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    numbers = range(options.first_seed, options.first_seed + (1 if options.short else options.seeds))
    seeds = [one_seed(number, options.runs, SHORT if options.short else ()) for number in numbers]
    figures, detail = analysed("chain", seeds)
    detail["seeds"] = list(numbers)
    report("effort-short" if options.short else "effort", figures, detail)


def one_seed(number: int, runs: Path, changes: Sequence[str]) -> Seed:
    out = runs / f"think{'-short' if changes else ''}-{number}"
    if not (out / "summary.json").exists():
        sets = [word for change in (f"seed={number}", *changes) for word in ("--set", change)]
        command = [sys.executable, "-m", "agito.cli", "train", "think", *sets, "--out", str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    directory = load_policy.find(out)
    recipe = load_policy.recipe_of(directory)

    async def measured(split: str, num_tasks: int) -> dict[Effort, tuple[Attempt, ...]]:
        _, attempts = await evaluate_efforts(
            directory, recipe, ignore, split=split, num_tasks=num_tasks, temperature=1.0
        )
        return attempts

    held_out = run(lambda: measured("heldout", recipe.eval.tasks))
    structural = run(lambda: measured("structural", recipe.eval.structural_tasks))
    counted = [
        recount(attempt, directory)
        for each in (held_out, structural)
        for own in each.values()
        for attempt in own
    ]
    return Seed(
        rows={effort: [_row(attempt, recipe) for attempt in own] for effort, own in held_out.items()},
        structural={
            effort: fmean(row["success"] for each in own if (row := _row(each, recipe)) is not None)
            for effort, own in structural.items()
        },
        levels=[attempt.trajectory.task.level for attempt in held_out[Effort.HIGH]],
        num_turns=sum(turns for turns, _ in counted),
        over_budget=sum(over for _, over in counted),
        summary=json.loads((out / "summary.json").read_text()),
    )


def _row(attempt: Attempt, recipe: Any) -> Row | None:
    if not attempt.is_scored:
        return None
    found = measures_of(attempt, recipe.effort)
    return found | {"u": attempt.verdict.reward - PRICE * found["cost"]}


def recount(attempt: Attempt, directory: Path) -> tuple[int, int]:
    """Turns, and those over their budget, by what stands between the tags of the recorded tokens."""
    vocabulary, trajectory = _vocabulary(directory), attempt.trajectory
    think, end_think = vocabulary.id(THINK), vocabulary.id(END_THINK)
    turns, over = whole_turns(trajectory.turns), 0
    for turn in turns:
        tokens = trajectory.segments[0].tokens
        inside, num = tokens.ids[turn[0].start - 1] == think, 0
        for at in range(turn[0].start, turn[-1].stop):
            token = tokens.ids[at]
            num += inside and token != end_think
            inside = token == think or (inside and token != end_think)
        num -= inside and tokens.ids[turn[-1].stop - 1] == vocabulary.id(END)  # which is no thought
        budget = turn[0].think_budget
        over += budget is not None and num > budget
    return len(turns), over


_VOCABULARIES: dict[Path, Vocabulary] = {}


def _vocabulary(directory: Path) -> Vocabulary:
    if directory not in _VOCABULARIES:
        _VOCABULARIES[directory] = Vocabulary.read(directory)
    return _VOCABULARIES[directory]


def analysed(name: str, seeds: Sequence[Seed]) -> tuple[dict[str, Json], dict[str, Json]]:
    efforts = [effort for effort in Effort if effort in seeds[0].rows]
    measures = ("success", "think_tokens", "cost", "u")
    draws = [_drawn(seeds, efforts, measures, random.Random(f"effort/{draw}")) for draw in range(DRAWS)]
    point = {
        effort: {m: fmean(fmean(_values(seed.rows[effort], m)) for seed in seeds) for m in measures}
        for effort in efforts
    }
    table: dict[str, Json] = {
        effort.value: {m: _interval(point[effort][m], [draw[effort][m] for draw in draws]) for m in measures}
        for effort in efforts
    }
    falls = [any(two - one < -SLACK for one, two in _pairs(draw, efforts)) for draw in draws]
    gaps = [draw[efforts[-1]]["success"] - draw[efforts[0]]["success"] for draw in draws]
    gap = point[efforts[-1]]["success"] - point[efforts[0]]["success"]
    figures: dict[str, Json] = {
        "environments": {
            name: {
                "efforts": table,
                "tau_cost": round(tau_b([point[effort]["cost"] for effort in efforts]), 4),
                "tau_success": round(tau_b([point[effort]["success"] for effort in efforts]), 4),
                "violations": round(fmean(falls), 4),
                "gap": _interval(gap, gaps),
                "capture": None,  # of `auto`, which is not trained yet
                "spearman": None,
            }
        },
        "over_budget": sum(seed.over_budget for seed in seeds),
        "turns": sum(seed.num_turns for seed in seeds),
        "num_seeds": len(seeds),
    }
    detail: dict[str, Json] = {
        "by_level": {effort.value: _by_level(seeds, effort) for effort in efforts},
        "shares": {
            effort.value: round(point[effort]["cost"] / point[efforts[-1]]["cost"], 4) for effort in efforts
        },
        "structural": {
            effort.value: round(fmean(seed.structural[effort] for seed in seeds), 4) for effort in efforts
        },
        "void": sum(row is None for seed in seeds for rows in seed.rows.values() for row in rows),
        "scripts": [
            {script: each["success"] for script, each in seed.summary.get("baselines", {}).items()}
            for seed in seeds
        ],
        "wall_s": [seed.summary["wall_s"] for seed in seeds],
        "cpu_s": [seed.summary["cpu_s"] for seed in seeds],
        "load": [seed.summary["load"] for seed in seeds],
    }
    return figures, detail


def _pairs(draw: Mapping[Effort, Row], efforts: Sequence[Effort]) -> list[tuple[float, float]]:
    found = [draw[effort]["success"] for effort in efforts]
    return list(itertools.pairwise(found))


def _values(rows: Sequence[Row | None], measure: str) -> list[float]:
    return [row[measure] for row in rows if row is not None]


def _drawn(
    seeds: Sequence[Seed], efforts: Sequence[Effort], measures: Sequence[str], rng: random.Random
) -> dict[Effort, dict[str, float]]:
    """Means over seeds drawn anew, and tasks drawn anew in each; efforts share the draw."""
    sums = {effort: dict.fromkeys(measures, 0.0) for effort in efforts}
    for _ in seeds:
        seed = rng.choice(seeds)
        places = rng.choices(range(len(seed.levels)), k=len(seed.levels))
        for effort in efforts:
            rows = [row for at in places if (row := seed.rows[effort][at]) is not None]
            for measure in measures:
                sums[effort][measure] += fmean(row[measure] for row in rows) / len(seeds)
    return sums


def _by_level(seeds: Sequence[Seed], effort: Effort) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for level in sorted(set(seeds[0].levels)):
        own = [
            row
            for seed in seeds
            for at, row in zip(seed.levels, seed.rows[effort], strict=True)
            if at == level and row is not None
        ]
        found[str(level)] = {m: round(fmean(row[m] for row in own), 4) for m in ("success", "cost")}
    return found


def _interval(value: float, draws: Sequence[float]) -> list[Json]:
    ordered = sorted(draws)
    low, high = (ordered[round(q * (len(ordered) - 1))] for q in (0.025, 0.975))
    return [round(value, 4), round(low, 4), round(high, 4)]


def tau_b(values: Sequence[float]) -> float:
    """Kendall's, against the order in which they come."""
    pairs = [(b > a) - (b < a) for at, a in enumerate(values) for b in values[at + 1 :]]
    untied = sum(pair != 0 for pair in pairs)
    return sum(pairs) / math.sqrt(len(pairs) * untied) if untied else math.nan


if __name__ == "__main__":
    main()
