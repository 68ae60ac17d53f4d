"""The shape of a network, and how `config.json` of the Hugging Face layout says it; importable without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agito.errors import AgitoError, CorruptCheckpoint, NotFound

CONFIG_NAME = "config.json"


class UnsupportedCheckpoint(AgitoError, ValueError):
    """A sound checkpoint of a network that Agito does not implement."""

    exit_code = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen3Config:
    """The shape of a network. `head_dim` is free: it need not be `hidden_size / num_heads`."""

    vocab_size: int
    hidden_size: int = 96
    intermediate_size: int = 256
    num_layers: int = 3
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 32
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-6
    tie_embeddings: bool = True
    max_position: int = 2048

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads", "max_position"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads={self.num_heads}: must be a multiple of num_kv_heads={self.num_kv_heads}")
        if self.head_dim < 2 or self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim}: rotary positions need an even width")


def read_config(directory: Path | str) -> Qwen3Config:
    """The shape of a checkpoint's network, weights unread.

    Raises `NotFound`, `CorruptCheckpoint`, or `UnsupportedCheckpoint` for another architecture.
    """
    path = Path(directory) / CONFIG_NAME
    data = read_json(path)
    if data.get("model_type") != "qwen3":
        raise UnsupportedCheckpoint(f"{path}: model_type={data.get('model_type')!r}: only qwen3 is implemented")
    rope = _rope(path, data)
    sliding = sorted({str(kind) for kind in data.get("layer_types") or () if kind != "full_attention"})
    refused = {
        "attention_bias": data.get("attention_bias"),
        "use_sliding_window": data.get("use_sliding_window"),
        "layer_types": ", ".join(sliding),
    }
    for name, value in refused.items():
        if value:
            raise UnsupportedCheckpoint(f"{path}: {name}={value}: not implemented")
    if data.get("hidden_act", "silu") != "silu":
        raise UnsupportedCheckpoint(f"{path}: hidden_act={data['hidden_act']!r}: only silu is implemented")
    try:
        num_heads = data["num_attention_heads"]
        return Qwen3Config(
            vocab_size=data["vocab_size"],
            hidden_size=data["hidden_size"],
            intermediate_size=data["intermediate_size"],
            num_layers=data["num_hidden_layers"],
            num_heads=num_heads,
            num_kv_heads=data.get("num_key_value_heads") or num_heads,
            head_dim=data.get("head_dim") or data["hidden_size"] // num_heads,
            rope_theta=float(rope.get("rope_theta", data.get("rope_theta", 10_000.0))),
            rms_norm_eps=float(data.get("rms_norm_eps", 1e-6)),
            tie_embeddings=data.get("tie_word_embeddings", False),
            max_position=data.get("max_position_embeddings", 32_768),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptCheckpoint(f"{path}: {error!r}: restore the file") from error


def _rope(path: Path, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is said of rotary positions, beside `rope_theta` of its own: transformers wrote `rope_scaling` before 5, and then
    `rope_parameters`. Raises `UnsupportedCheckpoint` for any but the plain kind."""
    found: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        rope = data.get(name) or {}
        if not isinstance(rope, dict):
            raise CorruptCheckpoint(f"{path}: {name}={rope!r}: restore the file")
        if any(isinstance(value, dict) for value in rope.values()):
            raise UnsupportedCheckpoint(f"{path}: {name} is told apart by layer: not implemented")
        kind, part = rope.get("rope_type", rope.get("type", "default")), rope.get("partial_rotary_factor", 1.0)
        if kind != "default" or part != 1.0:
            raise UnsupportedCheckpoint(f"{path}: {name}: rope_type={kind}, partial_rotary_factor={part}: not implemented")
        found |= rope
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Raises `NotFound`, or `CorruptCheckpoint` for anything but an object."""
    if not path.exists():
        raise NotFound(f"{path} is not there: not a checkpoint")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise damaged(path, str(error)) from error
    if not isinstance(data, dict):
        raise damaged(path, "not a JSON object")
    return data


def damaged(path: Path, why: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(f"{path}: {why}: the checkpoint is damaged; take an earlier one or copy this one again")
