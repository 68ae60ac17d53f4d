"""A team of one pre-trained language model, in which each role has an adapter of its own: trained, killed,
resumed, each adapter exported; then again with one role frozen.

    python benchmarks/team_adapters.py [--recipe team-smollm2] [--runs DIR] [--peft PYTHON] [--short]

The first run is killed (SIGKILL, every process of it) when its second RL step is saved, and resumed. In the
second, the worker is the first one's, frozen. Every adapter is exported as `agito export` does it; PYTHON, an
environment with `peft` and `transformers`, says by how much the log-probabilities of base and adapter differ
from those of the exported folder (`apart`), and how far the adapter moved the base (`moved`).

`trained` and `frozen`: success before and after RL, each with its 95% interval.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from agito.record import read_trajectories
from agito.runtime.export import export
from harness import Json, report
from real_model import AGITO, interval

_PEER = Path(__file__).parent / "peers" / "adapter_logits.py"
_SHORT = (
    "sft.demos=160",
    "rl.steps=3",
    "rl.groups=2",
    "rl.group_size=4",
    "rl.checkpoint_every=1",
    "eval.tasks=20",
    "eval.baseline_tasks=0",
)
_LIMIT_S = 7200.0


def run_of(words: tuple[str, ...], out: Path, *, kill_at: str = "") -> bool:
    """Whether the run was killed before it ended: when the checkpoint `kill_at` was there."""
    log = out.with_suffix(".log").open("ab")
    with (
        log,
        subprocess.Popen(
            (*AGITO, "train", *words), stdout=log, stderr=log, start_new_session=True
        ) as process,
    ):
        ends_at = time.monotonic() + _LIMIT_S
        while process.poll() is None and time.monotonic() < ends_at:
            if kill_at and (out / "checkpoints" / kill_at).is_dir():
                os.killpg(process.pid, signal.SIGKILL)
                return True
            time.sleep(0.1)
        if process.poll() != 0:
            os.killpg(process.pid, signal.SIGKILL)
            raise SystemExit(f"{out}: it failed, or took longer than {_LIMIT_S:.0f} s; see {log.name}")
    return False


def trained(out: Path, words: tuple[str, ...], *, kill_at: str = "") -> tuple[dict[str, Any], int]:
    """The run's summary, and how often it was killed. A finished run is not trained again."""
    killed = out.with_suffix(".killed")
    if not (out / "summary.json").exists():
        if not (out / "checkpoints").exists() and run_of((*words, "--out", str(out)), out, kill_at=kill_at):
            killed.write_text("1")
        if not (out / "summary.json").exists():
            run_of(("--resume", str(out)), out)
    return json.loads((out / "summary.json").read_text()), int(killed.exists())


def exported(run: Path, python: str) -> dict[str, Json]:
    """What a role's adapter is to others, who load it without us."""
    adapter, folder = run / "checkpoints" / "final", run / "exported"
    if not folder.exists():
        export(run, folder)
    if not python:
        return {}
    done = subprocess.run(
        (python, str(_PEER), str(adapter), str(folder)), check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def digest(run: Path) -> str:
    return hashlib.sha256((run / "checkpoints/final/adapter_model.safetensors").read_bytes()).hexdigest()


def steps_of(run: Path) -> list[int]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["step"] for line in lines if line["phase"] == "rl"]


def worker_versions(run: Path) -> set[int]:
    """By which versions of its weights the worker spoke in RL."""
    return {
        span.version
        for path in sorted((run / "trajectories").glob("rl-*.parquet"))
        for each in read_trajectories(path)
        for segment in each.attempt.trajectory.segments
        if segment.policy == "worker"
        for span in segment.tokens.versions
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", default="team-smollm2")
    parser.add_argument("--runs", type=Path, default=Path("runs/team-adapters"))
    parser.add_argument("--peft", default="", metavar="PYTHON")
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    sets = tuple(word for each in (_SHORT if options.short else ()) for word in ("--set", each))
    began = time.monotonic()
    both, fixed = options.runs / "trained", options.runs / "frozen"
    summary, num_killed = trained(both, (options.recipe, *sets), kill_at="step-2")
    worker = both / "policies" / "worker"
    before = digest(worker)
    frozen = (
        f"policies.worker.path={worker}",
        "policies.worker.learns=false",
        "policies.worker.imitates=false",
    )
    words = (options.recipe, *sets, *(word for each in frozen for word in ("--set", each)))
    other, _ = trained(fixed, words)
    adapters: dict[str, Json] = {
        "main": exported(both, options.peft),
        "worker": exported(worker, options.peft),
        "main beside a frozen worker": exported(fixed, options.peft),
    }
    results = {
        name: {
            "before": interval(found, "success_before"),
            "after": interval(found, "success_after"),
            "void": found["void_attempts"],
            "wall_s": round(found["wall_s"], 1),
        }
        for name, found in (("trained", summary), ("frozen", other))
    }
    steps = steps_of(both)
    figures: dict[str, Json] = {
        **results,
        "killed": num_killed,
        "steps": len(steps),
        "steps_twice_or_missing": len(steps) - len(set(steps)) + (max(steps) + 1 - len(set(steps))),
        "adapters": adapters,
        "frozen_worker_unchanged": digest(worker) == before and worker_versions(fixed) == {0},
        "worker_versions": len(worker_versions(both)),
    }
    report("team_adapters", figures, {"recipe": options.recipe, "took_s": round(time.monotonic() - began, 1)})


if __name__ == "__main__":
    main()
