"""Success of other people's agents before and after training, for `guests.py --model`.

One cold start, by imitation in our own loop (`smollm2-shell`, level 1), exported whole; from it, every guest
is trained by RL alone with each seed, on the family `find`, unmodified, behind the gateway. Every part is a
process of its own and is kept, so that a benchmark that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agito.record.intervals import wilson
from harness import Json

_AGITO = (sys.executable, "-m", "agito.cli")
_COLD = ("sft.demos=640", "rl.steps=0", "eval.structural_tasks=0")
_GUEST = (
    'env.families=["find"]',
    "sft.demos=0",
    "rl.steps=8",
    "rl.groups=6",
    "rl.group_size=8",
    "trainer.rl.lr=4e-4",  # of a new adapter
    "trainer.rl.adam_lr=4e-4",
    "eval.structural_tasks=0",
)
_SHARED = ("env.levels=[1]", "eval.tasks=150")


def cold_start(model: str, runs: Path) -> Path:
    """The exported folder of the cold start; made unless it is there."""
    run, folder = runs / "cold", runs / "cold-model"
    if not folder.exists():
        _trained(("--model", model), (*_SHARED, *_COLD), 0, run)
        _call("export", str(run), str(folder), log=run.with_suffix(".log"))
    return folder


def trained(command: str, folder: Path, model: Path, seed: int, out: Path) -> Mapping[str, Any]:
    """The summary of this guest's run from `model`; trains unless it is there."""
    guest = (f"harness.command={json.dumps(command)}", f"harness.folder={json.dumps(str(folder))}")
    return _trained(("--model", str(model)), (*_SHARED, *_GUEST, *guest), seed, out)


def _trained(begin: Sequence[str], keys: Sequence[str], seed: int, out: Path) -> Mapping[str, Any]:
    if not (out / "summary.json").exists():
        settings = [word for key in keys for word in ("--set", key)]
        begun = ("--resume", str(out)) if (out / "checkpoints").exists() else ()
        anew = ("smollm2-shell", *begin, *settings, "--seed", str(seed), "--out", str(out))
        _call("train", *(begun or anew), log=out.with_suffix(".log"))
    return json.loads((out / "summary.json").read_text())


def _call(*words: str, log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        done = subprocess.run((*_AGITO, *words), stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    if done.returncode:
        raise SystemExit(f"agito {' '.join(words)}: exit code {done.returncode}; see {log}")


def over_seeds(summaries: Sequence[Mapping[str, Any]], when: str) -> list[Json]:
    """Success `when`, "before" or "after", of all seeds' tasks together, with its 95% interval."""
    won = sum(round(each[f"success_{when}"] * tasks(each, when)) for each in summaries)
    total = sum(tasks(each, when) for each in summaries)
    low, high = wilson(won, total)
    return [round(won / total, 4), round(low, 4), round(high, 4)]


def tasks(summary: Mapping[str, Any], when: str) -> int:
    return sum(cell[f"num_{when}"] for cell in summary["by_cell"].values())


def by_seed(summaries: Sequence[Mapping[str, Any]]) -> list[Json]:
    names = [f"success_{when}{bound}" for when in ("before", "after") for bound in ("", "_low", "_high")]
    return [{name: each[name] for name in (*names, "wall_s", "cpu_s")} for each in summaries]
