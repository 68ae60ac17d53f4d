"""What a run will ask of a machine, said before it is begun."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.cli.conftest import COIN, Agito, sets
from tests.test_policies import pretrained
from tests.trainer.rank import samples_of

from agito.cli.dry_run import require_room
from agito.errors import BadRecipe
from agito.learning.trainer import LocalTrainer, TrainerConfig, save_state
from agito.models import Decoder
from agito.models.config import DecoderConfig, LoraConfig
from agito.models.lora import adapt
from agito.recipe import Recipe, read
from agito.training.planning.footprint import (
    Footprint,
    Part,
    footprint,
    num_adapter,
    num_params,
    waiting_bytes,
)

SHAPES = {
    "qwen3": DecoderConfig(vocab_size=77),
    "untied, biases": DecoderConfig(
        vocab_size=77, tie_embeddings=False, qk_norm=False, qkv_bias=True, out_bias=True, mlp_bias=True
    ),
    "gemma": DecoderConfig(vocab_size=77, family="gemma3_text", sandwich_norms=True, norm_offset=True),
    "one layer, all heads": DecoderConfig(vocab_size=300, num_layers=1, num_kv_heads=4, qk_norm=False),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_are_counted_as_the_network_has_them(shape: str) -> None:
    config = SHAPES[shape]
    model = Decoder(config)
    assert num_params(config) == sum(each.numel() for each in model.parameters())
    lora = LoraConfig(rank=3, targets=("q_proj", "down_proj"))
    adapted = adapt(model, lora, seed=0)
    trained = [each.numel() for each in adapted.parameters() if each.requires_grad]
    assert num_adapter(config, lora) == sum(trained)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "auto"])
def test_a_checkpoint_is_as_large_as_was_said(tmp_path: Path, optimizer: str) -> None:
    recipe = Recipe.model_validate({"trainer": {"optimizer": optimizer}})
    said = footprint(recipe)
    model = Decoder(DecoderConfig(**recipe.model.shape(), vocab_size=recipe.model.vocab_size))
    trainer = LocalTrainer(model, TrainerConfig.model_validate({"optimizer": optimizer}))
    trainer.begin_phase("sft", 2)
    trainer.sft_step(samples_of(0))
    save_state(trainer, tmp_path)
    weights = 4 * said.num_params
    found = weights + sum(file.stat().st_size for file in tmp_path.iterdir())
    assert said.checkpoint_bytes == pytest.approx(found, rel=0.02)


def test_what_will_not_fit_is_refused_with_the_numbers_and_the_knob() -> None:
    parts = (
        Part(name="weights, to learn", num_bytes=1 << 30, knob="compute.ranks", num=2),
        Part(name="KV cache, full", num_bytes=5 << 30, knob="compute.max_num_seqs", num=2),
    )
    found = Footprint(num_params=10, num_trained=10, parts=parts, checkpoint_bytes=1 << 30)
    with pytest.raises(BadRecipe, match=r"12\.0 GB of memory and 6\.0 GB are free.*KV cache.*max_num_seqs"):
        require_room(found, free=6 << 30, disk=1 << 40)
    with pytest.raises(BadRecipe, match=r"4\.0 GB of disk and 1\.0 GB are free; --out"):
        require_room(found, free=1 << 40, disk=1 << 30)
    require_room(found, free=1 << 40, disk=1 << 40)
    require_room(found, free=1 << 20, disk=1 << 40, is_here=False)
    require_room(replace(found, parts=parts[:1]), free=3 << 30, disk=1 << 40)


def test_other_policies_take_memory_of_their_own_and_those_that_learn_disk(tmp_path: Path) -> None:
    model = pretrained(tmp_path / "model")
    alone = footprint(read("team-fanout", (f"model.path={model}",)))
    named = (f"model.path={model}", f"policies.worker.path={model}", "agents.worker.policy=worker")
    frozen = footprint(read("team-fanout", named))
    learning = footprint(read("team-fanout", (*named, "policies.worker.learns=true")))
    assert alone.total < frozen.total < learning.total
    assert alone.num_trained == frozen.num_trained == learning.num_trained / 2
    assert alone.disk_bytes == frozen.disk_bytes == learning.disk_bytes / 2
    names = [part.name for part in learning.parts if part.name.startswith("worker: ")]
    assert len(names) == 4 and "worker: activations, about" not in names, names
    assert {part.knob for part in learning.parts if "worker: adapter" in part.name} == {
        "policies.worker.lora.rank"
    }


def test_each_knob_that_is_named_makes_its_part_smaller() -> None:
    def part(name: str, **given: Mapping[str, object]) -> int:
        found = footprint(Recipe.model_validate(given))
        return next(each.total for each in found.parts if each.name.startswith(name))

    for name, table, knob, value in (
        ("KV", "compute", "max_num_seqs", 8),
        ("KV", "compute", "context", 64),
        ("activations", "trainer", "micro_tokens", 512),
        ("activations", "trainer", "keep_activations", False),
        ("activations", "trainer", "keep_activations", 256),
        ("weights, to learn", "compute", "ranks", 1),
        ("weights, to sample", "model", "hidden_size", 64),
        ("moments", "model", "hidden_size", 64),
        ("gradients", "model", "hidden_size", 64),
    ):
        assert part(name, **{table: {knob: value}}) < part(name), knob


def test_learning_and_sampling_that_take_turns_need_room_for_the_larger_of_them() -> None:
    parts = tuple(
        Part(name=when, num_bytes=size << 20, knob="", num=2, when=when)  # type: ignore[arg-type]
        for when, size in (("", 10), ("learning", 30), ("sampling", 20))
    )
    found = Footprint(num_params=1, num_trained=1, parts=parts, checkpoint_bytes=1, takes_turns=True)
    assert found.total == 2 * (10 + 30) << 20
    assert replace(found, takes_turns=False).total == 2 * (10 + 30 + 20) << 20


@pytest.mark.parametrize("kept", [0, 100, 300, 400])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_activations_take_what_is_said_of_them(dtype: torch.dtype, kept: int) -> None:
    config = DecoderConfig(
        vocab_size=77, hidden_size=256, intermediate_size=640, num_layers=8, num_heads=8, qk_norm=False
    )
    model, waiting = adapt(Decoder(config).to(dtype), LoraConfig(rank=2), seed=0), dict[int, int]()
    own = {parameter.data_ptr() for parameter in model.parameters()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            waiting[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        _, prefix = model.extend(torch.arange(400) % 77, [400], (), kept)
        for tensor in prefix.tensors():  # waits for what continues it
            note(tensor)
    assert waiting_bytes(config, 400, kept, dtype.itemsize) == pytest.approx(sum(waiting.values()), rel=0.15)


def test_too_large_a_run_is_refused_before_anything_is_loaded(agito: Agito, tmp_path: Path) -> None:
    began = time.monotonic()
    large = ("model.hidden_size=16384", "model.num_layers=200", "model.intermediate_size=65536")
    done = agito("train", "quickstart", "--dry-run", *sets(*large), expect=3)
    assert time.monotonic() - began < 20
    assert re.search(
        r"takes about [\d.]+ GB of memory and [\d.]+ [GM]B are free; the largest part is", done.stderr
    )
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_says_what_a_step_takes_and_leaves_nothing(agito: Agito, tmp_path: Path) -> None:
    done = agito("train", "smoke", "--dry-run", *sets(*COIN))
    said = " ".join(done.stdout.split())
    assert re.search(r"parameters [\d ]+, of which [\d ]+ are trained \(100\.0%\)", said)
    assert re.search(r"seconds a step [\d.]+ \(sampling [\d.]+, learning at most [\d.]+\)", said)
    assert re.search(r"tokens a step [\d ]+ tokens sampled, [\d ]+ tokens learned from, in 4 attempts", said)
    assert re.search(r"cold start 8 steps of imitation, \d+ s, once", said), "as long as a minute in seconds"
    assert re.search(r"reinforcement 3 steps, \d+ s ", said)
    assert "Evaluations come on top" in said
    assert "a checkpoint" in said and "agito plan" not in said
    assert not (tmp_path / "runs").exists()
    assert "leave --dry-run out" in agito("train", "--resume", "runs/x", "--dry-run", expect=2).stderr
