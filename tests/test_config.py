"""Recipes: precedence of settings, and messages for invalid ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from agito import config
from agito.errors import BadRecipe, NotFound
from agito.recipe import Recipe, find, read


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\n[rl]\nsteps = 7\ngroup_size = 4\n')
    return path


def test_a_set_beats_the_file_and_the_file_beats_the_default(recipe: Path) -> None:
    plain, changed = read(str(recipe)), read(str(recipe), ("rl.steps=9", "seed=3"))
    assert (plain.rl.steps, plain.rl.group_size, plain.rl.groups) == (7, 4, Recipe().rl.groups)
    assert (changed.rl.steps, changed.rl.group_size, changed.seed) == (9, 4, 3)


def test_of_two_settings_of_one_key_the_last_wins(recipe: Path) -> None:
    assert read(str(recipe), ("rl.steps=9", "rl.steps=11")).rl.steps == 11


def test_values_are_toml_and_a_bare_word_is_a_string(recipe: Path) -> None:
    found = read(
        str(recipe),
        (
            "env.levels=[2,3]",
            "env.name=coin",
            "rl.temperature=0.5",
            "model.tie_embeddings=false",
            'name="a b"',
        ),
    )
    assert (
        found.env.levels,
        found.env.name,
        found.rl.temperature,
        found.model.tie_embeddings,
        found.name,
    ) == (
        (2, 3),
        "coin",
        0.5,
        False,
        "a b",
    )


def test_an_unknown_key_names_those_that_are_known(recipe: Path) -> None:
    with pytest.raises(
        BadRecipe, match=r"rl\.stepz: there is no such key; known here: adaptive_sampling, .*steps"
    ):
        read(str(recipe), ("rl.stepz=3",))
    with pytest.raises(BadRecipe, match=r"rll: there is no such key; known here: .*rl, "):
        read(str(recipe), ("rll.steps=3",))


def test_an_unknown_key_in_the_file_names_the_file(recipe: Path) -> None:
    recipe.write_text("[rl]\nstep = 3\n")
    with pytest.raises(BadRecipe, match=r"mine\.toml: rl\.step: there is no such key"):
        read(str(recipe))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rl.steps=-1", r"rl\.steps=-1: .*greater than or equal to 0"),
        ("rl.steps=many", r"rl\.steps='many': .*integer"),
        ("sft.skill=1.5", r"sft\.skill=1\.5: .*less than or equal to 1"),
        ("env.dialect=latin", r"env\.dialect='latin': .*'compact' or 'natural'"),
        ("pipeline.mode=ppo", r"pipeline.mode='ppo': .*'on_policy'"),
        ("rl.groups=7", r"rl\.groups=7: must be a multiple of compute\.ranks=2"),
        ("rl.steps", r"--set rl\.steps: write a\.b=value"),
        ("=3", r"--set =3: write a\.b=value"),
        ("seed.x=3", r"--set|seed"),
    ],
)
def test_a_value_that_does_not_hold_is_named_with_its_remedy(
    recipe: Path, override: str, message: str
) -> None:
    with pytest.raises(BadRecipe, match=message):
        read(str(recipe), (override,))


def test_a_key_below_a_value_is_refused(recipe: Path) -> None:
    with pytest.raises(BadRecipe, match=r"name is a value, not a table"):
        read(str(recipe), ("name.first=3",))


def test_every_mistake_is_told_at_once(recipe: Path) -> None:
    with pytest.raises(BadRecipe) as caught:
        read(str(recipe), ("rl.steps=-1", "sft.demos=-1"))
    assert "rl.steps" in str(caught.value) and "sft.demos" in str(caught.value)


def test_text_that_is_not_toml_is_refused(recipe: Path) -> None:
    for content in (b"name = \n", b"\xff\xfe"):
        recipe.write_bytes(content)
        with pytest.raises(BadRecipe, match="not TOML"):
            read(str(recipe))


def test_a_missing_recipe_says_what_there_is() -> None:
    with pytest.raises(NotFound, match="quickstart"):
        find("quickstrat")
    with pytest.raises(NotFound, match="no such file"):
        find("none.toml")


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe().seed = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", sorted(path.stem for path in find("quickstart").parent.glob("*.toml")))
def test_every_bundled_recipe_holds_and_survives_being_written_down(name: str, tmp_path: Path) -> None:
    found = read(name)
    (tmp_path / "again.toml").write_text(config.dump(found))
    assert config.read(Recipe, tmp_path / "again.toml") == found
    assert found.name == name


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("rl.stepz=3", r"--set rl\.stepz=3: rl\.stepz: .*; did you mean steps\?"),
        (
            "trainer.loss.clip_hig=3",
            r"trainer\.loss\.clip_hig: .* known here: clip_high, .*; did you mean clip_high\?",
        ),
        ("trainer.loss.name=ppo", r"trainer\.loss: name: there is decoupled_ppo, cispo, gspo and dppo"),
        (
            'env.mix=[{nam="shell"}]',
            r"env\.mix\.0\.nam: there is no such key; known here: families, levels, name, weight",
        ),
        ("compute.device=tpu", r"compute\.device='tpu': write cpu, cuda or cuda:0"),
        ("compute.device=cuda:x", r"write cpu, cuda or cuda:0"),
        ("sft.demos=1", r"sft\.demos=1: must be at least sft\.batch=8"),
        ("model.head_dim=33", r"head_dim=33: must be even"),
    ],
)
def test_a_mistake_blames_the_override_that_brought_it_in_and_says_what_was_meant(
    recipe: Path, override: str, said: str
) -> None:
    with pytest.raises(BadRecipe, match=said) as caught:
        read(str(recipe), ("seed=1", override))
    assert ": :" not in str(caught.value) and "Value error" not in str(caught.value)


def test_a_loss_may_be_changed_without_naming_it_again(recipe: Path) -> None:
    loss = read(str(recipe), ("trainer.loss.clip_high=1.4",)).trainer.loss
    assert (loss.name, loss.model_dump()["clip_high"]) == ("decoupled_ppo", 1.4)
    assert read(str(recipe), ("trainer.loss.name=gspo",)).trainer.loss.name == "gspo"


def test_one_override_that_is_no_list_is_not_read_letter_by_letter(recipe: Path) -> None:
    with pytest.raises(
        BadRecipe, match=r"overrides='rl\.steps=3': give a list of such words, \['rl\.steps=3'\]"
    ):
        read(str(recipe), "rl.steps=3")  # type: ignore[arg-type]


def test_a_recipe_that_is_misspelt_says_which_was_meant() -> None:
    with pytest.raises(NotFound, match=r"did you mean quickstart\?"):
        find("quickstrat")
