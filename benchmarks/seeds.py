"""The quickstart over several seeds, each in its own process, and controls that use the same time otherwise.

    python benchmarks/seeds.py [--seeds 10] [--control-seeds 3] [--recipe quickstart] [--short]

A seed succeeds if held-out success after RL is at least .95, its lower bound at least .90, and no cell with n
>= 30 is below .70. Use an idle machine: wall times are part of the result.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from controls import CONTROLS
from harness import report, spread

_TARGET, _LOW, _CELL, _CELL_N = 0.95, 0.90, 0.70, 30


def train(recipe: str, seed: int, out: Path) -> dict[str, Any]:
    """The run's summary; trains unless it exists."""
    if not (out / "summary.json").exists():
        command = [
            sys.executable,
            "-m",
            "agito.cli",
            "train",
            recipe,
            "--set",
            f"seed={seed}",
            "--out",
            str(out),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    return json.loads((out / "summary.json").read_text())


def control(name: str, out: Path) -> dict[str, float]:
    """The control's result; runs unless it is stored beside the run."""
    kept = out / f"control-{name}.json"
    if not kept.exists():
        command = [sys.executable, str(Path(__file__).parent / "controls.py"), str(out), "--only", name]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        kept.write_text(json.dumps(json.loads(done.stdout.splitlines()[-1])[name]))
    return json.loads(kept.read_text())


def is_reached(summary: dict[str, Any]) -> bool:
    cells = [cell["after"] for cell in summary["by_cell"].values() if cell["num_after"] >= _CELL_N]
    return (
        summary["success_after"] >= _TARGET
        and summary["success_after_low"] >= _LOW
        and min(cells, default=1.0) >= _CELL
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--control-seeds", type=int, default=3)
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--runs", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--short", action="store_true", help="two seeds, no controls")
    options = parser.parse_args()
    seeds, control_seeds = (2, 0) if options.short else (options.seeds, options.control_seeds)
    summaries: list[dict[str, Any]] = []
    controls: dict[str, list[dict[str, float]]] = {name: [] for name in CONTROLS}
    for seed in range(seeds):
        out = options.runs / f"{options.recipe}-{seed}"
        summaries.append(train(options.recipe, seed, out))
        now = summaries[-1]
        print(
            f"{seed}: {now['success_before']:.3f} to {now['success_after']:.3f} in {now['wall_s']:.0f} s; "
            f"load {os.getloadavg()[0]:.0f}, "
            f"stolen {now.get('stolen_ratio', 0):.0%}",
            flush=True,
        )
    for seed in range(control_seeds):
        for name in CONTROLS:
            controls[name].append(control(name, options.runs / f"{options.recipe}-{seed}"))
            print(f"{seed} {name}: {controls[name][-1]['success']:.3f}", flush=True)
    figures = {
        "num_seeds": len(summaries),
        "num_reached": sum(is_reached(summary) for summary in summaries),
        "success_before_by_seed": [round(summary["success_before"], 4) for summary in summaries],
        "success_after_by_seed": [round(summary["success_after"], 4) for summary in summaries],
        "wall_s_by_seed": [round(summary["wall_s"], 1) for summary in summaries],
        "stolen_ratio_by_seed": [summary.get("stolen_ratio") for summary in summaries],
        "cpu_s_by_seed": [round(summary["cpu_s"], 1) for summary in summaries],
        "controls": {
            name: [round(found["success"], 4) for found in each] for name, each in controls.items() if each
        },
    }
    detail = {
        "recipe": options.recipe,
        "success_after": spread([summary["success_after"] for summary in summaries]),
        "wall_s": spread([summary["wall_s"] for summary in summaries]),
        "by_cell": [summary["by_cell"] for summary in summaries],
        "controls": controls,
    }
    report("seeds" if options.recipe == "quickstart" else f"seeds-{options.recipe}", figures, detail)


if __name__ == "__main__":
    main()
