"""A pre-trained language model learns to act in a real shell: zero-shot, after the cold start, after RL, and
controls that spend as long on imitation.

    python benchmarks/real_model.py [--seeds 2] [--recipe smollm2-shell] [--controls 1] [--runs DIR]

Every part is a process of its own and is kept in DIR, so that a benchmark that was stopped goes on where it
was; a run that was killed is resumed. `wall_s` and `cpu_s` cover the whole run, evaluations included;
`rss_mb` is the peak of all its processes together (shared pages counted once). `--controls` says for how many
seeds the controls run: more imitation, imitation of successes only, expert iteration, each with the CPU
seconds of RL.
Use an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from agito import config
from agito.recipe import Recipe
from controls import CONTROLS
from harness import Json, report
from seeds import control

AGITO = (sys.executable, "-m", "agito.cli")
_GLANCE_S = 5.0


def trained(recipe: str, seed: int, out: Path) -> tuple[dict[str, Any], float]:
    """The run's summary, and its peak memory in MB."""
    memory = out.with_suffix(".rss")
    if not (out / "summary.json").exists():
        begun = (
            ("--resume", str(out))
            if (out / "checkpoints").exists()
            else (recipe, "--seed", str(seed), "--out", str(out))
        )
        peak = watched((*AGITO, "train", *begun), out.with_suffix(".log"))
        before = float(memory.read_text()) if memory.exists() else 0.0
        memory.write_text(str(max(before, peak)))
    return json.loads((out / "summary.json").read_text()), float(memory.read_text())


def watched(command: Sequence[str], log: Path) -> float:
    """Runs a command to its end; returns the peak memory of its processes, in MB."""
    log.parent.mkdir(parents=True, exist_ok=True)
    peak = 0.0
    with (
        log.open("ab") as out,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out) as process,
    ):
        over = threading.Event()
        threading.Thread(target=lambda: (process.wait(), over.set()), daemon=True).start()
        while not over.wait(_GLANCE_S):
            peak = max(peak, sum(map(_resident_mb, _family(process.pid))))
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}; see {log}")
    return peak


def _family(root: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError, IndexError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += parents.get(pid, [])
    return found


def _resident_mb(pid: int) -> float:
    """Proportional: a page that n processes share counts one nth for each."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


def zero_shot(out: Path) -> dict[str, Any]:
    """The untrained model on the run's held-out tasks."""
    kept = out.with_suffix(".zero-shot.json")
    if not kept.exists():
        recipe = config.read(Recipe, out / "config.toml")
        (environment,) = recipe.env.names  # `--env` takes one
        levels = [word for level in recipe.env.levels for word in ("--level", str(level))]
        command = (
            *AGITO,
            "eval",
            recipe.model.path,
            "--env",
            environment,
            *levels,
            "--n",
            str(recipe.eval.tasks),
        )
        done = subprocess.run(
            (*command, "--seed", str(recipe.seed), "--no-baselines", "--json"),
            check=True,
            capture_output=True,
            text=True,
        )
        kept.write_text(done.stdout)
    return json.loads(kept.read_text())


def interval(found: Mapping[str, Any], name: str) -> list[Json]:
    return [
        None if found[each] is None else round(found[each], 4)
        for each in (name, f"{name}_low", f"{name}_high")
    ]


def isa() -> str:
    found = torch.cpu.get_capabilities()
    names = ("amx_bf16", "avx512_bf16", "avx512_f", "avx2")
    return os.environ.get("AGITO_ISA") or next((name for name in names if found.get(name)), "other")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--controls", type=int, default=1, metavar="SEEDS")
    parser.add_argument("--recipe", default="smollm2-shell")
    parser.add_argument("--runs", type=Path, default=Path("runs/real-model"))
    options = parser.parse_args()
    seeds: list[dict[str, Json]] = []
    details: list[Json] = []
    for seed in range(options.seeds):
        out, began = options.runs / f"{options.recipe}-{seed}", time.monotonic()
        summary, rss_mb = trained(options.recipe, seed, out)
        controls: dict[str, Json] = {}
        for name in CONTROLS if seed < options.controls else ():
            found = control(name, out)
            controls[name] = [round(found[each], 4) for each in ("success", "low", "high")]
        seeds.append(
            {
                "zero_shot": interval(zero_shot(out), "success"),
                "after_sft": interval(summary, "success_before"),
                "after_rl": interval(summary, "success_after"),
                "structural": interval(summary, "success_structural"),
                "controls": controls,
                "wall_s": round(summary["wall_s"], 1),
                "rss_mb": round(rss_mb),
                "isa": isa(),
            }
        )
        details.append(
            {
                key: summary.get(key)
                for key in ("by_cell", "phase_wall_s", "phase_cpu_s", "cpu_s", "load", "stolen_ratio")
            }
        )
        print(f"{seed}: {seeds[-1]}, in {time.monotonic() - began:.0f} s", flush=True)
    name = "real_model" if options.recipe == "smollm2-shell" else f"real_model-{options.recipe}"
    report(name, {"seeds": seeds}, {"recipe": options.recipe, "runs": details})


if __name__ == "__main__":
    main()
