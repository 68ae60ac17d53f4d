"""The conditions of a measurement: commit, versions, machine, load. Found without importing the packages."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from agito.types import Json

_PACKAGES = ("agito", "torch", "numpy", "tokenizers", "safetensors", "pyarrow")


def facts() -> dict[str, Json]:
    """For `run.json`: `commit`, `versions`, `machine`."""
    return {"commit": commit(), "versions": versions(), "machine": machine()}


def commit() -> str:
    """The checkout's commit, followed by `+` when files differ from it; `unknown` outside a checkout."""
    here = Path(__file__).parent
    head = _git(here, "rev-parse", "--short=12", "HEAD")
    if not head:
        return "unknown"
    return head + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")


def versions() -> dict[str, Json]:
    found: dict[str, Json] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Json]:
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _line("/proc/cpuinfo", "model name") or platform.processor() or "unknown",
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "load": round(os.getloadavg()[0], 2),
    }


def _line(file: str, name: str) -> str | None:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)


def _git(where: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(where), *words], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
