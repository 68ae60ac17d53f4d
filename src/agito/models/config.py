"""The shape of a network; each difference within the dense family is a field. Importable without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from agito.errors import AgitoError

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# `model_type` in the Hugging Face layout
Family: TypeAlias = Literal["llama", "mistral", "qwen2", "qwen3", "gemma3_text"]
Activation: TypeAlias = Literal["silu", "gelu_tanh"]


class UnsupportedCheckpoint(AgitoError, ValueError):
    """A valid checkpoint of a network that Agito does not implement."""

    exit_code = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """Rotary positions stretched beyond the length of pre-training."""

    kind: Literal["linear", "llama3", "yarn"]
    factor: float
    original_max_position: int
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float | None = None  # yarn; None: 0.1 ln(factor) + 1
    truncate: bool = True  # yarn: the ramp begins and ends at whole frequencies

    def __post_init__(self) -> None:
        if self.factor < 1 or self.original_max_position < 1:
            raise ValueError(
                f"factor={self.factor}, original_max_position={self.original_max_position}: must be at "
                "least 1"
            )
        if self.kind == "llama3" and not self.low_freq_factor < self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor={self.low_freq_factor}: must be below "
                f"high_freq_factor={self.high_freq_factor}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """The shape of a network. `head_dim` need not be `hidden_size / num_heads`. Defaults describe Qwen3's
    layers."""

    vocab_size: int  # rows of the embedding; a tokenizer may use fewer
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
    family: Family = "qwen3"  # the `model_type` to write
    activation: Activation = "silu"
    qk_norm: bool = True  # normalise queries and keys, head by head
    qkv_bias: bool = False
    out_bias: bool = False  # of the attention output projection
    mlp_bias: bool = False
    norm_offset: bool = False  # norms scale by 1 + weight
    sandwich_norms: bool = False  # also normalise the outputs of attention and MLP before adding them
    scale_embeddings: bool = False  # by the square root of `hidden_size`
    query_scale: float | None = None  # of attention scores; None: 1 / sqrt(head_dim)
    rope: RopeScaling | None = None  # of full-attention layers
    sliding_window: int | None = None  # positions that a sliding layer sees, including its own
    sliding_layers: tuple[int, ...] = ()
    local_rope_theta: float | None = None  # of sliding layers, never stretched; None: the same as full layers

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_layers",
            "num_heads",
            "num_kv_heads",
            "max_position",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads={self.num_heads}: must be a multiple of num_kv_heads={self.num_kv_heads}"
            )
        if self.head_dim < 2 or self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim}: rotary positions need an even width")
        if self.sliding_window is not None and self.sliding_window < 1:
            raise ValueError(f"sliding_window={self.sliding_window}: must be at least 1")
        if self.sliding_layers and self.sliding_window is None:
            raise ValueError(f"sliding_layers={self.sliding_layers}: sliding_window says how far they see")
        if any(not 0 <= layer < self.num_layers for layer in self.sliding_layers):
            raise ValueError(f"sliding_layers={self.sliding_layers}: there are {self.num_layers} layers")

    def window(self, layer: int) -> int | None:
        """How many positions a layer sees; None: all."""
        return self.sliding_window if layer in self.sliding_layers else None


Qwen3Config = DecoderConfig  # the default layers, trained from random weights


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """The shape of an adapter. `targets` are projection names, in every layer."""

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = PROJECTIONS
    is_rank_stabilised: bool = False  # use alpha / sqrt(rank) instead (arXiv:2312.03732)

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank={self.rank}: must be at least 1")
        unknown = [name for name in self.targets if name not in PROJECTIONS]
        if unknown or not self.targets:
            raise ValueError(f"targets={list(self.targets)}: there are {', '.join(PROJECTIONS)}")

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.is_rank_stabilised else self.rank)
