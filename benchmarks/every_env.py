"""Every environment trains: held-out success and decisions before and after RL, from random weights.

    python benchmarks/every_env.py [--only NAME]... [--seeds 1] [--short] [--runs DIR]

A run counts as raised if success grows by at least .2 and the two 95 % intervals do not overlap; a recipe if
all its seeds' runs are. Success is pooled over the tasks of all seeds, with the exact 95 % interval; single
seeds are listed beside it. Runs are made one after the other, each in its own processes; a run already in DIR
is read, not repeated. Use an idle machine: wall times (medians over seeds) are part of the result.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import agito
from agito.record import clopper_pearson
from harness import RESULTS, report

_NOT_HERE = {"smoke", "shell", "smollm2-shell"}  # the quickstart stands for their environment
_SHORT = ("eval.tasks=150", "eval.structural_tasks=60", "eval.baseline_tasks=30", "rl.steps=12")
_GAIN = 0.2
_EVALUATIONS = ("before", "after", "structural")


def recipes() -> list[str]:
    return sorted(
        path.stem
        for path in (Path(agito.__file__).parent / "recipes").glob("*.toml")
        if path.stem not in _NOT_HERE
    )


def train(name: str, out: Path, *, seed: int, is_short: bool) -> dict[str, Any]:
    """The run's summary."""
    if not (out / "summary.json").exists():
        sets = [
            word
            for override in (f"seed={seed}", *(_SHORT if is_short else ()))
            for word in ("--set", override)
        ]
        command = [sys.executable, "-m", "agito.cli", "train", name, "--out", str(out), *sets]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    return json.loads((out / "summary.json").read_text())


def decisions(out: Path) -> dict[str, Any]:
    """The scorecard before and after RL, on the run's own held-out tasks; empty for an environment without
    measures.
    """
    command = [
        sys.executable,
        "-m",
        "agito.cli",
        "eval",
        str(out / "checkpoints/step-0"),
        str(out),
        "--suite",
        "decisions",
        "--json",
    ]
    card = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )
    return {
        name: {
            column: [measure[key]["value"], measure[key]["low"], measure[key]["high"]]
            for key, column in _COLUMNS.items()
        }
        for name, measure in card["measures"].items()
    }


_COLUMNS = {"step-0": "before", "final": "after", "optimum": "optimum", "random": "random"}


def rounded(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: rounded(value) for name, value in values.items()}
    if isinstance(values, list):
        return [rounded(value) for value in values]
    return round(values, 4) if isinstance(values, float) else values


def counts(out: Path) -> dict[str, tuple[int, int]]:
    """Successes and scored attempts of each evaluation."""
    lines = [
        line
        for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        if line["phase"] in _EVALUATIONS
    ]
    return {line["phase"]: (int(line["success/successes"]), int(line["success/num"])) for line in lines}


def rate(pairs: list[tuple[int, int]]) -> list[float] | None:
    """The pooled rate with its exact 95 % interval; None if nothing was scored."""
    successes, num = map(sum, zip(*pairs, strict=True))
    return [successes / num, *clopper_pearson(successes, num)] if num else None


def is_raised(before: list[float] | None, after: list[float] | None) -> bool:
    return before is not None and after is not None and after[0] - before[0] >= _GAIN and after[1] > before[2]


def figures_of(summaries: list[dict[str, Any]], outs: list[Path]) -> dict[str, Any]:
    found = [counts(out) for out in outs]
    single = [[rate([each.get(phase, (0, 0))]) for phase in _EVALUATIONS] for each in found]
    return {
        **{phase: rate([each.get(phase, (0, 0)) for each in found]) for phase in _EVALUATIONS},
        "is_raised": all(is_raised(before, after) for before, after, _ in single),
        "seeds": [[value[0] if value else None for value in each] for each in single],
        "wall_s": statistics.median(summary["wall_s"] for summary in summaries),
        "cpu_s": statistics.median(summary["cpu_s"] for summary in summaries),
        "baselines": {name: each["success"] for name, each in summaries[0]["baselines"].items()},
        "commit": summaries[0]["commit"][:7],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="again for more")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/every_env"))
    parser.add_argument(
        "--short", action="store_true", help="fewer steps of RL and fewer tasks: does it learn, not how far"
    )
    options = parser.parse_args()
    found: dict[str, Any] = {}
    detail: dict[str, Any] = {}
    for name in options.only or recipes():
        outs = [
            options.runs / "-".join([name, *(["short"] if options.short else []), str(seed)])
            for seed in range(options.seeds)
        ]
        summaries = [train(name, out, seed=seed, is_short=options.short) for seed, out in enumerate(outs)]
        config = tomllib.loads((outs[0] / "config.toml").read_text())
        found[name] = rounded(figures_of(summaries, outs))
        measured = [rounded(decisions(out)) for out in outs] if config["env"]["name"] == "decisions" else []
        detail[name] = {
            "by_cell": [rounded(summary["by_cell"]) for summary in summaries],
            "load": [summary["load"] for summary in summaries],
            "decisions": measured,
        }
        print(f"{name}: {found[name]['seeds']} in {found[name]['wall_s']:.0f} s", flush=True)
    file = "every_env" if not options.short else "every_env-short"
    if options.only and (RESULTS / f"{file}.json").exists():  # keeps earlier results of the others
        kept = json.loads((RESULTS / f"{file}.json").read_text())
        found, detail = kept["figures"] | found, kept["detail"] | detail
    report(file, found, detail)


if __name__ == "__main__":
    main()
