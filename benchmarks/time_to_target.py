"""Seconds of RL until a target success: ours against TRL's `GRPOTrainer`, from one cold start, on the same
cores.

    python benchmarks/time_to_target.py --trl PYTHON [--model FOLDER] [--target .9] [--rates 1e-3 3e-3]
        [--patience 10] [--runs DIR] [--short]

PYTHON is that of an environment with `trl==1.16.*`, torch for CPU, and Agito's requirements. Ours is the
quickstart with a checkpoint every second step; time counts from the start of RL and includes our saving. TRL
gets the same environment, prompts, tokens, harness and batch (`peers/trl_arm.py`), two threads, AdamW at each
of the rates, and `--patience` times our time; its saving is not counted. `agito eval` judges every checkpoint
on the same held-out tasks. `ratio_vs_trl` uses TRL's best rate; if none reached the target it is a lower
bound.

With `--model`, ours is `smollm2-shell` from that folder, and TRL trains the adapter of our cold start by
peft, in the same precision, in micro-batches. A finished run in DIR/ours is used as it is: of the checkpoints
that it kept, the first that meets the target counts, which is an upper bound of our time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from harness import report

_EVERY = 2  # steps between two of our checkpoints
_DIRECTORY = Path(__file__).parent
_ENTRY = [sys.executable, "-m", "agito.cli"]
# A network of seconds, to see whether all of it runs.
_TINY = ("sft.demos=64", "rl.groups=2", "rl.group_size=4", "eval.tasks=8", "eval.structural_tasks=4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """Which recipe, with which changes."""

    recipe: str
    words: tuple[str, ...] = ()

    def train(self, out: Path) -> dict[str, float]:
        """Trains into `out`, unless that is done. Returns the seconds of RL at which each checkpoint was
        made.
        """
        if not (out / "summary.json").exists():
            sets = [
                word
                for key in (f"rl.checkpoint_every={_EVERY}", "rl.keep_checkpoints=1000")
                for word in ("--set", key)
            ]
            command = [*_ENTRY, "train", self.recipe, "--out", str(out), *sets, *self.words]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        ended_s, first_s, last = {}, None, 0
        summary = json.loads((out / "summary.json").read_text())
        for line in (out / "metrics.jsonl").read_text().splitlines():
            row = json.loads(line)
            if row["phase"] == "before":
                first_s = row["wall_s"]
            if row["phase"] == "rl" and first_s is not None:
                last = row["step"] + 1
                ended_s[f"step-{last}"] = row["wall_s"] - first_s
        assert summary["phase_wall_s"]["rl"] >= max(ended_s.values()) - 1.0, (
            "the clock of the metrics and that of the summary disagree"
        )
        ended_s["final"] = ended_s[f"step-{last}"]
        kept = {path.name for path in (out / "checkpoints").iterdir()} - {"step-0", f"step-{last}"}
        found = {name: at_s for name, at_s in ended_s.items() if name in kept}
        return dict(sorted(found.items(), key=lambda pair: pair[1]))


def trl(python: str, run: Path, out: Path, budget_s: float, rate: float, threads: int) -> dict[str, float]:
    if not (out / "seconds.json").exists():
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": str(_DIRECTORY.parent / "src"),
        }
        environment |= {
            "TRL_EXPERIMENTAL_SILENCE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }
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
    parser.add_argument(
        "--model", type=Path, help="a Hugging Face folder: smollm2-shell instead of quickstart"
    )
    parser.add_argument("--target", type=float, default=0.9)
    parser.add_argument("--rates", type=float, nargs="+")
    parser.add_argument("--patience", type=float, default=10.0, help="TRL's time, in multiples of ours")
    parser.add_argument("--runs", type=Path, help="by default runs/time_to_target, or with the model's name")
    parser.add_argument("--short", action="store_true", help="a low target, few tasks, one rate: does it run")
    options = parser.parse_args()
    model, is_short = options.model, options.short
    rates = options.rates or ([2e-4, 1e-3] if model else [1e-3, 3e-3])
    runs = options.runs or Path("runs") / f"time_to_target{f'-{model.name}' if model else ''}"
    words = () if model is None else ("--model", str(model))
    if is_short:
        options.target, rates = (0.0 if model else 0.65), rates[:1]
        shorter = ("rl.steps=4", *_TINY) if model else ("rl.steps=6",)
        words += tuple(word for key in shorter for word in ("--set", key))
    num_tasks, threads = (16 if model else 120) if is_short else 504, len(os.sched_getaffinity(0))
    ours = Ours(recipe="smollm2-shell" if model else "quickstart", words=words)
    seconds = ours.train(runs / "ours")
    our_s, our_curve = reached(runs / "ours", seconds, options.target, num_tasks)
    if our_s is None:
        raise SystemExit(f"our own run never reached {options.target}: {our_curve}")
    budget_s = our_s * options.patience
    curves: dict[str, dict[str, float]] = {}
    times: dict[str, float | None] = {}
    for rate in rates:
        out = runs / f"trl-{rate:g}"
        theirs = trl(options.trl, runs / "ours", out, budget_s, rate, threads)
        times[f"{rate:g}"], curves[f"{rate:g}"] = reached(out, theirs, options.target, num_tasks)
    arrived = [at_s for at_s in times.values() if at_s is not None]
    report(
        "time_to_target_model" if model else "time_to_target",
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
