"""Thinking between calls against thinking before the first one, at equal think tokens, and against none.

    python benchmarks/interleave.py [--seeds 3] [--first-seed 0] [--only carry] [--runs DIR] [--short]

Trains `replan` for each family, arm and seed that is not there yet. Arms differ in the turns in which a
policy may think, and in where demonstrators do: `none`; `first`, before the first call; `after_faults`, there
and after a call that failed; `every` turn. All have the same budget of think tokens. What counts, and how it
is analysed, is in `docs/decisions/effort.md`, which was committed before.

`recovery_slipped` and `recovery_stuck`: success where that setback is in the task. `every_less_first`: the
difference in success on the same tasks. Each figure has its 95% interval, over seeds and tasks.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from agito.record import read_trajectories
from agito.types import Attempt, ThinkingTurns
from harness import Json, report

FAMILIES = ("carry", "dial")
NONE = "none"
ARMS = (
    NONE,
    *(each.value for each in (ThinkingTurns.FIRST, ThinkingTurns.AFTER_FAULTS, ThinkingTurns.EVERY)),
)
DRAWS = 2000
SHORT = ("sft.demos=600", "rl.steps=2", "eval.structural_tasks=20", "eval.baseline_tasks=20", "eval.tasks=60")
KINDS = ("slipped", "stuck")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One task of one run; void attempts are failures."""

    task: str
    tag: str
    success: float
    think_tokens: float
    calls: float


Draw = Sequence[tuple[int, Sequence[int]]]  # seeds, each with tasks


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only", choices=FAMILIES)
    parser.add_argument("--runs", type=Path, default=Path("runs/interleave"))
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    numbers = range(options.first_seed, options.first_seed + (1 if options.short else options.seeds))
    figures, detail = dict[str, Json](), dict[str, Json]()
    for family in [options.only] if options.only else FAMILIES:
        runs = {
            arm: [trained(family, arm, seed, options.runs, short=options.short) for seed in numbers]
            for arm in ARMS
        }
        figures[family] = analysed({arm: [rows_of(out) for out in outs] for arm, outs in runs.items()})
        detail[family] = {arm: [_about(out) for out in outs] for arm, outs in runs.items()}
    name = "interleave-short" if options.short else "interleave"
    report(name, {"environments": figures}, {"seeds": [*numbers], "runs": detail})


def trained(family: str, arm: str, seed: int, runs: Path, *, short: bool) -> Path:
    out = runs / f"{family}-{arm}{'-short' if short else ''}-{seed}"
    if (out / "summary.json").exists():
        return out
    asked = ('effort.settings=["none"]', "effort.acts_at=none") if arm == NONE else (f"effort.turns={arm}",)
    changes = (f'env.families=["{family}"]', f"seed={seed}", *asked, *(SHORT if short else ()))
    sets = [word for change in changes for word in ("--set", change)]
    how = ["--resume", str(out)] if (out / "checkpoints").exists() else ["replan", *sets, "--out", str(out)]
    command = [sys.executable, "-m", "agito.cli", "train", *how]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    return out


def rows_of(out: Path) -> list[Row]:
    """Of the held-out tasks after RL, in their order."""
    found = [
        _row(each.attempt)
        for path in sorted((out / "trajectories").glob("after-*.parquet"))
        for each in read_trajectories(path)
    ]
    return sorted(found, key=lambda row: row.task)


def _row(attempt: Attempt) -> Row:
    trajectory = attempt.trajectory
    (tag,) = trajectory.task.tags
    return Row(
        task=trajectory.task.id,
        tag=tag,
        success=attempt.verdict.scores.get("success", 0.0) if attempt.is_scored else 0.0,
        think_tokens=float(sum(turn.num_thought for turn in trajectory.turns if not turn.continues)),
        calls=float(len(trajectory.events)),
    )


def analysed(arms: Mapping[str, Sequence[Sequence[Row]]]) -> dict[str, Json]:
    """`arms`: by arm and seed, rows of the same tasks."""
    first = arms[ARMS[0]]
    for seeds in arms.values():
        for rows, others in zip(seeds, first, strict=True):
            if [row.task for row in rows] != [row.task for row in others]:
                raise SystemExit("the arms were asked different tasks")
    rng = random.Random("interleave")
    draws: list[Draw] = [
        [(at, range(len(rows))) for at, rows in enumerate(first)]
    ]  # as it is, then drawn anew
    for _ in range(DRAWS):
        chosen = rng.choices(range(len(first)), k=len(first))
        draws.append([(at, rng.choices(range(len(first[at])), k=len(first[at]))) for at in chosen])

    def interval(of: Callable[[Draw], float]) -> list[Json]:
        point, *others = map(of, draws)
        others.sort()
        return [round(value, 4) for value in (point, others[DRAWS // 40], others[-1 - DRAWS // 40])]

    found: dict[str, Json] = {
        arm: {
            "success": interval(lambda draw, arm=arm: _mean(arms[arm], draw, lambda row: row.success)),
            **{
                f"recovery_{kind}": interval(
                    lambda draw, arm=arm, kind=kind: _mean(arms[arm], draw, lambda row: row.success, kind)
                )
                for kind in KINDS
            },
            "think_tokens": interval(
                lambda draw, arm=arm: _mean(arms[arm], draw, lambda row: row.think_tokens)
            ),
            "calls": interval(lambda draw, arm=arm: _mean(arms[arm], draw, lambda row: row.calls)),
        }
        for arm in arms
    }
    pairs = {"first": ThinkingTurns.FIRST.value, "after_faults": ThinkingTurns.AFTER_FAULTS.value, NONE: NONE}
    for name, arm in pairs.items():
        found[f"every_less_{name}"] = interval(
            lambda draw, arm=arm: (
                _mean(arms[ThinkingTurns.EVERY.value], draw, lambda row: row.success)
                - _mean(arms[arm], draw, lambda row: row.success)
            )
        )
    return found


def _mean(seeds: Sequence[Sequence[Row]], draw: Draw, value: Callable[[Row], float], tag: str = "") -> float:
    """Of each seed, then over seeds."""
    means = [
        fmean(values)
        for at, places in draw
        if (values := [value(seeds[at][place]) for place in places if not tag or seeds[at][place].tag == tag])
    ]
    return fmean(means)


def _about(out: Path) -> dict[str, Any]:
    summary = json.loads((out / "summary.json").read_text())
    keys = (
        "success_before",
        "success_after",
        "success_structural",
        "wall_s",
        "cpu_s",
        "void_attempts",
        "load",
    )
    return {key: summary.get(key) for key in keys}


if __name__ == "__main__":
    main()
