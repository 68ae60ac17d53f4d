"""`agito envs` and `agito doctor`: what there is to train on, and what this machine offers."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import typer
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from agito.cli.exit_codes import work
from agito.cli.tables import needed_width, plain_table, print_table
from agito.cli.terminal import out, show
from agito.envs import bundled, load
from agito.errors import AgitoError, NoIsolation
from agito.models.compiler import FORWARD, REMEDY, NoCompiler, library

_ANEW = "install it anew: rm .venv/.stamp && make setup in a clone, else pip install --force-reinstall torch"
_MIN_DISK_MB, _MIN_MEMORY_MB, _MIN_FILES = 1024, 2048, 1024


def list_environments(names: list[str]) -> None:
    table = plain_table(
        "environment", "families", "levels", "splits", "chance", "version", wrapped=("families",)
    )
    for name in names or bundled():
        found = load(name)
        first, last = min(found.levels), max(found.levels)
        levels = f"{first}–{last}" if first < last else str(first)
        table.add_row(
            Text(name, "bold"),
            ", ".join(found.families),
            levels,
            ", ".join(found.splits),
            f"{found.chance_level:g}",
            found.version,
        )
    console = out()
    print_table(console, table)
    own = "Your own: path.py:Class, wherever ENV stands; agito envs new NAME writes one to begin with."
    console.print(f"\nAct in one yourself: agito play ENV. {own}", style="dim")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fact about this machine; `remedy` when it is not as it should be."""

    name: str
    value: str
    remedy: str = ""
    is_only_noise: bool = False  # it works all the same


def diagnose() -> None:
    """Raises `NoIsolation` after everything has been printed, when no sandbox is possible."""
    console = out()
    missing: NoIsolation | None = None
    machine = [
        _python(),
        _torch(),
        _compiler(),
        _cores(),
        _threads(),
        _memory(),
        _disk(),
        _files(),
        _browser(),
    ]
    print_findings(console, "machine", machine)
    try:
        from agito.worlds.sandbox import layers

        findings = [Finding(name=name, value=value) for name, value in work(layers).items()]
    except NoIsolation as error:
        missing = error
        findings = [Finding(name="tier", value="none", remedy=str(error))]
    print_findings(console, "isolation", findings)
    if missing is not None:
        raise missing
    console.print(f"\n{conclusion(machine)}", soft_wrap=True)
    if not can_train(machine):
        raise typer.Exit(1)


def can_train(findings: Sequence[Finding]) -> bool:
    return not any(each.name == "torch" and each.remedy for each in findings)


def conclusion(findings: Sequence[Finding]) -> str:
    """What to do next, which must not be what will fail here."""
    wrong = [each.name for each in findings if each.remedy and not each.is_only_noise]
    if not can_train(findings):
        return "[red]not ready[/]: nothing can be trained without torch"
    place = " --out DIR, another place than this one," if "disk" in wrong else ","
    others = ", ".join(name for name in wrong if name != "disk")
    return (
        f"[green]ready[/]{f' but for {others}' if others else ''}: agito train smoke{place} in about a minute"
    )


def print_findings(console: Console, title: str, findings: list[Finding]) -> None:
    table = plain_table("", title)
    table.add_column("", overflow="fold")
    lines: list[RenderableType] = [Text(title, "dim")]
    for each in findings:
        bad = Text("!", "yellow") if each.is_only_noise else Text("✗", "red")
        mark = bad if each.remedy else Text("✓", "green")
        told = [Text(each.value), *([Text(each.remedy, "yellow")] if each.remedy else [])]
        for at, text in enumerate(told):
            table.add_row(*("", "") if at else (mark, each.name), text)
        lines += [Text.assemble(mark, f" {each.name}"), *(Padding(text, (0, 0, 0, 4)) for text in told)]
    # in a narrow place each value beneath its name, so that no path is broken
    show(console, table if needed_width(console, table) <= console.width else Group(*lines))


def _python() -> Finding:
    return Finding(
        name="python",
        value=f"{platform.python_version()}, {platform.system()} {platform.release()} {platform.machine()}",
    )


def _torch() -> Finding:
    """In a process of its own: this half never loads torch."""
    try:
        known = version("torch")
    except PackageNotFoundError:
        return Finding(name="torch", value="not installed", remedy=_ANEW)
    code = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
        )
    except subprocess.TimeoutExpired:
        return Finding(name="torch", value=f"{known}, did not load within 120 s", remedy=_ANEW)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Finding(name="torch", value=f"{known}, does not load", remedy=f"{last}; {_ANEW}")
    count = int(done.stdout)
    return Finding(name="torch", value=f"{known}, {f'{count} CUDA device(s)' if count else 'CPU only'}")


def _compiler() -> Finding:
    try:
        return Finding(name="compiled engine", value=str(library(FORWARD)))
    except NoCompiler as error:
        return Finding(name="compiled engine", value=f"none: {error}", remedy=REMEDY)


def _cores() -> Finding:
    usable, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    busy = f"load {load:.1f} on {usable} core(s): figures will be slow and noisy; end what else is running"
    return Finding(
        name="cores",
        value=f"{usable}, load {load:.1f}",
        remedy=busy if load > 1.5 * usable else "",
        is_only_noise=True,
    )


def _threads() -> Finding:
    given = os.environ.get("OMP_NUM_THREADS")
    return Finding(
        name="threads",
        value=f"one a torch process; OMP_NUM_THREADS here is {given or 'not set, which does no harm'}",
    )


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    free = _available_mb()
    remedy = (
        f"the quickstart wants {_MIN_MEMORY_MB} MB free; lower compute.ranks and compute.max_num_seqs"
        if free < _MIN_MEMORY_MB
        else ""
    )
    return Finding(name="memory", value=f"{total} MB, {free} MB free", remedy=remedy)


def _available_mb() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) >> 10
    return 0


def _disk() -> Finding:
    here = Path("runs") if Path("runs").is_dir() else Path()
    free = shutil.disk_usage(here).free >> 20
    remedy = (
        f"a run wants {_MIN_DISK_MB} MB; free some, or choose another place with --out"
        if free < _MIN_DISK_MB
        else ""
    )
    remedy = (
        remedy
        if os.access(here, os.W_OK)
        else f"{here.resolve()} cannot be written; choose another place with --out"
    )
    return Finding(name="disk", value=f"{free} MB free in {here.resolve()}", remedy=remedy)


def _browser() -> Finding:
    """By reading a page with it."""
    from agito.worlds.browser import NoBrowser, probe, program

    try:
        name = program()
    except NoBrowser as error:
        return Finding(name="browser", value="none: the environment web needs one", remedy=str(error))
    try:
        return Finding(name="browser", value=f"{name}, {work(probe)}, read a page")
    except (AgitoError, TimeoutError) as error:
        return Finding(
            name="browser",
            value=f"{name}, which does not work in a sandbox",
            remedy=str(error) or "it has not shown a page in time",
        )


def _files() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = soft == resource.RLIM_INFINITY
    remedy = f"raise it: ulimit -n {_MIN_FILES}" if not unlimited and soft < _MIN_FILES else ""
    return Finding(
        name="open files", value="unlimited" if unlimited else f"{soft} at the most", remedy=remedy
    )
