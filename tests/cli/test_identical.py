"""`benchmarks/identical.py` says "equal" of what is equal, and names what is not."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import COIN, ROOT, Agito, sets


@pytest.fixture
def identical(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("identical")


def test_the_same_run_again_is_equal(identical: Any, coin_home: Path, agito: Agito, tmp_path: Path) -> None:
    agito("train", "quickstart", "--out", "runs/again", *sets(*COIN))
    assert (
        identical.differences(
            identical.digest(coin_home / "runs/coin"), identical.digest(tmp_path / "runs/again")
        )
        == []
    )


@pytest.fixture
def altered(tmp_path: Path, coin_home: Path) -> Any:
    """A copy of the finished run, one of whose files says something else."""

    def alter(file: str, was: str, now: str) -> Path:
        for name in ("metrics.jsonl", "summary.json", "checkpoints/final/manifest.json"):
            text = (coin_home / "runs/coin" / name).read_text()
            assert name != file or was in text
            (tmp_path / "altered" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "altered" / name).write_text(text.replace(was, now) if name == file else text)
        return tmp_path / "altered"

    return alter


@pytest.mark.parametrize(
    ("file", "was", "now", "found"),
    [
        ("metrics.jsonl", '"sft/loss_nats": ', '"sft/loss_nats": 1', ["losses"]),
        ("summary.json", '"sampled_tokens": ', '"sampled_tokens": 1', ["summary.sampled_tokens"]),
        ("summary.json", '"sampled_tokens"', '"tokens_sampled"', ["summary.sampled_tokens"]),
        (
            "checkpoints/final/manifest.json",
            '"model.embed_tokens.weight": "',
            '"model.embed_tokens.weight": "0',
            ["weights"],
        ),
        ("summary.json", '"wall_s": ', '"wall_s": 1', []),
        ("metrics.jsonl", '"wall_s": ', '"wall_s": 1', []),
    ],
)
def test_what_differs_is_named_and_the_clock_is_not(
    identical: Any, coin_home: Path, altered: Any, file: str, was: str, now: str, found: list[str]
) -> None:
    assert (
        identical.differences(
            identical.digest(coin_home / "runs/coin"), identical.digest(altered(file, was, now))
        )
        == found
    )


def test_a_key_that_was_renamed_is_compared_through_the_map(
    identical: Any, coin_home: Path, altered: Any
) -> None:
    renames = {"sampled_tokens": "tokens_sampled"}
    before = identical.digest(coin_home / "runs/coin")
    now = identical.digest(altered("summary.json", '"sampled_tokens"', '"tokens_sampled"'), renames)
    assert identical.differences(before, now, renames) == []


def test_a_tree_of_before_is_given_the_keys_that_it_knew(identical: Any, tmp_path: Path) -> None:
    (tmp_path / "src/agito").mkdir(parents=True)
    (tmp_path / "src/agito/recipe.py").write_text("class Sft:\n    survey: int = 200\n")
    asked = ("sft.tokenizer_episodes", "sft.demos")
    assert [identical.Tree(root=tmp_path).key(name) for name in asked] == ["sft.survey", "sft.demos"]
    assert [identical.Tree(root=ROOT).key(name) for name in asked] == [*asked]


def test_the_recorded_digests_are_of_every_recipe_in_both_modes(identical: Any) -> None:
    recorded = json.loads(identical.DIGESTS.read_text())
    assert recorded["machines"]
    for recipes in recorded["machines"].values():
        assert {"smoke", "quickstart", "web", "code"} <= set(recipes)
        assert all(set(modes) == set(identical.MODES) and all(modes.values()) for modes in recipes.values())


def test_a_recipe_that_is_gone_differs(identical: Any, tmp_path: Path) -> None:
    before = {"on_policy": {"losses": "0"}, "decoupled": {"losses": "0"}}
    found = identical.compared("no-such-recipe", before, identical.Tree(root=ROOT), tmp_path)
    assert len(found) == 2 and all("no-such-recipe" in each for each in found)
    assert identical.compared("no-such-recipe", {}, identical.Tree(root=ROOT), tmp_path) == [
        "on_policy: nothing to compare with",
        "decoupled: nothing to compare with",
    ]
