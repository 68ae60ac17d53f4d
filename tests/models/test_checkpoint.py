"""Checkpoints against the real transformers, both ways, and what happens to damaged ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, Qwen3ForCausalLM
from transformers import Qwen3Config as HFConfig

from agito.errors import CorruptCheckpoint, NotFound
from agito.models import (
    Manifest,
    Qwen3,
    Qwen3Config,
    UnsupportedCheckpoint,
    WeightKind,
    load,
    load_into,
    read_config,
    save,
    tensor_hashes,
)

TINY = Qwen3Config(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=12,
    max_position=128,
)
UNTIED = Qwen3Config(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    tie_embeddings=False,
    rope_theta=5e5,
)
IDS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5])


@pytest.mark.parametrize("config", [TINY, UNTIED], ids=["tied", "untied"])
def test_transformers_loads_our_checkpoint_and_gives_the_same_logits(
    config: Qwen3Config, tmp_path: Path
) -> None:
    model = Qwen3(config, seed=5)
    save(model, tmp_path, eos_ids=(7,), pad_id=0)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert isinstance(theirs, Qwen3ForCausalLM)
    assert theirs.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS[None]).logits[0], model(IDS, [len(IDS)]), atol=1e-5, rtol=0)
    generation = GenerationConfig.from_pretrained(tmp_path)
    assert (generation.eos_token_id, generation.pad_token_id, generation.top_k) == (7, 0, 0)


@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
def test_a_sharded_bf16_checkpoint_of_transformers_loads_here_with_the_same_logits(
    tie: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = HFConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=24,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=tie,
        max_position_embeddings=128,
    )
    Qwen3ForCausalLM(config).bfloat16().save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 1
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ours = load(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS, [len(IDS)]), theirs(IDS[None]).logits[0], atol=1e-5, rtol=0)
    assert load(tmp_path).head_weight.dtype == torch.bfloat16


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    model = Qwen3(UNTIED, seed=2, dtype=torch.bfloat16)
    manifest = save(
        model,
        tmp_path / "a",
        version=7,
        policy="planner",
        extra={"tokenizer_config.json": "{}", "chat.jinja": b"x"},
    )
    again = load(tmp_path / "a")
    assert again.config == UNTIED
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert all(weight.requires_grad for weight in again.parameters())
    assert (manifest.version, manifest.policy, manifest.kind) == (7, "planner", WeightKind.FULL)
    assert (tmp_path / "a" / "chat.jinja").read_bytes() == b"x"
    assert set(manifest.files) >= {
        "config.json",
        "model.safetensors",
        "generation_config.json",
        "tokenizer_config.json",
        "chat.jinja",
    }
    assert manifest == Manifest.from_json((tmp_path / "a" / "manifest.json").read_text())
    assert (
        save(again, tmp_path / "b", version=7, policy="planner").files["model.safetensors"]
        == manifest.files["model.safetensors"]
    )


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    save(Qwen3(TINY), tmp_path)
    path = tmp_path / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptCheckpoint, match=r"model\.safetensors.*hash.*copy this one again"):
        load(tmp_path)


@pytest.mark.parametrize("has_manifest", [True, False])
@pytest.mark.parametrize("kept", [0, 5, 200, 5000])
def test_a_truncated_file_is_named(kept: int, has_manifest: bool, tmp_path: Path) -> None:
    save(Qwen3(TINY), tmp_path)
    if not has_manifest:
        (tmp_path / "manifest.json").unlink()
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CorruptCheckpoint, match=r"model\.safetensors"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "manifest.json"])
@pytest.mark.parametrize("text", ["", '{"vocab_size": 9', "[]", '{"model_type": "qwen3"}', "\xff\xfe"])
def test_a_damaged_description_is_named(name: str, text: str, tmp_path: Path) -> None:
    save(Qwen3(TINY), tmp_path)
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(CorruptCheckpoint, match=name):
        load(tmp_path)


def test_a_changed_description_is_found(tmp_path: Path) -> None:
    save(Qwen3(TINY), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace("10000.0", "20000.0"))
    with pytest.raises(CorruptCheckpoint, match=r"config\.json.*hash"):
        load(tmp_path)


def test_weights_that_do_not_fit_their_config_are_refused(tmp_path: Path) -> None:
    save(Qwen3(TINY), tmp_path)
    (tmp_path / "manifest.json").unlink()
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_size": 64}))
    with pytest.raises(CorruptCheckpoint, match="has shape"):
        load(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_size": 32, "num_hidden_layers": 3}))
    with pytest.raises(CorruptCheckpoint, match="is missing"):
        load(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    save(Qwen3(TINY), tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00002.safetensors")
    shards = {
        "model.norm.weight": "model-00001-of-00002.safetensors",
        "lm_head.weight": "model-00002-of-00002.safetensors",
    }
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(CorruptCheckpoint, match="model-00002-of-00002"):
        load(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../../etc/passwd"}})
    )
    with pytest.raises(CorruptCheckpoint, match="weight_map"):
        load(tmp_path)


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"config\.json"):
        load(tmp_path)
    save(Qwen3(TINY), tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(NotFound, match="safetensors"):
        load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "mixtral"},
        {"mlp_bias": True},
        {"quantization_config": {"bits": 4}},
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_network_that_is_not_implemented_is_refused_by_name(
    change: dict[str, object], tmp_path: Path
) -> None:
    save(Qwen3(TINY), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(
        UnsupportedCheckpoint, match=next(iter(change)) if "rope_parameters" not in change else "dynamic"
    ):
        read_config(tmp_path)


def test_a_manifest_tells_equal_tensors_from_others() -> None:
    weights = Qwen3(TINY, seed=1).state_dict()
    hashes = tensor_hashes(weights)
    assert hashes == tensor_hashes({name: tensor.clone() for name, tensor in weights.items()})
    other = dict(weights) | {"model.norm.weight": weights["model.norm.weight"].double()}
    assert {name for name, digest in tensor_hashes(other).items() if digest != hashes[name]} == {
        "model.norm.weight"
    }


def test_a_delta_names_the_version_it_applies_to() -> None:
    with pytest.raises(ValueError, match="base"):
        Manifest(version=3, kind=WeightKind.DELTA)
    delta = Manifest(version=3, kind=WeightKind.DELTA, base=2, tensors={"a": "0"})
    assert Manifest.from_json(delta.to_json()) == delta


def _written(directory: Path, **changed: object) -> Path:
    """A config as transformers writes it, with a few things otherwise."""
    config = HFConfig(
        hidden_size=8, intermediate_size=8, num_attention_heads=2, num_key_value_heads=1, head_dim=4
    )
    data = json.loads(config.to_json_string(use_diff=False)) | {
        "rope_parameters": None,
        "rope_scaling": None,
        "rope_theta": None,
    }
    data = {name: value for name, value in (data | changed).items() if value is not None}
    (directory / "config.json").write_text(json.dumps(data))
    return directory


@pytest.mark.parametrize(
    "said",
    [
        {"rope_theta": 1e6},
        {"rope_theta": 1e6, "rope_scaling": {"rope_type": "default"}},
        {"rope_theta": 1e6, "rope_scaling": {"type": "default"}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        {"rope_parameters": {"rope_theta": 1e6}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "rope_theta": 1e4},
        {"rope_parameters": {"rope_type": "default"}, "rope_theta": 1e6},
    ],
    ids=str,
)
def test_the_base_of_rotary_positions_is_found_in_every_layout(
    said: dict[str, object], tmp_path: Path
) -> None:
    assert read_config(_written(tmp_path, **said)).rope_theta == 1e6


@pytest.mark.parametrize(
    "said",
    [
        {"rope_scaling": {"rope_type": "longrope", "factor": 4.0}},
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e6}}},
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        {"layer_types": ["full_attention", "sliding_attention"], "num_hidden_layers": 2},
    ],
    ids=str,
)
def test_positions_and_layers_that_are_not_implemented_are_refused_and_never_taken_for_plain_ones(
    said: dict[str, object], tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedCheckpoint):
        read_config(_written(tmp_path, **said))


@pytest.mark.parametrize("kind", [WeightKind.ADAPTER, WeightKind.DELTA])
def test_what_is_no_weights_by_itself_is_not_loaded_as_if_it_were(kind: WeightKind, tmp_path: Path) -> None:
    manifest = save(Qwen3(TINY, seed=5), tmp_path)
    (tmp_path / "manifest.json").write_text(replace(manifest, kind=kind, base=3).to_json())
    with pytest.raises(UnsupportedCheckpoint, match=f"kind={kind} of version 3"):
        load(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": "3"},
        {"version": None},
        {"tensors": []},
        {"files": {"config.json": 3}},
        {"policy": 1},
        {"kind": "half"},
        {"base": "2"},
    ],
)
def test_a_manifest_that_nobody_can_have_written_is_damaged(wrong: dict[str, object], tmp_path: Path) -> None:
    save(Qwen3(TINY, seed=5), tmp_path)
    data = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(data | wrong))
    with pytest.raises(CorruptCheckpoint):
        load(tmp_path)


def test_weights_that_do_not_fit_leave_a_model_as_it_was(tmp_path: Path) -> None:
    save(Qwen3(UNTIED, seed=5), tmp_path)
    model = Qwen3(TINY, seed=6)
    with pytest.raises(CorruptCheckpoint, match="do not belong together"):
        load_into(model, tmp_path)
    assert all(
        torch.equal(mine, kept)
        for mine, kept in zip(model.parameters(), Qwen3(TINY, seed=6).parameters(), strict=True)
    )
    again = Qwen3(UNTIED, seed=7)
    load_into(again, tmp_path)
    assert torch.equal(again.head_weight, Qwen3(UNTIED, seed=5).head_weight)


@pytest.mark.parametrize("eos_ids", [(7,), (7, 9)])
def test_what_ends_a_turn_is_in_both_files_that_servers_read(
    eos_ids: tuple[int, ...], tmp_path: Path
) -> None:
    save(Qwen3(TINY, seed=5), tmp_path, eos_ids=eos_ids)
    said = eos_ids[0] if len(eos_ids) == 1 else list(eos_ids)
    assert AutoConfig.from_pretrained(tmp_path).eos_token_id == said
    assert GenerationConfig.from_pretrained(tmp_path).eos_token_id == said
