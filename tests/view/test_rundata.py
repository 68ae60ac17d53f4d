"""What the report reads from a run's files: curves, what was trained on, intervals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agito.record import wilson
from agito.view.rundata import environment, read_curves
from agito.view.rundata import wilson as wilson_of_the_page


def test_curves_skip_torn_lines_and_keep_the_later_of_two_measurements(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [
        {"step": 1, "phase": "rl", "wall_s": 1.0, "a/b": 1},
        {"step": 0, "phase": "rl", "wall_s": 0.5, "a/b": None},
    ]
    lines += [{"step": 1, "phase": "rl", "wall_s": 2.0, "a/b": 3, "a/c": 4}]
    path.write_text("\n".join(json.dumps(line) for line in lines) + '\n{"step": 2, "pha')
    assert read_curves(path) == {
        "rl": {"step": [0, 1], "wall_s": [0.5, 2.0], "values": {"a/b": [None, 3], "a/c": [None, 4]}}
    }


@pytest.mark.parametrize(
    ("config", "shown"),
    [
        ('[env]\nname = "shell"\n', "shell"),
        ('[env]\nname = "/deep/in/own.py:Own"\n', "own.py:Own"),
        (
            '[env]\nname = "shell"\n[[env.mix]]\nname = "code"\n[[env.mix]]\nname = "/a/own.py:Own"\n',
            "code + own.py:Own",
        ),
        ("[env]\n", ""),
        ("torn = ", ""),
        ("env = 3\n", ""),
    ],
)
def test_the_page_says_what_was_trained_on(config: str, shown: str) -> None:
    assert environment(config) == shown


def test_the_page_and_the_record_agree_on_wilson() -> None:
    for successes, num in ((0, 0), (0, 7), (7, 7), (20, 64)):
        assert wilson_of_the_page(successes, num) == pytest.approx(wilson(successes, num), abs=1e-12)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (
            "/a/b/tasks.jsonl,reward=/a/b/my_reward.py:reward,tokens=16",
            "tasks.jsonl,reward=my_reward.py:reward,tokens=16",
        ),
        ("data/gsm,reward=r.py:f,tools=/x/t.py:a+/y/u.py:b", "gsm,reward=r.py:f,tools=t.py:a+u.py:b"),
        ("/home/me/own.py:Own", "own.py:Own"),
        ("shell", "shell"),
    ],
)
def test_the_environment_of_a_run_is_named_whole_without_its_folders(name: str, shown: str) -> None:
    assert environment(f'[env]\nname = "{name}"\n') == shown
