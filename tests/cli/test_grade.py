"""`agito grade`: a folder made by hand gets the verdict that training would give."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from tests.cli.conftest import Agito

TASK = '''"""Return the distinct numbers in ascending order."""

VISIBLE = [([3, 1, 3],), ([],)]


def hidden(rng):
    return [([rng.randrange(9) for _ in range(6)],) for _ in range(6)]


def solve(xs):
    return sorted(set(xs))
'''
CHEAT = "import os\ndef solve(xs):\n    os.write(200, b'[1]')\n    return xs\n"


def test_a_function_task_is_one_file_and_needs_no_code(agito_here: Agito, tmp_path: Path) -> None:
    (tmp_path / "distinct.py").write_text(TASK)
    work = tmp_path / "work"
    work.mkdir()
    (work / "helper.py").write_text("def order(xs):\n    return sorted(set(xs))\n")
    (work / "conftest.py").write_text("raise SystemExit\n")
    (work / "solution.py").write_text("from helper import order\nsolve = order\nprint('hello')\n")
    right = json.loads(agito_here("grade", "distinct.py", "--workspace", "work", "--json").stdout)
    assert (right["reward"], right["scores"], right["flags"]) == (
        1.0,
        {"success": 1.0, "hidden": 1.0, "visible": 1.0},
        [],
    )
    assert "not carried: conftest.py" in right["evidence"]
    (work / "solution.py").write_text(CHEAT)
    wrong = agito_here("grade", "distinct.py", "--workspace", "work").stdout
    assert wrong.startswith("reward 0") and "forged_report (proof)" in wrong


def test_a_task_of_an_environment_is_begun_repaired_by_hand_and_judged(
    agito_here: Agito, tmp_path: Path
) -> None:
    which = ("code", "heldout/missing-1/3", "--workspace", "work")
    assert "`pass` stands there" in agito_here("grade", *which, "--begin").stdout
    assert json.loads(agito_here("grade", *which, "--json").stdout)["reward"] == 0.0
    log = subprocess.run(
        ["git", "log", "--oneline"],
        cwd=tmp_path / "work",
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert len(log.stdout.splitlines()) == 3
    (path,) = (tmp_path / "work").glob("*.py")
    from agito.envs.code.words import TERSE

    text = path.read_text()
    path.write_text(text.replace("pass", ";".join(TERSE.read(text)[1])))
    assert json.loads(agito_here("grade", *which, "--json").stdout)["reward"] == 1.0


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("code", "heldout/0", "--workspace", "gone"), 4, "name a folder"),
        (("code", "7", "--workspace", "."), 3, "SPLIT/INDEX"),
        (("code", "heldout/bug-9/0", "--workspace", "."), 3, "level=9"),
        (("code", "heldout/bug-1/0", "--workspace", "."), 3, "begun for another task"),
        (("gone.py", "--workspace", "."), 4, "task file gone.py"),
        (("bad.py", "--workspace", "."), 3, "needs a docstring"),
        (("torn.py", "--workspace", "."), 3, "SyntaxError"),
        (("odd.py", "--workspace", "."), 3, "no plain JSON value"),
        (("code", "heldout/0", "--workspace", ".", "--begin"), 3, "is not empty"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(
    agito_here: Agito, tmp_path: Path, words: tuple[str, ...], code: int, line: str
) -> None:
    (tmp_path / "bad.py").write_text("x = 1\n")
    (tmp_path / "torn.py").write_text("def\n")
    (tmp_path / "odd.py").write_text(TASK.replace("sorted(set(xs))", "set(xs)"))
    done = agito_here("grade", *words, expect=code)
    assert line in done.stderr and "Traceback" not in done.stderr


TOUCHY = """from agito.testing import FakeEnvironment


class Touchy(FakeEnvironment):
    async def grade(self, sealed, key, grade_seed):
        if sealed.submitted == "bomb" or {always}:
            raise RecursionError("maximum recursion depth exceeded")
        return await super().grade(sealed, key, grade_seed)
"""


def test_what_a_candidate_does_to_a_grader_is_a_verdict_and_no_report(
    agito_here: Agito, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "touchy.py").write_text(TOUCHY.format(always=False))
    done = agito_here("grade", "touchy.py:Touchy", "train/0", "--workspace", "work", "--submit", "bomb")
    assert (
        done.stdout.startswith("reward 0")
        and "never on a reference" in done.stdout
        and "report it" not in done.stderr
    )
    (tmp_path / "touchy.py").write_text(TOUCHY.format(always=True))
    done = agito_here(
        "grade", "touchy.py:Touchy", "train/0", "--workspace", "work", "--submit", "bomb", expect=10
    )
    assert "on a reference too" in done.stderr and "report it" not in done.stderr


def test_names_and_values_that_no_terminal_can_show_are_shown_all_the_same(
    agito: Agito, tmp_path: Path
) -> None:
    (tmp_path / "distinct.py").write_text(TASK)
    work = tmp_path / "work"
    work.mkdir()
    (work / os.fsdecode(b".\xff\x1b[2J")).write_bytes(b"")
    (work / "solution.py").write_text("def solve(xs):\n    return '\\ud83d\\x1b[2J' + str(xs)\n")
    done = agito("grade", "distinct.py", "--workspace", "work")
    assert done.stdout.startswith("reward 0") and "\\udcff" in done.stdout and "\x1b[2J" not in done.stdout
    assert done.stderr == ""
    (tmp_path / "distinct.py").write_text(
        TASK.replace("return [([", "raise KeyError('level')\n    return [([")
    )
    assert "KeyError" in agito("grade", "distinct.py", "--workspace", "work", expect=3).stderr
