"""Weights on the disk: whole, under a name of their own, and only the newest."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from agito.models import Decoder, DecoderConfig, LoraConfig, adapt, load_adapter
from agito.weights.files import WeightFiles

LIKE = (("a", torch.arange(15.0).view(3, 5)), ("b", torch.ones(2, dtype=torch.bfloat16)))
TINY = DecoderConfig(
    vocab_size=31, hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8
)
LORA = LoraConfig(rank=2, alpha=4)


def test_what_is_pushed_is_read_under_the_name_of_its_version_bit_for_bit(tmp_path: Path) -> None:
    path = WeightFiles(tmp_path, "policy").push(3, LIKE)
    assert path == tmp_path / "policy@3"
    found = safetensors.torch.load_file(path)
    assert all(torch.equal(found[name], tensor) for name, tensor in LIKE)


def test_an_adapter_is_pushed_as_peft_lays_it_out(tmp_path: Path) -> None:
    model = adapt(Decoder(TINY, seed=1), LORA, seed=2)
    path = WeightFiles(tmp_path, "policy").push_adapter(1, model, LORA, base=tmp_path / "base")
    again = Decoder(TINY, seed=1)
    assert load_adapter(again, path) == LORA
    assert all(
        torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True)
    )


def test_a_name_is_never_used_again_and_only_the_newest_stay(tmp_path: Path) -> None:
    files = WeightFiles(tmp_path, "policy", keep=2)
    for version in (1, 2, 5):
        files.push(version, LIKE)
    with pytest.raises(ValueError, match="version 5 come after 5"):
        files.push(5, LIKE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["policy@2", "policy@5"]


def test_what_was_not_written_to_the_end_is_not_there(tmp_path: Path) -> None:
    files = WeightFiles(tmp_path, "policy")
    with pytest.raises(AttributeError):
        files.push_adapter(1, torch.nn.Linear(1, 1), None, base=tmp_path)  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "policy@1").exists()
    assert files.push(1, LIKE).exists()
