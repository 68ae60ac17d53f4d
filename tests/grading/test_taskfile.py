"""Task files that cannot be judged are refused when they are loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agito.errors import BadRecipe
from agito.grading import taskfile

TASK = '''"""Echo."""
VISIBLE = [([3],), ([],)]


def hidden(rng):
    return [([rng.randrange(9)],) for _ in range(3)]


def solve(xs):
    return xs
'''
UNJUDGEABLE: dict[str, tuple[Callable[[str], str], str]] = {
    "a name that is not there": (
        lambda text: text.replace("return xs", "return xs if xs else missing"),
        "NameError",
    ),
    "an assertion about its own inputs": (
        lambda text: text.replace("return xs", "assert len(xs) > 2\n    return xs"),
        "AssertionError",
    ),
    "more arguments than it takes": (lambda text: text.replace("(9)],)", "(9)], 1)"), "cannot be called"),
    "no plain value": (lambda text: text.replace("return xs", "return set(xs)"), "no plain JSON value"),
    "inputs that are not plain": (lambda text: text.replace("(9)],)", "(9), {1}],)"), "no plain JSON value"),
    "no hidden case": (lambda text: text.replace("range(3)", "range(0)"), "draws no case"),
    "cases by another generator": (
        lambda text: text.replace("    return [(", "    import random as rng\n    return [("),
        "draw the same",
    ),
    "answers that change": (
        lambda text: text.replace("return xs", "return __import__('time').perf_counter()"),
        "same twice",
    ),
    "too slow for its own limit": (
        lambda text: text.replace("return xs", "sum(range(10**7))\n    return xs").replace(
            "VIS", "CASE_SECONDS = 0.01\nVIS"
        ),
        "processor",
    ),
    "an exit": (lambda text: text.replace("return xs", "raise SystemExit"), "SystemExit"),
    "an error of its own": (
        lambda text: text.replace("    return [([rng", "    raise KeyError('k')\n    return [([rng"),
        "KeyError",
    ),
    "too deep": (
        lambda text: text.replace("return xs", "for _ in range(600): xs = [xs]\n    return xs"),
        "deep",
    ),
    "a visible case that is no list": (lambda text: text.replace("([3],)", "3"), "TypeError"),
    "no time at all": (lambda text: text.replace("VIS", "CASE_SECONDS = 0.0\nVIS"), "case_seconds"),
}


@pytest.mark.parametrize("what", UNJUDGEABLE)
def test_a_task_that_cannot_be_judged_is_refused_when_it_is_loaded(tmp_path: Path, what: str) -> None:
    change, line = UNJUDGEABLE[what]
    (tmp_path / "task.py").write_text(change(TASK))
    assert change(TASK) != TASK
    with pytest.raises(BadRecipe, match=line):
        taskfile.load(tmp_path / "task.py")
    (tmp_path / "task.py").write_text(TASK)
    assert replace(taskfile.load(tmp_path / "task.py")[0], name="t").name == "t"
