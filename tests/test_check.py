"""`make check` says how many tests it skipped, and why."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SKIPPING = """
import pytest

@pytest.mark.skip(reason="needs a GPU")
def test_one(): ...

@pytest.mark.skipif(True, reason="needs a GPU")
def test_two(): ...

@pytest.mark.parametrize("way", [1, 2, 3])
def test_three(way):
    pytest.skip("needs root,\\n to map 65,536 users")

def test_four(): ...
"""
NOT_COLLECTED = "import pytest\npytest.importorskip('nothing_of_that_name', reason='needs nothing')\n"


def told(folder: Path, *options: str) -> str:
    place = folder / "skips"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--import-mode=importlib",
        *options,
        str(folder),
    ]
    env = {**os.environ, "AGITO_SKIPS": str(place), "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    done = subprocess.run(
        [*command, "-p", "tests.conftest", "-c", "/dev/null", "--rootdir", str(folder)],
        env=env,
        capture_output=True,
        text=True,
    )
    assert place.exists(), done.stdout + done.stderr
    return place.read_text()


def test_skips_are_counted_by_reason_one_line_each(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(SKIPPING)
    (tmp_path / "test_none.py").write_text(NOT_COLLECTED)
    wanted = (
        "skipped: 6\n    3 × needs root, to map 65,536 users\n    2 × needs a GPU\n    1 × needs nothing\n"
    )
    assert told(tmp_path) == wanted
    assert told(tmp_path, "-n", "2") == wanted


def test_that_nothing_was_skipped_is_said_too(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text("def test_four(): ...\n")
    assert told(tmp_path) == "skipped: none\n"


def test_check_ends_with_what_it_skipped_and_keeps_how_it_ended() -> None:
    script = (ROOT / "scripts" / "check.sh").read_text()
    assert re.search(
        r"export AGITO_SKIPS\n[\s\S]*part tests pytest[\s\S]*cat \"\$AGITO_SKIPS\"\nif \[", script
    )


def test_every_skip_says_what_it_needs() -> None:
    bare = re.compile(r"pytest\.skip\(\)|mark\.skip\b(?!\(|if)|importorskip\(\"\w+\"\)")
    assert not [
        str(path)
        for path in (ROOT / "tests").rglob("*.py")
        if path.name != "test_check.py" and bare.search(path.read_text())
    ]
