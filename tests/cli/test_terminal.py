"""Everything can be read on any terminal: ASCII, narrow, without colours, or none at all."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import COMMAND, Agito, HereIn, agito_in, environment

COMMANDS = (
    "",
    "models",
    "models get",
    "train",
    "eval",
    "play",
    "replay",
    "envs",
    "envs list",
    "envs check",
    "envs new",
    "audit",
    "grade",
    "recipes",
    "plan",
    "serve",
    "doctor",
)
ASCII: dict[str, str] = {
    "PYTHONUTF8": "0",
    "PYTHONIOENCODING": "ascii",
    "LANG": "C",
    "LC_ALL": "C",
    "PYTHONCOERCECLOCALE": "0",
}


def said(home: Path, *words: str, code: int | None = 0, **variables: str) -> str:
    env = {name: value for name, value in environment(home).items() if name != "COLUMNS"} | variables
    done = subprocess.run([*COMMAND, *words], cwd=home, env=env, capture_output=True, timeout=110)
    assert code is None or done.returncode == code, done.stderr.decode()
    return done.stdout.decode("utf-8") + done.stderr.decode("utf-8")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["doctor"], 0),
        (["envs"], 0),
        (["recipes", "smoke"], 0),
        (["eval", "runs/coin", "--n", "4"], 0),
        (["replay", "runs/coin"], 0),
        (["replay", "runs/coin", "1000000.0", "--phase", "after"], 0),
        (["audit", "agito.testing:FakeEnvironment", "--short", "--seconds", "1"], None),
        (["envs", "check", "agito.testing:FakeEnvironment"], 0),
        (["train", "nöwhere"], 4),
    ],
)
def test_an_ascii_terminal_is_spoken_to_in_ascii(coin_home: Path, words: list[str], code: int | None) -> None:
    told = said(coin_home, *words, code=code, **ASCII)
    assert told.isascii() and told.strip()
    assert "Traceback" not in told


def test_an_ascii_terminal_ends_a_run_well(tmp_path: Path) -> None:
    from tests.cli.conftest import COIN, sets

    told = said(tmp_path, "train", "smoke", "--out", "run", *sets(*COIN, "rl.steps=1"), code=0, **ASCII)
    assert "success on held-out tasks" in told and told.isascii()


def test_signs_that_a_terminal_lacks_keep_their_columns(coin_home: Path) -> None:
    plain, full = (
        said(coin_home, "envs", "check", "agito.testing:FakeEnvironment", code=0, **extra).splitlines()
        for extra in (ASCII, {})
    )
    assert full[0].startswith("✓ ") and plain[0] == full[0].replace("✓", "+")


@pytest.fixture(scope="module")
def evaluated(coin_home: Path) -> dict[int, str]:
    """What `agito eval` prints at a width; 0: into a file."""
    widths: dict[int, dict[str, str]] = {0: {}, 40: {"COLUMNS": "40"}}
    return {
        columns: said(coin_home, "eval", "runs/coin", "--n", "4", code=0, **env)
        for columns, env in widths.items()
    }


@pytest.mark.parametrize("columns", [40, 60])
def test_a_narrow_terminal_loses_no_word(coin_home: Path, here_in: HereIn, columns: int) -> None:
    agito = here_in(coin_home)
    for words in (["envs"], ["replay", "runs/coin"], ["recipes"], ["models", "list"]):
        narrow = agito(*words, columns=columns).stdout
        assert_no_word_is_lost(narrow, agito(*words, columns=200).stdout)
        assert words[0] == "replay" or max(map(len, narrow.splitlines())) <= columns


def test_a_narrow_terminal_loses_no_word_of_an_evaluation(evaluated: dict[int, str]) -> None:
    assert_no_word_is_lost(evaluated[40], evaluated[0])


def assert_no_word_is_lost(narrow: str, wide: str) -> None:
    assert "…" not in narrow
    lost = set(re.findall(r"[\w.-]+", wide)) - set(re.findall(r"[\w.-]+", narrow))
    assert not {
        word for word in lost if not re.fullmatch(r"[\d.:-]+", word) and word not in narrow.replace("\n", "")
    }


def test_no_colour_is_printed_where_none_is_wanted_or_nobody_looks(coin_home: Path) -> None:
    assert "\x1b" not in said(coin_home, "envs")
    check = ("envs", "check", "agito.testing:FakeEnvironment")
    wanted, unwanted = (
        said(coin_home, *check, FORCE_COLOR="1"),
        said(coin_home, *check, NO_COLOR="1", FORCE_COLOR="1"),
    )
    assert [bool(re.search(r"\x1b\[[\d;]*3\dm", told)) for told in (wanted, unwanted)] == [True, False]


def test_what_goes_into_a_file_has_no_blanks_behind_its_lines(
    coin_home: Path, evaluated: dict[int, str]
) -> None:
    for out in (evaluated[0], *(said(coin_home, word) for word in ("envs", "doctor", "recipes"))):
        assert not [line for line in out.splitlines() if line != line.rstrip()], out


@pytest.mark.parametrize("words", COMMANDS)
def test_help_fits_its_terminal_and_says_no_type(agito_here: Agito, words: str) -> None:
    for columns in (40, 60, 80):
        told = agito_here(*words.split(), "--help", columns=columns).stdout
        assert told.startswith("Usage: agito ")
        assert "<" not in told and "[[" not in told
        assert max(map(len, told.splitlines())) <= columns


def test_the_module_can_be_run_as_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agito", "--version"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("agito 0.")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("agito tr", "train"),
        ("agito train qu", "quickstart"),
        ("agito train --env des", "desk"),
        ("agito eval runs/c", "runs/coin"),
        ("agito audit own", "own.py:"),
        ("agito eval runs/coin --split str", "structural"),
        ("agito envs ch", "check"),
    ],
)
def test_the_shell_completes_commands_recipes_environments_and_runs(
    coin_home: Path, line: str, offered: str
) -> None:
    (coin_home / "own.py").write_text("")
    env = environment(coin_home) | {
        "_AGITO_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
        "PATH": os.environ["PATH"],
    }
    done = subprocess.run(
        [sys.executable, "-m", "agito"], cwd=coin_home, env=env, capture_output=True, text=True
    )
    assert offered in done.stdout.split(), done.stdout + done.stderr


def test_help_of_the_package_shows_what_a_user_calls_with_readable_signatures(tmp_path: Path) -> None:
    code = "import agito; print(sorted(name for name in dir(agito) if not name.startswith('_'))); help(agito)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(tmp_path) | {"PAGER": "cat"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("['effort_curve', 'evaluate', 'replay', 'resume', 'train']")
    for word in (
        "train(",
        "evaluate(",
        "admit_anyway: bool = False",
        "recipe: str | pathlib.Path | agito.recipe.Recipe",
        "agito.protocols",
    ):
        assert word in done.stdout, word
    assert "'str" not in done.stdout


def test_the_words_that_the_shell_offers_are_those_that_there_are() -> None:
    from agito.cli.arguments import environments, recipes
    from agito.envs import bundled
    from agito.recipe import bundled as bundled_recipes

    assert environments("")[: len(bundled())] == list(bundled())
    assert [name for name in recipes("") if "." not in name] == list(bundled_recipes())


def test_agito_in_is_quiet_about_a_missing_folder(tmp_path: Path) -> None:
    assert agito_in(tmp_path)("train", "--resume", "runs/none", expect=4).stdout == ""
