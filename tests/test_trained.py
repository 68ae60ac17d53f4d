"""What a checkpoint alone reveals about its policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agito import config
from agito.errors import CorruptCheckpoint, NotFound
from agito.models import Qwen3, Qwen3Config, UnsupportedCheckpoint, save
from agito.recipe import Recipe
from agito.runtime.load_policy import recipe_of

SHAPE = Qwen3Config(
    vocab_size=300,
    hidden_size=32,
    intermediate_size=48,
    num_layers=1,
    num_heads=4,
    num_kv_heads=2,
    head_dim=12,
    max_position=128,
    rope_theta=1e6,
    rms_norm_eps=1e-5,
    tie_embeddings=False,
)


@pytest.mark.parametrize("without", ["nothing", "rope_theta", "rope_parameters"])
def test_a_checkpoint_away_from_its_run_says_its_whole_shape_in_the_layout_of_either_transformers(
    without: str, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "a" / "b"
    save(Qwen3(SHAPE, seed=1), checkpoint)
    data = json.loads((checkpoint / "config.json").read_text())
    data.pop(without, None)
    (checkpoint / "config.json").write_text(json.dumps(data))
    recipe = recipe_of(checkpoint)
    assert (
        Qwen3Config(
            **recipe.model.shape(), vocab_size=recipe.model.vocab_size, max_position=recipe.compute.context
        )
        == SHAPE
    )


def test_a_checkpoint_that_says_too_little_or_of_another_network_is_named(tmp_path: Path) -> None:
    checkpoint = tmp_path / "a" / "b"
    checkpoint.mkdir(parents=True)
    with pytest.raises(NotFound):
        recipe_of(checkpoint)
    (checkpoint / "config.json").write_text('{"model_type": "qwen3"}')
    with pytest.raises(CorruptCheckpoint, match="num_attention_heads"):
        recipe_of(checkpoint)
    (checkpoint / "config.json").write_text('{"model_type": "mixtral"}')
    with pytest.raises(UnsupportedCheckpoint, match="mixtral"):
        recipe_of(checkpoint)


def test_a_policy_that_learned_beside_main_has_its_own_precision(tmp_path: Path) -> None:
    asked = {"policies": {"writer": {"path": "x", "learns": True}}, "model": {"dtype": "bfloat16"}}
    (tmp_path / "config.toml").write_text(config.dump(Recipe.model_validate(asked)))
    steps = [tmp_path / "checkpoints" / "step-1", tmp_path / "policies" / "writer" / "checkpoints" / "step-1"]
    assert [recipe_of(step).model.dtype for step in steps] == ["bfloat16", "float32"]
