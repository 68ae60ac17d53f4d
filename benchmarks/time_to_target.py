"""Seconds of RL until a target success: ours against TRL's `GRPOTrainer`, from one cold start, on the same
cores.

    python benchmarks/time_to_target.py --trl PYTHON [--target .9] [--rates 1e-3 3e-3] [--runs DIR]
        [--short]

PYTHON is that of an environment with `trl==1.16.*`, torch for CPU, and Agito's requirements. Ours is the
quickstart with a checkpoint every second step; time counts from the start of RL and includes our saving. TRL
gets the same environment, prompts, tokens, harness and batch (`peers/trl_arm.py`), two threads, AdamW at each
of the rates, and ten times our time; its saving is not counted. `agito eval` judges every checkpoint on the
same held-out tasks. `ratio_vs_trl` uses TRL's best rate; if none reached the target it is a lower bound.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from harness import report

_EVERY = 2  # steps between two of our checkpoints
_PATIENCE = 10.0  # multiples of our time
_DIRECTORY = Path(__file__).parent
_ENTRY = [sys.executable, "-m", "agito.cli"]


def ours(out: Path, run: Path, steps: int | None) -> dict[str, float]:
    """Trains and keeps every checkpoint in `run`. Returns the seconds of RL at which each was made."""
    kept = run / "checkpoints"
    if not (out / "summary.json").exists():
        sets = ["--set", f"rl.checkpoint_every={_EVERY}", *(["--set", f"rl.steps={steps}"] if steps else [])]
        running = subprocess.Popen(
            [*_ENTRY, "train", "quickstart", "--out", str(out), *sets], stdout=subprocess.DEVNULL
        )
        kept.mkdir(parents=True, exist_ok=True)
        while running.poll() is None:
            _keep(out / "checkpoints", kept)
            time.sleep(0.2)
        if running.returncode:
            raise RuntimeError(f"training ended with {running.returncode}")
        _keep(out / "checkpoints", kept)
        shutil.copy(out / "config.toml", run / "config.toml")
    ended_s = {}
    summary = json.loads((out / "summary.json").read_text())
    first_s = None
    for line in (out / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["phase"] == "before":
            first_s = row["wall_s"]
        if row["phase"] == "rl" and first_s is not None:
            ended_s[row["step"] + 1] = row["wall_s"] - first_s
    assert summary["phase_wall_s"]["rl"] >= max(ended_s.values()) - 1.0, (
        "the clock of the metrics and that of the summary disagree"
    )
    found = {
        path.name: ended_s[int(path.name.removeprefix("step-"))]
        for path in kept.iterdir()
        if path.name != "step-0"
    }
    return dict(sorted(found.items(), key=lambda pair: pair[1]))


def _keep(checkpoints: Path, kept: Path) -> None:
    """Checkpoint directories appear under their name once complete, and are removed two checkpoints later."""
    for path in checkpoints.glob("step-*"):
        if path.name.removeprefix("step-").isdigit() and not (kept / path.name).exists():
            shutil.copytree(path, kept / path.name)


def trl(python: str, run: Path, out: Path, budget_s: float, rate: float, threads: int) -> dict[str, float]:
    if not (out / "seconds.json").exists():
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": str(_DIRECTORY.parent / "src"),
        }
        environment |= {"TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [
            python,
            str(_DIRECTORY / "peers" / "trl_arm.py"),
            str(run),
            str(out),
            str(budget_s),
            str(threads),
            str(rate),
        ]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=budget_s * 2 + 600, check=False
        )
        if done.returncode:
            raise RuntimeError(f"TRL: {done.stderr[-2000:]}")
        (out / "log.txt").write_text(done.stderr)
    return json.loads((out / "seconds.json").read_text())


def reached(
    directory: Path, seconds: dict[str, float], target: float, num_tasks: int
) -> tuple[float | None, dict[str, float]]:
    """When the target was first met, and every success evaluated for it."""
    seen: dict[str, float] = {}
    for name, at_s in seconds.items():
        command = [
            *_ENTRY,
            "eval",
            str(directory / "checkpoints" / name),
            "--no-baselines",
            "--json",
            "--n",
            str(num_tasks),
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seen[f"{at_s:.1f} s"] = success = json.loads(done.stdout.splitlines()[-1])["policy"]["success"]
        print(f"  {name} after {at_s:.0f} s: {success:.3f}", flush=True)
        if success >= target:
            return at_s, seen
    return None, seen


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trl", required=True, metavar="PYTHON")
    parser.add_argument("--target", type=float, default=0.9)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-3])
    parser.add_argument("--runs", type=Path, default=Path("runs/time_to_target"))
    parser.add_argument("--short", action="store_true", help="a low target, few tasks, one rate: does it run")
    options = parser.parse_args()
    if options.short:
        options.target, options.rates = 0.65, options.rates[:1]
    num_tasks, threads = (120 if options.short else 504), len(os.sched_getaffinity(0))
    kept = options.runs / "kept"
    seconds = ours(options.runs / "ours", kept, 6 if options.short else None)
    our_s, our_curve = reached(kept, seconds, options.target, num_tasks)
    if our_s is None:
        raise SystemExit(f"our own run never reached {options.target}: {our_curve}")
    budget_s = our_s * _PATIENCE
    curves: dict[str, dict[str, float]] = {}
    times: dict[str, float | None] = {}
    for rate in options.rates:
        out = options.runs / f"trl-{rate:g}"
        theirs = trl(options.trl, options.runs / "ours", out, budget_s, rate, threads)
        times[f"{rate:g}"], curves[f"{rate:g}"] = reached(out, theirs, options.target, num_tasks)
    arrived = [at_s for at_s in times.values() if at_s is not None]
    report(
        "time_to_target",
        {
            "ratio_vs_trl": round(min(arrived, default=budget_s) / our_s, 2),
            "target": options.target,
            "reached": bool(arrived),
        },
        {
            "our_s": our_s,
            "our_curve": our_curve,
            "trl_s_by_rate": times,
            "trl_curves": curves,
            "trl_budget_s": budget_s,
        },
    )


if __name__ == "__main__":
    main()
