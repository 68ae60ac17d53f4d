"""Shared ending of every benchmark: describe the machine, store the full results, print one JSON line."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

Json: TypeAlias = "None | bool | int | float | str | Sequence[Json] | Mapping[str, Json]"
RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Json]:
    """The machine, relevant versions, and the current load."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    memory_kb = next(
        (int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0
    )
    return {
        "cpu": model,
        "num_cpus": os.cpu_count() or 1,
        "memory_gb": round(memory_kb / 2**20, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
        "commit": _commit(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def spread(values: Sequence[float]) -> dict[str, Json]:
    """Median, quartiles, minimum, maximum and count."""
    ordered = sorted(values)
    quarter = len(ordered) // 4
    return {
        "p50": round(statistics.median(ordered), 4),
        "p25": round(ordered[quarter], 4),
        "p75": round(ordered[-1 - quarter], 4),
        "min": round(ordered[0], 4),
        "max": round(ordered[-1], 4),
        "n": len(ordered),
    }


def report(name: str, figures: Mapping[str, Json], detail: Mapping[str, Json]) -> None:
    """Writes `results/NAME.json`; prints the machine, the detail and, as the last line, `figures` as one JSON
    object.
    """
    facts = machine()
    RESULTS.mkdir(exist_ok=True)
    whole = {"name": name, "machine": facts, "figures": dict(figures), "detail": dict(detail)}
    (RESULTS / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    for key, value in detail.items():
        print(f"{key}: {json.dumps(value)}")
    print(json.dumps(dict(figures)), flush=True)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        check=False,
    )
    return done.stdout.strip() or "none"
