"""Success against compute: one checkpoint at each effort of its recipe, on the same held-out tasks.

    python benchmarks/effort.py [--seeds 5] [--first-seed 0] [--only chain] [--runs runs/effort] [--short]

Trains the recipe of each row (`think`, `think-errand`; with `--only smollm2` the real model of
`think-smollm2`) for each seed that is not there yet, then asks for each effort. What counts, and how it is
analysed, is in `docs/decisions/effort.md`, which was committed before. Every turn is counted again from its
recorded tokens. What is done is kept in the directory of the run, under `measured/`: killed at any time, the
same command goes on. `--short`: one seed of each with a fraction of the demonstrations, in a few minutes; its
curve says nothing.
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
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from tokenizers import Tokenizer

from agito.concurrency import run
from agito.evaluation.adaptivity import Paired, adaptivity, by_difficulty, spearman
from agito.evaluation.effort import evaluate_efforts, measures_of
from agito.learning.modes import mode_of
from agito.protocols import ShowsDifficulty
from agito.recipe import Recipe
from agito.record.events import ignore
from agito.render.vocabulary import END_THINK, THINK
from agito.runtime import load_policy
from agito.runtime.run_context import environment_of
from agito.sampling.thinking_budget import whole_turns
from agito.types import Attempt, Effort, Mode
from harness import RESULTS, Json, report

RECIPES = {"chain": "think", "errand": "think-errand"}  # by family
REAL = {"smollm2": "think-smollm2"}  # an hour a seed, so only when it is asked for
DRAWS, SLACK = 2000, 0.01
MEASURES: tuple[str, ...] = ("success", "think_tokens", "cost", "u", "leaked")
SHORT = ("sft.demos=600", "rl.steps=2", "eval.structural_tasks=20", "eval.baseline_tasks=20", "eval.tasks=40")
Row = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One checkpoint at one effort on one split: a row for each task, None for a void attempt."""

    rows: Sequence[Row | None]
    levels: Sequence[int]
    shown: Sequence[str]  # what each task's prompt tells
    num_turns: int
    over_budget: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """One run."""

    held_out: Mapping[Effort, Piece]
    structural: Mapping[Effort, Piece]
    summary: Mapping[str, Any]

    @property
    def levels(self) -> Sequence[int]:
        return self.held_out[Effort.HIGH].levels

    @property
    def pieces(self) -> list[Piece]:
        return [*self.held_out.values(), *self.structural.values()]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument(
        "--only", choices=[*RECIPES, *REAL], help="one row; what is known of the others is kept"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/effort"))
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    numbers = range(options.first_seed, options.first_seed + (1 if options.short else options.seeds))
    name = "effort-short" if options.short else "effort"
    kept = RESULTS / f"{name}.json"
    before = (
        json.loads(kept.read_text()) if kept.exists() else {"figures": {"environments": {}}, "detail": {}}
    )
    figures, detail = before["figures"]["environments"], before["detail"]
    for family in [options.only] if options.only else RECIPES:
        changes = SHORT if options.short else ()
        recipe = (RECIPES | REAL)[family]
        seeds = [one_seed(recipe, number, options.runs, changes) for number in numbers]
        figures[family], detail[family] = analysed(seeds)
        detail[family]["seeds"] = list(numbers)
    totals = {key: sum(each[key] for each in detail.values()) for key in ("over_budget", "turns")}
    report(name, {"environments": figures} | totals, detail)


def one_seed(recipe_name: str, number: int, runs: Path, changes: Sequence[str]) -> Seed:
    out = runs / f"{recipe_name}{'-short' if changes else ''}-{number}"
    if not (out / "summary.json").exists():
        sets = [word for change in (f"seed={number}", *changes) for word in ("--set", change)]
        how = ["--resume", str(out)] if out.exists() else [recipe_name, *sets, "--out", str(out)]
        command = [sys.executable, "-m", "agito.cli", "train", *how]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    recipe = load_policy.recipe_of(load_policy.find(out))
    sizes = {"heldout": recipe.eval.tasks, "structural": recipe.eval.structural_tasks}
    found = {
        split: {effort: piece(out, recipe, split, effort, num) for effort in recipe.effort.settings}
        for split, num in sizes.items()
    }
    summary = json.loads((out / "summary.json").read_text())
    return Seed(held_out=found["heldout"], structural=found["structural"], summary=summary)


def piece(out: Path, recipe: Recipe, split: str, effort: Effort, num_tasks: int) -> Piece:
    """As it was measured before, or now."""
    kept = out / "measured" / f"{split}-{effort}-{num_tasks}.json"
    if kept.exists():
        return Piece(**json.loads(kept.read_text()))
    directory = load_policy.find(out)

    async def measured() -> tuple[Attempt, ...]:
        _, attempts = await evaluate_efforts(
            directory, recipe, ignore, split=split, num_tasks=num_tasks, temperature=1.0, efforts=(effort,)
        )
        return attempts[effort]

    attempts, environment = run(measured), environment_of(recipe)
    tasks = [attempt.trajectory.task for attempt in attempts]
    counted = [recount(attempt, directory) for attempt in attempts]
    shows = environment if isinstance(environment, ShowsDifficulty) else None
    found = Piece(
        rows=[_row(attempt, recipe) for attempt in attempts],
        levels=[task.level for task in tasks],
        shown=[shows.shown(task) if shows else task.cell for task in tasks],
        num_turns=sum(turns for turns, _ in counted),
        over_budget=sum(over for _, over in counted),
    )
    kept.parent.mkdir(exist_ok=True)
    partial = kept.with_suffix(".part")
    partial.write_text(json.dumps(asdict(found)))
    partial.rename(kept)
    return found


def _row(attempt: Attempt, recipe: Recipe) -> Row | None:
    """C as it was decided beforehand: what leaks is beside it, not in it."""
    if not attempt.is_scored:
        return None
    found, section = measures_of(attempt, recipe.effort), recipe.effort
    cost = found["think_tokens"] + section.call_cost * found["calls"] + section.turn_cost * found["turns"]
    thinks = float(mode_of(attempt.trajectory) is Mode.THINK)
    return found | {
        "cost": cost,
        "u": attempt.verdict.reward - section.utility_price * cost,
        "thinks": thinks,
    }


def recount(attempt: Attempt, directory: Path) -> tuple[int, int]:
    """Turns, and those over their budget, by what stands between the tags of the recorded text."""
    tokens = attempt.trajectory.segments[0].tokens
    pieces = _pieces(directory, tokens.ids)
    turns, over = whole_turns(attempt.trajectory.turns), 0
    for turn in turns:
        start, stop = turn[0].start, turn[-1].stop
        is_inside = "".join(pieces[max(start - 8, 0) : start]).rstrip().endswith(THINK)
        num = _num_inside(pieces[start:stop], is_inside=is_inside)
        budget = turn[0].think_budget
        over += budget is not None and num > budget
    return len(turns), over


def _num_inside(pieces: Sequence[str], *, is_inside: bool) -> int:
    """Tokens of which a character stands between tags; what ends a turn is no thought."""
    text = (THINK if is_inside else "") + "".join(pieces)
    inside, stop = bytearray(len(text)), 0
    while (start := text.find(THINK, stop)) >= 0:
        start += len(THINK)
        stop = text.find(END_THINK, start) if END_THINK in text[start:] else len(text)
        inside[start:stop] = b"\1" * (stop - start)
    num, at = 0, len(text) - sum(map(len, pieces))
    for piece in pieces:
        num += any(inside[at : at + len(piece)])
        at += len(piece)
    return num - (bool(pieces) and pieces[-1].startswith("<|") and inside[-1:] == b"\1")


def _pieces(directory: Path, ids: Sequence[int]) -> list[str]:
    """The text of each token, special ones too."""
    tokenizer = _tokenizer(directory)
    return [tokenizer.decode([each], skip_special_tokens=False) for each in ids]


@cache
def _tokenizer(directory: Path) -> Tokenizer:
    return Tokenizer.from_file(str(directory / "tokenizer.json"))


def analysed(seeds: Sequence[Seed]) -> tuple[dict[str, Json], dict[str, Json]]:
    efforts = [effort for effort in Effort if effort in seeds[0].held_out]
    row = [effort for effort in efforts if effort is not Effort.AUTO]
    draws = [_drawn(seeds, efforts, random.Random(f"effort/{draw}")) for draw in range(DRAWS)]
    point = {
        effort: {m: fmean(fmean(_values(seed.held_out[effort].rows, m)) for seed in seeds) for m in MEASURES}
        for effort in efforts
    }
    table: dict[str, Json] = {
        effort.value: {m: _interval(point[effort][m], [draw[effort][m] for draw in draws]) for m in MEASURES}
        for effort in efforts
    }
    falls = [any(two - one < -SLACK for one, two in _pairs(draw, row)) for draw in draws]
    gaps = [draw[row[-1]]["success"] - draw[row[0]]["success"] for draw in draws]
    gap = point[row[-1]]["success"] - point[row[0]]["success"]
    capture, auto = _adaptivity(seeds) if Effort.AUTO in efforts else (None, None)
    figures: dict[str, Json] = {
        "efforts": table,
        "tau_cost": round(tau_b([point[effort]["cost"] for effort in row]), 4),
        "tau_success": round(tau_b([point[effort]["success"] for effort in row]), 4),
        "violations": round(fmean(falls), 4),
        "gap": _interval(gap, gaps),
        "capture": capture,
        "spearman": _follows(seeds) if Effort.AUTO in efforts else None,
        "adaptivity": auto,
    }
    return figures, _detail(seeds, efforts, point)


def _detail(seeds: Sequence[Seed], efforts: Sequence[Effort], point: Mapping[Effort, Row]) -> dict[str, Json]:
    full = point[Effort.HIGH]
    return {
        "by_level": {effort.value: _by_level(seeds, effort) for effort in efforts},
        "shares": {effort.value: round(point[effort]["cost"] / full["cost"], 4) for effort in efforts},
        "structural": {
            effort.value: round(
                fmean(fmean(_values(seed.structural[effort].rows, "success")) for seed in seeds), 4
            )
            for effort in efforts
        },
        "over_budget": sum(each.over_budget for seed in seeds for each in seed.pieces),
        "turns": sum(each.num_turns for seed in seeds for each in seed.pieces),
        "void": sum(row is None for seed in seeds for each in seed.pieces for row in each.rows),
        "scripts": [
            {script: each["success"] for script, each in seed.summary.get("baselines", {}).items()}
            for seed in seeds
        ],
        "wall_s": [seed.summary["wall_s"] for seed in seeds],
        "cpu_s": [seed.summary["cpu_s"] for seed in seeds],
        "load": [seed.summary["load"] for seed in seeds],
    }


def _adaptivity(seeds: Sequence[Seed]) -> tuple[Json, Json]:
    """Capture, null where there is too little to adapt to; and what it is made of."""
    found = adaptivity(
        [
            Paired(
                shown=seed.held_out[Effort.AUTO].shown,
                fixed={
                    effort: [math.nan if row is None else row["u"] for row in each.rows]
                    for effort, each in seed.held_out.items()
                    if effort is not Effort.AUTO
                },
                auto=[math.nan if row is None else row["u"] for row in seed.held_out[Effort.AUTO].rows],
            )
            for seed in seeds
        ],
        draws=DRAWS,
    ).to_json()
    return found["capture"], found


def _follows(seeds: Sequence[Seed]) -> Json:
    """Rank correlations with the level: of how often `auto` thinks, and of its think tokens over `high`'s."""
    thinks = _mean_by_level(seeds, Effort.AUTO, "thinks")
    own, full = (_mean_by_level(seeds, each, "think_tokens") for each in (Effort.AUTO, Effort.HIGH))
    ratios = {level: each / full[level] for level, each in own.items() if full.get(level)}
    found = {"p_think": thinks, "think_ratio": ratios}
    return {
        name: round(rho, 4) if math.isfinite(rho := spearman([*map(float, each)], [*each.values()])) else None
        for name, each in found.items()
        if each
    }


def _mean_by_level(seeds: Sequence[Seed], effort: Effort, measure: str) -> dict[int, float]:
    rows = [
        (level, row[measure])
        for seed in seeds
        for level, row in zip(seed.held_out[effort].levels, seed.held_out[effort].rows, strict=True)
        if row is not None
    ]
    return by_difficulty((level for level, _ in rows), (value for _, value in rows))


def _pairs(draw: Mapping[Effort, Row], efforts: Sequence[Effort]) -> list[tuple[float, float]]:
    found = [draw[effort]["success"] for effort in efforts]
    return list(itertools.pairwise(found))


def _values(rows: Sequence[Row | None], measure: str) -> list[float]:
    return [row[measure] for row in rows if row is not None]


def _drawn(
    seeds: Sequence[Seed], efforts: Sequence[Effort], rng: random.Random
) -> dict[Effort, dict[str, float]]:
    """Means over seeds drawn anew, and tasks drawn anew in each; efforts share the draw."""
    sums = {effort: dict.fromkeys(MEASURES, 0.0) for effort in efforts}
    for _ in seeds:
        seed = rng.choice(seeds)
        places = rng.choices(range(len(seed.levels)), k=len(seed.levels))
        for effort in efforts:
            rows = [row for at in places if (row := seed.held_out[effort].rows[at]) is not None]
            for measure in MEASURES:
                sums[effort][measure] += fmean(row[measure] for row in rows) / len(seeds)
    return sums


def _by_level(seeds: Sequence[Seed], effort: Effort) -> dict[str, Json]:
    names = ("success", "cost", *(("thinks",) if effort is Effort.AUTO else ()))
    means = {name: _mean_by_level(seeds, effort, name) for name in names}
    return {
        str(level): {name: round(means[name][level], 4) for name in names}
        for level in sorted(means["success"])
    }


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
