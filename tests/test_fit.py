"""A recipe and its environments: mismatches are found before anything is created, and options of another
environment are dropped."""

from __future__ import annotations

from pathlib import Path

import pytest

from agito.errors import BadRecipe
from agito.evaluation.saved_policy import Changes
from agito.plugins import absolute, label, shown
from agito.recipe import Recipe, read
from agito.runtime.load_policy import recipe_of
from agito.runtime.recipe_check import fit

COIN = "agito.testing:FakeEnvironment"
TWO_SPLITS = """
from agito.testing import FakeEnvironment


class Own(FakeEnvironment):
    splits = ("train", "heldout")


class Bare(FakeEnvironment):
    splits = ("train",)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(TWO_SPLITS)
    return tmp_path


def test_another_environment_leaves_the_families_levels_and_weights_of_the_recipes_own_behind() -> None:
    found = read("quickstart", (f"env.name={COIN}",))
    assert (found.env.families, found.env.levels, found.sft.weights) == ((), (), {})
    assert found.rl == read("quickstart").rl
    fit(found)


def test_what_is_set_beside_another_environment_holds() -> None:
    found = read("smoke", (f"env.name={COIN}", "env.levels=[2]", 'sft.weights={"coin-2"=0.5}'))
    assert (found.env.levels, found.sft.weights) == ((2,), {"coin-2": 0.5})


def test_naming_the_recipes_own_environment_changes_nothing() -> None:
    assert read("quickstart", ("env.name=shell",)) == read("quickstart")


def test_a_mixture_is_left_behind_by_one_environment_and_the_reverse(here: Path) -> None:
    (here / "two.toml").write_text('name = "two"\n[[env.mix]]\nname = "shell"\n[[env.mix]]\nname = "code"\n')
    assert read("two.toml", ("env.name=desk",)).env.names == ("desk",)
    mixed = read("quickstart", ('env.mix=[{name="shell"},{name="desk"}]',))
    assert (mixed.name, mixed.env.levels, mixed.sft.weights) == ("quickstart-shell+desk", (), {})


@pytest.mark.parametrize(
    ("env", "name"),
    [
        ("own.py:Own", "own"),
        ("deep/hidden_number.py:HiddenNumber", "hidden_number"),
        ("own.py:Loose", "own-Loose"),
        ("code", "code"),
        (COIN, "testing-FakeEnvironment"),
    ],
)
def test_a_run_is_named_after_what_it_trains(env: str, name: str) -> None:
    assert label(env) == name
    assert read("smoke", (f"env.name={env}",)).name == f"smoke-{name}"
    assert read("smoke", (f"env.name={env}", "name=mine")).name == "mine"


def test_an_environments_path_means_the_same_from_every_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = read("smoke", ("env.name=own.py:Own",)).env.name
    assert kept == f"{here}/own.py:Own" == absolute("own.py:Own")
    assert shown(kept) == "own.py:Own"
    assert (
        Changes(env="own.py:Own", levels=(1,))
        .applied_to(read("smoke", (f"env.name={kept}", "env.levels=[2]")))
        .env.families
        == ()
    )
    monkeypatch.chdir("/")
    assert shown(kept) == kept.removeprefix("/") and absolute(kept) == kept
    fit(read("smoke", (f"env.name={kept}",)))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("env.levels=[1,77]", "env.levels=77: shell has 1, 2, 3, 4, 5"),
        ('env.families=["fimd"]', "env.families=fimd: shell has find, repair; did you mean find?"),
        ('sft.weights={"find-9"=1.0}', "sft.weights: there is no cell find-9; there are find-1"),
        ('sft.weights={"foo"=1.0}', "sft.weights: there is no cell foo; there are find-1"),
        ('env.mix=[{name="shell",levels=[9]}]', "env.mix.0.levels=9: shell has"),
        ('env.mix=[{name="shell"},{name="shell"}]', "need at least one environment, and each once"),
    ],
)
def test_a_typo_in_levels_families_or_cells_names_what_there_is(override: str, said: str) -> None:
    with pytest.raises(BadRecipe) as caught:
        fit(read("quickstart", (override,)))
    assert said in str(caught.value)


def test_an_environment_without_a_structural_split_is_not_evaluated_on_one_and_that_is_said_once(
    here: Path,
) -> None:
    fitted = fit(read("quickstart", ("env.name=own.py:Own",)))
    assert fitted.recipe.eval.structural_tasks == 0
    (note,) = fitted.notes
    assert note == "own.py:Own has no split `structural`: there will be no evaluation on another structure"
    assert fit(read("quickstart", ("env.name=own.py:Own", "eval.structural_tasks=0"))).notes == ()


def test_an_environment_without_held_out_tasks_is_refused_at_once(here: Path) -> None:
    with pytest.raises(BadRecipe, match="has the splits train: training needs heldout too"):
        fit(read("quickstart", ("env.name=own.py:Bare",)))


def test_a_recipe_that_fits_is_left_as_it_is() -> None:
    assert fit(Recipe()).recipe == Recipe()


def test_prompts_beside_another_environment_have_no_scripts_in_common(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text("".join(f'{{"prompt": "p{at}"}}\n' for at in range(10)))
    (tmp_path / "mine.py").write_text("def reward(completion):\n    return 0\n")
    prompts = {"name": f"{tmp_path}/tasks.jsonl,reward={tmp_path}/mine.py:reward"}
    recipe = Recipe.model_validate(
        {"model": {"path": str(tmp_path)}, "env": {"mix": [prompts, {"name": "shell"}]}, "sft": {"demos": 0}}
    )
    found = fit(recipe).recipe
    assert (found.eval.baseline_tasks, found.eval.structural_tasks, found.eval.tasks) == (0, 0, 200)
    alone = fit(recipe.model_copy(update={"env": recipe.env.model_copy(update={"mix": (), **prompts})}))
    assert alone.recipe.eval.tasks == 1 and "all 1 held-out prompts" in alone.notes[0]


def test_conversations_are_for_a_pre_trained_model(tmp_path: Path) -> None:
    (tmp_path / "talk.jsonl").write_text('{"messages": [{"role": "assistant", "content": "x"}]}\n')
    with pytest.raises(BadRecipe, match=r"sft\.messages: conversations are for a pre-trained model"):
        fit(read("smoke", (f"sft.messages={tmp_path}/talk.jsonl",)))


def test_efforts_are_not_asked_of_a_team() -> None:
    with pytest.raises(BadRecipe, match=r"effort\.settings: the agents of a team"):
        fit(read("team-fanout", ("effort.settings=['none', 'high']",)))


def test_a_model_that_holds_fewer_tokens_than_the_recipe_asks_for_acts_within_what_it_holds(
    tmp_path: Path,
) -> None:
    model, adapter = tmp_path / "models" / "short", tmp_path / "models" / "adapter"
    for folder in (model, adapter):
        folder.mkdir(parents=True)
        (folder / "tokenizer.json").write_text('{"added_tokens": []}')
    (model / "config.json").write_text('{"model_type": "llama", "max_position_embeddings": 512}')
    (adapter / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{model}"}}')
    for folder in (model, adapter):
        assert recipe_of(folder).compute.context == 512
        fitted = fit(read("shell", (f"model.path={folder}",)))
        assert fitted.recipe.compute.context == 512
        assert fitted.notes == (f"compute.context is 512: the model in {folder} holds no more tokens",)
        assert fit(read("shell", (f"model.path={folder}", "compute.context=400"))).notes == ()
