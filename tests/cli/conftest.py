"""The command line as a person meets it: a process of its own, in a directory of its own."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import TypeAlias

import pytest
from tests.cli import forked

from agito.cli import main
from agito.models.compiler import FORWARD, NoCompiler, library
from agito.runtime.fork_server import WARM, warm

ROOT = Path(__file__).parents[2]
PLACES = os.pathsep.join((str(Path(__file__).with_name("absent")), str(ROOT / "src")))
COMMAND = (sys.executable, "-m", "agito.cli")
Done: TypeAlias = "subprocess.CompletedProcess[str]"
Agito: TypeAlias = Callable[..., Done]
HereIn: TypeAlias = Callable[[Path], Agito]

TINY = (
    "compute.ranks=1",
    "compute.max_num_seqs=16",
    "model.hidden_size=32",
    "model.intermediate_size=64",
    "model.num_layers=1",
    "sft.demos=64",
    "sft.batch=8",
    "sft.tokenizer_episodes=32",
    "sft.epochs=1",
    "rl.steps=3",
    "rl.groups=2",
    "rl.group_size=2",
    "rl.checkpoint_every=1",
    "eval.tasks=8",
    "eval.structural_tasks=4",
    "eval.baseline_tasks=4",
    "env.levels=[1]",
)
COIN = (*TINY, "env.name=agito.testing:FakeEnvironment", "compute.context=192")


def sets(*overrides: str) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


def environment(home: Path) -> dict[str, str]:
    _share_engine(home)
    return _basic() | {"TMPDIR": str(home), "HOME": str(home), "COLUMNS": "100", WARM: str(_warm())}


def _basic() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return {**kept, "PYTHONPATH": PLACES, "OMP_NUM_THREADS": "1"}


@cache
def _warm() -> Path:
    """Where the workers of all runs are forked, which spares each run two seconds of imports."""
    stack = ExitStack()
    atexit.register(stack.close)
    place = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "warm"
    stack.enter_context(warm(place, _basic()))
    return place


def _share_engine(home: Path) -> None:
    """The compiled engine as this machine has it: a run in a home of its own would build it anew."""
    cache = home / ".cache" / "agito"
    cache.mkdir(parents=True, exist_ok=True)
    with suppress(NoCompiler):
        built = library(FORWARD)
        if not (cache / built.name).exists():
            shutil.copy2(built, cache)


def agito_in(home: Path) -> Agito:
    def run(*words: str, stdin: str = "", expect: int | None = 0) -> Done:
        done = forked.run(words, cwd=home, env=environment(home), stdin=stdin, timeout=110)
        assert expect is None or done.returncode == expect, (
            f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    return run


@pytest.fixture
def agito(tmp_path: Path) -> Agito:
    return agito_in(tmp_path)


@pytest.fixture
def here_in(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> HereIn:
    """As `agito_in`, in this process, which spares a second of imports: for what is not about processes."""

    def at(home: Path) -> Agito:
        monkeypatch.chdir(home)
        for name, value in environment(home).items():
            if name != "PYTHONPATH":
                monkeypatch.setenv(name, value)

        def run(*words: str, expect: int | None = 0, columns: int = 100) -> Done:
            monkeypatch.setenv("COLUMNS", str(columns))
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                main(words)
            out, err = capsys.readouterr()
            code = ended.value.code or 0
            assert isinstance(code, int) and (expect is None or code == expect), (
                f"exit code {code}\n{out}\n{err}"
            )
            return subprocess.CompletedProcess(words, code, out, err)

        return run

    return at


@pytest.fixture
def agito_here(here_in: HereIn, tmp_path: Path) -> Agito:
    return here_in(tmp_path)


@pytest.fixture(scope="session")
def shell_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `runs/tiny` is a finished run in a real shell."""
    return _copy_of_one(tmp_path_factory, "shell", "tiny", TINY)


@pytest.fixture(scope="session")
def coin_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `runs/coin` is a finished run in an environment in memory."""
    return _copy_of_one(tmp_path_factory, "coin", "coin", COIN)


def _copy_of_one(factory: pytest.TempPathFactory, title: str, name: str, overrides: tuple[str, ...]) -> Path:
    """A home with a run that is made once for all processes of the tests."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    made, home = shared / f"made-{title}", factory.mktemp(title) / "home"
    with (shared / f"{title}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            making = shared / f"making-{title}"
            making.mkdir()
            done = agito_in(making)("train", "quickstart", "--name", name, *sets(*overrides))
            (making / "train.out").write_text(done.stdout)
            (making / "train.err").write_text(done.stderr)
            making.rename(made)
    shutil.copytree(made, home)
    return home
