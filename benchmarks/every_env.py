"""Every environment trains: held-out success before and after RL, from random weights, and how the policy decides before and after.

    python benchmarks/every_env.py [--only NAME]... [--short] [--runs DIR]

A recipe is `raised` when success grows by at least .2 and the two 95 % intervals do not overlap. One run after the other, each in processes
of its own; a run that is already in DIR is read, not repeated. Run it on an idle machine: the wall times are part of the result.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import agito
from harness import report

_NOT_HERE = {"smoke", "shell-full"}  # the quickstart stands for their environment
_SHORT = ("eval.tasks=150", "eval.structural_tasks=60", "eval.baseline_tasks=30", "rl.steps=12")
_GAIN = 0.2


def recipes() -> list[str]:
    return sorted(path.stem for path in (Path(agito.__file__).parent / "recipes").glob("*.toml") if path.stem not in _NOT_HERE)


def train(name: str, out: Path, *, is_short: bool) -> dict[str, Any]:
    """The run's summary."""
    if not (out / "summary.json").exists():
        sets = [word for override in (_SHORT if is_short else ()) for word in ("--set", override)]
        command = [sys.executable, "-m", "agito.cli", "train", name, "--out", str(out), *sets]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    return json.loads((out / "summary.json").read_text())


def decisions(out: Path) -> dict[str, Any]:
    """The scorecard before and after RL, on the run's own held-out tasks; empty for an environment without measures."""
    command = [sys.executable, "-m", "agito.cli", "eval", str(out / "checkpoints/step-0"), str(out), "--suite", "decisions", "--json"]
    card = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    return {
        name: {column: [measure[key]["value"], measure[key]["low"], measure[key]["high"]] for key, column in _COLUMNS.items()}
        for name, measure in card["measures"].items()
    }


_COLUMNS = {"step-0": "before", "final": "after", "optimum": "optimum", "random": "random"}


def rounded(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: rounded(value) for name, value in values.items()}
    if isinstance(values, list):
        return [rounded(value) for value in values]
    return round(values, 4) if isinstance(values, float) else values


def figures_of(summary: dict[str, Any]) -> dict[str, Any]:
    def interval(name: str) -> list[float]:
        return [summary[name], summary[f"{name}_low"], summary[f"{name}_high"]]

    before, after = interval("success_before"), interval("success_after")
    return {
        "before": before,
        "after": after,
        "structural": interval("success_structural"),
        "is_raised": after[0] - before[0] >= _GAIN and after[1] > before[2],
        "wall_s": summary["wall_s"],
        "cpu_s": summary["cpu_s"],
        "baselines": {name: found["success"] for name, found in summary["baselines"].items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="again for more")
    parser.add_argument("--runs", type=Path, default=Path("runs/every_env"))
    parser.add_argument("--short", action="store_true", help="fewer steps of RL and fewer tasks: does it learn, not how far")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    detail: dict[str, Any] = {}
    for name in options.only or recipes():
        out = options.runs / (f"{name}-short" if options.short else name)
        summary = train(name, out, is_short=options.short)
        found[name] = rounded(figures_of(summary))
        measured = rounded(decisions(out)) if 'name = "decisions"' in (out / "config.toml").read_text() else {}
        detail[name] = {"by_cell": rounded(summary["by_cell"]), "load": summary["load"], "decisions": measured}
        print(f"{name}: {found[name]['before']} to {found[name]['after']} in {summary['wall_s']:.0f} s", flush=True)
    report("every_env" if not options.short else "every_env-short", found, detail)


if __name__ == "__main__":
    main()
