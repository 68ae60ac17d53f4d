"""Every mistake is one clear line and a stable exit code."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.cli.conftest import COIN, COMMAND, Agito, HereIn, agito_in, environment, sets

from agito.runtime.fork_server import WARM

BROKEN = """
from agito.errors import NoIsolation
from agito.testing import FakeEnvironment


class NoSandbox(FakeEnvironment):
    async def open(self, task, key, attempt, *, noise_seed):
        raise NoIsolation("no user namespaces here: sysctl kernel.unprivileged_userns_clone=1")


class Wrong(FakeEnvironment):
    def task(self, **which):
        return None
"""


def said(text: str) -> list[str]:
    return [
        line.removeprefix("agito: error: ") for line in text.splitlines() if line.startswith("agito: error: ")
    ]


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["train", "nosuch"], 4, "recipe 'nosuch': there is"),
        (["train", "gone.toml"], 4, "recipe gone.toml: there is no such file"),
        (["train", "torn.toml"], 3, "torn.toml: not TOML"),
        (["train", "quickstart", "--set", "rl.stepz=3"], 3, "rl.stepz: there is no such key; known here:"),
        (["train", "quickstart", "--set", "rl.group_size=1"], 3, "rl.group_size=1: "),
        (["train", "quickstart", "--seed", "-1"], 3, "seed=-1"),
        (["train", "quickstart", "--out", "taken"], 4, "taken: no run there, so nothing is moved"),
        (["train", "--resume", "gone"], 4, "gone: no run there"),
        (["eval", "gone"], 4, "gone: no run and no checkpoint at"),
        (["replay", "gone", "1.2"], 4, "gone: no run there"),
        (["play", "nosuch"], 4, "environment 'nosuch': there is shell"),
        (["play", "own.py:Gone"], 4, "own.py: there is no such file"),
        (["play", "--level", "77"], 3, "level=77: shell has 1"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(
    agito_here: Agito, tmp_path: Path, words: list[str], code: int, line: str
) -> None:
    (tmp_path / "torn.toml").write_text("name = ")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("years of work")
    done = agito_here(*words, expect=code)
    (only,) = said(done.stderr)
    assert line in only
    assert "Traceback" not in done.stderr
    assert (tmp_path / "taken" / "thesis.tex").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["train"],
        ["train", "quickstart", "--resume", "x"],
        ["train", "quickstart", "--name", "a", "--out", "b"],
        ["eval"],
    ],
)
def test_wrong_usage_ends_with_2(agito_here: Agito, words: list[str]) -> None:
    assert "Usage" in agito_here(*words, expect=2).stderr


def test_a_damaged_checkpoint_is_refused(coin_home: Path, tmp_path: Path) -> None:
    shutil.copytree(coin_home / "runs", tmp_path / "runs")
    weights = tmp_path / "runs/coin/checkpoints/final/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    (line,) = said(agito_in(tmp_path)("eval", "runs/coin", expect=5).stderr)
    assert "model.safetensors" in line


def test_a_mistake_ends_the_process_as_it_says(agito: Agito) -> None:
    assert "recipe 'nosuch': there is" in said(agito("train", "nosuch", expect=4).stderr)[0]


def test_a_finished_run_is_not_resumed(coin_home: Path, here_in: HereIn) -> None:
    (line,) = said(here_in(coin_home)("train", "--resume", "runs/coin", expect=3).stderr)
    assert "finished" in line
    assert "report.html" in line


def test_an_attempt_that_is_not_there_is_not_found(coin_home: Path, here_in: HereIn) -> None:
    agito = here_in(coin_home)
    assert (
        "99.0.0: not recorded"
        in said(agito("replay", "runs/coin", "99.0", "--phase", "rl", expect=4).stderr)[0]
    )
    assert "GROUP.SLOT" in said(agito("replay", "runs/coin", "first", expect=4).stderr)[0]


def test_an_error_of_ours_inside_many_tasks_reaches_the_user_as_itself(agito: Agito, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(BROKEN)
    done = agito("train", "quickstart", *sets(*COIN, "env.name=own.py:NoSandbox"), "--admit-anyway", expect=6)
    assert said(done.stderr) == ["no user namespaces here: sysctl kernel.unprivileged_userns_clone=1"]
    assert "--resume" in done.stderr


def test_an_unexpected_error_is_short_and_its_traceback_is_in_a_file(agito: Agito, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(BROKEN)
    done = agito("play", "own.py:Wrong", expect=1)
    assert "agito: unexpected TypeError: cannot unpack" in done.stderr
    assert "Traceback" not in done.stderr
    (trace,) = tmp_path.glob("agito-*.txt")
    assert "TypeError: cannot unpack" in trace.read_text().splitlines()[-1]
    assert "Traceback" in agito("play", "own.py:Wrong", "--debug", expect=1).stderr


@pytest.mark.parametrize(
    ("source", "name", "line"),
    [
        ("class Own:\n    name = 'own'\n", "own.py:Own", "Own lacks version, families,"),
        ("import nothere\n", "own.py:Own", "No module named 'nothere' (line 1 of own.py)"),
        ("class Own:\n    def __init__(self, port):\n        pass\n", "own.py:Own", "Own() fails: TypeError"),
        ("class Own:\n    pass\n", "own.py", "name its class too, own.py:Class"),
    ],
)
def test_what_is_wrong_with_somebodys_own_environment_is_said_and_is_no_crash(
    agito_here: Agito, tmp_path: Path, source: str, name: str, line: str
) -> None:
    (tmp_path / "own.py").write_text(source)
    done = agito_here("envs", name, expect=4 if name == "own.py" else 3)
    assert line in said(done.stderr)[0]
    assert "please report" not in done.stderr


def test_a_reader_that_leaves_early_is_no_error(coin_home: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*COMMAND, "replay", "runs/coin"],
        cwd=coin_home,
        env=environment(coin_home),
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert done.stderr == ""


def test_a_full_disk_ends_the_run_and_keeps_what_is_committed(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = f"mount -t tmpfs -o size=700k tmpfs {small}"
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode
    ):
        pytest.skip("needs the right to mount a small tmpfs")
    train = " ".join(
        [*COMMAND, "train", "quickstart", "--out", f"{small}/run", *[f"'{word}'" for word in sets(*COIN)]]
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{mount} && {train}; echo code $?; ls {small}/run/checkpoints"],
        cwd=tmp_path,
        # its worker has to see the mount
        env={name: value for name, value in environment(tmp_path).items() if name != WARM},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert "code 7" in done.stdout, done.stderr
    assert "step-0" in done.stdout
    (line,) = said(done.stderr)
    assert "no space left" in line
