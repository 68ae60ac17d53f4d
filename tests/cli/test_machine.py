"""What there is, and what this machine offers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Agito, environment


def test_envs_lists_families_levels_splits_and_chance(agito_here: Agito) -> None:
    out = agito_here("envs").stdout
    for word in ("shell", "find, repair", "1–5", "train, heldout, structural", "0.02"):
        assert word in out
    assert "coin" in agito_here("envs", "agito.testing:FakeEnvironment").stdout


def test_doctor_names_every_layer_and_says_when_all_is_well(agito_here: Agito) -> None:
    out = agito_here("doctor").stdout
    for word in (
        "python",
        "torch",
        "cores",
        "memory",
        "disk",
        "open files",
        "tier",
        "namespaces",
        "seccomp",
        "landlock",
        "ready",
    ):
        assert word in out


def test_help_names_every_command_and_every_exit_code(agito_here: Agito) -> None:
    out = agito_here("--help").stdout
    for word in ("train", "eval", "play", "replay", "envs", "doctor", "130", "9 diverged"):
        assert word in out
    assert agito_here("--version").stdout.startswith("agito 0.")


@pytest.mark.parametrize("words", [("--help",), ("train", "--help"), ("envs",)])
def test_what_needs_no_network_loads_no_torch_and_starts_at_once(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    code = "import sys\nfrom agito.cli import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    libraries = cpu_s(tmp_path, "import typer, rich.console, pydantic, anyio, asyncio")
    spent = cpu_s(tmp_path, code, *words)
    assert spent < 6 * libraries, f"{spent:.2f} s of CPU, where the libraries alone take {libraries:.2f} s"


def cpu_s(home: Path, code: str, *words: str) -> float:
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=home, env=environment(home), capture_output=True, text=True
    )
    after = os.times()
    assert done.returncode == 0, done.stderr
    return after.children_user + after.children_system - before.children_user - before.children_system
