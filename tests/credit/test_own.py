"""A credit estimator of one's own is found by `path.py:Class`, or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from agito.errors import BadRecipe, NotFound
from agito.learning.credit import CREDITS, load
from agito.recipe import read


@pytest.mark.parametrize(
    ("name", "why"),
    [("leave_on_out", "did you mean leave_one_out"), ("grpo", r"your own is path\.py:Class")],
)
def test_an_unknown_estimator_is_refused_when_the_recipe_is_read(name: str, why: str) -> None:
    with pytest.raises(BadRecipe, match=why):
        read("smoke", (f"rl.credit={name}",))


def test_a_path_is_kept_absolute_and_a_bundled_name_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read("smoke", ("rl.credit=mine.py:Mine",)).rl.credit == f"{tmp_path}/mine.py:Mine"
    assert [read("smoke", (f"rl.credit={name}",)).rl.credit for name in CREDITS] == list(CREDITS)


def test_an_estimator_that_cannot_be_made_or_called_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "class Broken:\n    def __init__(self): raise TypeError('no')\n"
        "class Mute: pass\n"
        "class Mine:\n    def __call__(self, group, *, running_mean): return ()\n"
    )
    assert load(f"{path}:Mine") is not None
    with pytest.raises(BadRecipe, match=r"Broken\(\) fails: TypeError: no"):
        load(f"{path}:Broken")
    with pytest.raises(BadRecipe, match="Mute lacks __call__"):
        load(f"{path}:Mute")
    with pytest.raises(NotFound, match=r"mine\.py has no Absent"):
        load(f"{path}:Absent")
