"""An environment of your own: begun with one command, checked with another, trained on with a third."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import TINY, Agito, agito_in, environment, sets

BROKEN = """
import itertools

from agito.testing import FakeEnvironment
from agito.types import Status, Verdict

COUNT = itertools.count()


class Loose(FakeEnvironment):
    def task(self, **which):
        task, key = super().task(**which)
        return task, type(key)(task_id=task.id, seed=next(COUNT), data=key.data)

    async def grade(self, sealed, key, grade_seed):
        if sealed.submitted is None:
            raise KeyError("nobody thought of this")
        reward = float(bool(sealed.submitted))
        return Verdict(status=Status.SCORED, reward=reward, scores={"success": reward}, grade_seed=grade_seed)
"""


def test_a_new_environment_keeps_the_standard_passes_its_own_test_and_trains_at_once(
    agito: Agito, tmp_path: Path
) -> None:
    out = agito("envs", "new", "hidden_number").stdout
    own = "hidden_number.py:HiddenNumber"
    for word in (f"agito envs check {own}", f"agito audit {own}", f"agito train --env {own}"):
        assert word in out
    assert "keeps the standard" in agito("envs", "check", own).stdout
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_hidden_number.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stdout
    assert "hidden_number" in agito("envs", own).stdout
    tiny = [override for override in TINY if not override.startswith("env.")]
    assert "success on held-out tasks" in agito("train", "--env", own, *sets(*tiny, "rl.steps=1")).stdout
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = agito_in(elsewhere)("eval", "../runs/hidden_number", "--n", "4", "--no-baselines")
    assert "bisect-2" in done.stdout and "isolation" in done.stdout


def test_a_name_that_is_taken_or_none_is_refused(agito_here: Agito, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("x = 1\n")
    assert "already there" in agito_here("envs", "new", "mine", expect=3).stderr
    assert (tmp_path / "mine.py").read_text() == "x = 1\n"
    assert "lower-case Python name" in agito_here("envs", "new", "My-Env", expect=3).stderr


def test_check_names_the_line_and_the_remedy_of_every_broken_rule(agito_here: Agito, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(BROKEN)
    lines = agito_here("envs", "check", "own.py:Loose", expect=13).stdout.splitlines()
    at = lines.index("✗ a task is a pure function of its arguments")
    assert lines[at + 1].strip() == "own.py:11 in Loose.task"
    assert lines[at + 3].strip().startswith("Remedy: derive everything from the arguments")
    at = lines.index("✗ a verdict is a pure function of what was captured")
    assert lines[at + 1].strip() == "own.py:17 in grade"  # the line that raised
    at = lines.index("✗ doing nothing is scored and earns nothing")
    assert lines[at + 1].strip() == "as above: a verdict is a pure function of what was captured"
    at = lines.index("✗ negative controls stay at the floor")
    assert lines[at + 1].strip().endswith("negative_controls")
    assert "rules do not hold" in lines[-1]
    # told once, however many rules it breaks
    assert lines.count("    KeyError: 'nobody thought of this'") == 1
    assert any(line.startswith("    as above: ") for line in lines)


@pytest.mark.parametrize("words", [("envs",), ("envs", "shell"), ("envs", "list"), ("envs", "list", "shell")])
def test_envs_lists_what_there_is(agito_here: Agito, words: tuple[str, ...]) -> None:
    assert "find, repair" in agito_here(*words).stdout
