"""Reads and writes `config.json` of the Hugging Face layout for every family of dense decoders; importable
without torch.

A field that asks for something the decoder does not implement is refused by name, never ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from agito.errors import CorruptCheckpoint, NotFound
from agito.models.config import (
    CONFIG_NAME,
    Activation,
    DecoderConfig,
    Family,
    RopeScaling,
    UnsupportedCheckpoint,
)

_ACTIVATIONS: dict[str, Activation] = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
_SLIDING, _FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """A family's defaults for fields that its file omits."""

    architecture: str
    rope_theta: float = 10_000.0
    local_rope_theta: float | None = None
    max_position: int = 32_768
    tie_embeddings: bool = False
    head_dim: int | None = None  # None: hidden_size / num_heads
    activation: str = "silu"
    activation_key: str = "hidden_act"


_KINDS: dict[Family, _Kind] = {
    "llama": _Kind(architecture="LlamaForCausalLM", max_position=2048),
    "mistral": _Kind(architecture="MistralForCausalLM", max_position=131_072),
    "qwen2": _Kind(architecture="Qwen2ForCausalLM"),
    "qwen3": _Kind(architecture="Qwen3ForCausalLM", head_dim=128),
    "gemma3_text": _Kind(
        architecture="Gemma3ForCausalLM",
        rope_theta=1e6,
        local_rope_theta=1e4,
        max_position=131_072,
        tie_embeddings=True,
        head_dim=256,
        activation="gelu_pytorch_tanh",
        activation_key="hidden_activation",
    ),
}
# Fields that change the computation and that no family here implements, with the only value accepted for
# each.
_REFUSED: dict[str, tuple[object, ...]] = {
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "use_bidirectional_attention": (None, False),
    "quantization_config": (None,),
    "num_experts": (None, 0),
    "num_local_experts": (None, 0),
    "is_encoder_decoder": (None, False),
    "partial_rotary_factor": (None, 1.0),
}


def read_config(directory: Path | str) -> DecoderConfig:
    """The shape of a checkpoint's network, without reading weights.

    Raises `NotFound`, `CorruptCheckpoint`, or `UnsupportedCheckpoint`, which names the field.
    """
    path = Path(directory) / CONFIG_NAME
    return parse_config(read_json(path), path)


def parse_config(data: Mapping[str, Any], path: Path) -> DecoderConfig:
    """As `read_config`; `path` appears in messages only."""
    family = data.get("model_type")
    if not isinstance(family, str) or family not in _KINDS:
        raise UnsupportedCheckpoint(f"{path}: model_type={family!r}: implemented are {', '.join(_KINDS)}")
    family = cast("Family", family)
    kind = _KINDS[family]
    _refuse(path, data, family, kind)
    try:
        num_heads, num_layers = data["num_attention_heads"], data["num_hidden_layers"]
        theta, local_theta, rope = _rope(path, data, kind)
        window, sliding = _windows(path, data, family, num_layers)
        is_gemma, has_bias = family == "gemma3_text", bool(data.get("attention_bias"))
        scalar = data.get("query_pre_attn_scalar", 256) if is_gemma else None
        head_dim = data.get("head_dim") or kind.head_dim or data["hidden_size"] // num_heads
        return DecoderConfig(
            vocab_size=data["vocab_size"],
            hidden_size=data["hidden_size"],
            intermediate_size=data["intermediate_size"],
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=data.get("num_key_value_heads") or num_heads,
            head_dim=head_dim,
            rope_theta=theta,
            rms_norm_eps=float(data.get("rms_norm_eps", 1e-6)),
            tie_embeddings=data.get("tie_word_embeddings", kind.tie_embeddings),
            max_position=data.get("max_position_embeddings", kind.max_position),
            family=family,
            activation=_ACTIVATIONS[data.get(kind.activation_key, kind.activation)],
            qk_norm=family in ("qwen3", "gemma3_text"),
            qkv_bias=has_bias or family == "qwen2",
            out_bias=has_bias,
            mlp_bias=bool(data.get("mlp_bias")),
            norm_offset=is_gemma,
            sandwich_norms=is_gemma,
            scale_embeddings=is_gemma,
            query_scale=None if scalar is None or scalar == head_dim else float(scalar) ** -0.5,
            rope=rope,
            sliding_window=window if sliding else None,
            sliding_layers=sliding,
            local_rope_theta=local_theta if sliding and local_theta != theta else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UnsupportedCheckpoint):
            raise
        raise CorruptCheckpoint(f"{path}: {error!r}: restore the file") from error


def _refuse(path: Path, data: Mapping[str, Any], family: str, kind: _Kind) -> None:
    for name, allowed in _REFUSED.items():
        if data.get(name) not in allowed:
            raise UnsupportedCheckpoint(f"{path}: {name}={_short(data[name])}: not implemented")
    for name, having in (("attention_bias", ("llama", "qwen3", "gemma3_text")), ("mlp_bias", ("llama",))):
        if data.get(name) and family not in having:
            raise UnsupportedCheckpoint(
                f"{path}: {name}={data[name]}: not implemented for model_type={family}"
            )
    other = "hidden_act" if kind.activation_key != "hidden_act" else "hidden_activation"
    for name in (kind.activation_key, other):
        if (said := data.get(name)) is not None and said not in _ACTIVATIONS:
            raise UnsupportedCheckpoint(f"{path}: {name}={said!r}: implemented are {', '.join(_ACTIVATIONS)}")
    strange = [name for name in data.get("architectures") or () if name != kind.architecture]
    if strange:
        raise UnsupportedCheckpoint(
            f"{path}: architectures={strange[0]}: only {kind.architecture} is implemented for "
            f"model_type={family}"
        )


def _windows(
    path: Path, data: Mapping[str, Any], family: str, num_layers: int
) -> tuple[int | None, tuple[int, ...]]:
    """The window of sliding layers, and which layers slide."""
    window, types = data.get("sliding_window"), data.get("layer_types")
    if types is not None:
        strange = [each for each in types if each not in (_SLIDING, _FULL)]
        if strange:
            raise UnsupportedCheckpoint(f"{path}: layer_types: {strange[0]} is not implemented")
        if len(types) != num_layers:
            raise CorruptCheckpoint(
                f"{path}: layer_types names {len(types)} layers of {num_layers}: restore the file"
            )
    listed = tuple(index for index, each in enumerate(types or ()) if each == _SLIDING)
    if family == "gemma3_text":
        window, pattern = (
            data.get("sliding_window", 4096),
            data.get("sliding_window_pattern", data.get("_sliding_window_pattern", 6)),
        )
        return window, listed if types is not None else tuple(
            index for index in range(num_layers) if (index + 1) % pattern
        )
    if family in ("qwen2", "qwen3"):
        window = data.get("sliding_window", 4096) if data.get("use_sliding_window") else None
        if types is None and window is not None:
            listed = tuple(range(data.get("max_window_layers", 28), num_layers))
    elif family == "mistral":
        window = data.get("sliding_window", 4096)  # Mistral's default
        if types is None:
            listed = tuple(range(num_layers)) if window is not None else ()
        elif len(listed) not in ((0,) if window is None else (num_layers,)):
            raise UnsupportedCheckpoint(
                f"{path}: layer_types: model_type=mistral slides in every layer or in none"
            )
    if listed and (window is None or family == "llama"):
        raise UnsupportedCheckpoint(
            f"{path}: layer_types has {_SLIDING}, but sliding_window={window} does not apply to "
            f"model_type={family}"
        )
    return window, listed


def _rope(path: Path, data: Mapping[str, Any], kind: _Kind) -> tuple[float, float | None, RopeScaling | None]:
    """RoPE bases of full and sliding layers, and the scaling of full ones.

    transformers before 5 writes `rope_theta` and `rope_scaling`; since 5, `rope_parameters`, keyed by layer
    type where they differ.
    """
    said: dict[str, Any] = {}
    local = data.get("rope_local_base_freq", kind.local_rope_theta)
    for name in ("rope_scaling", "rope_parameters"):
        found = data.get(name) or {}
        if not isinstance(found, dict):
            raise CorruptCheckpoint(f"{path}: {name}={found!r}: restore the file")
        if any(isinstance(value, dict) for value in found.values()):
            if kind.local_rope_theta is None or not set(found) <= {_FULL, _SLIDING}:
                raise UnsupportedCheckpoint(
                    f"{path}: {name} is told apart by layer: not implemented for this family"
                )
            sliding = found.get(_SLIDING) or {}
            if _kind_of(sliding) != "default":
                raise UnsupportedCheckpoint(
                    f"{path}: {name}.{_SLIDING}: rope_type={_kind_of(sliding)}: not implemented"
                )
            local, found = float(sliding.get("rope_theta", local)), found.get(_FULL) or {}
        said |= {key: value for key, value in found.items() if value is not None}
    theta = float(said.get("rope_theta") or data.get("rope_theta") or kind.rope_theta)
    scaling = _scaling(
        path,
        said,
        data.get("max_position_embeddings", kind.max_position),
        data.get("original_max_position_embeddings"),
    )
    return theta, None if local is None else float(local), scaling


def _kind_of(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type", rope.get("type", "default")))


def _scaling(
    path: Path, said: Mapping[str, Any], max_position: int, original: int | None
) -> RopeScaling | None:
    kind = _kind_of(said)
    if (part := said.get("partial_rotary_factor", 1.0)) != 1.0:
        raise UnsupportedCheckpoint(f"{path}: partial_rotary_factor={part}: not implemented")
    if kind == "default":
        return None
    if kind not in ("linear", "llama3", "yarn"):
        raise UnsupportedCheckpoint(
            f"{path}: rope_type={kind}: implemented are default, linear, llama3, yarn"
        )
    for name in ("mscale", "mscale_all_dim"):
        if said.get(name):
            raise UnsupportedCheckpoint(
                f"{path}: {name}={said[name]}, with rope_type={kind}: not implemented"
            )
    if "factor" not in said:
        raise CorruptCheckpoint(f"{path}: rope_type={kind} without factor: restore the file")
    names = {
        "llama3": ("low_freq_factor", "high_freq_factor"),
        "yarn": ("beta_fast", "beta_slow", "attention_factor"),
    }
    numbers = {name: float(said[name]) for name in names.get(kind, ()) if name in said}
    whole = {"truncate": bool(said["truncate"])} if kind == "yarn" and "truncate" in said else {}
    length = int(said.get("original_max_position_embeddings") or original or max_position)
    return RopeScaling(
        kind=kind, factor=float(said["factor"]), original_max_position=length, **numbers, **whole
    )


def hf_config(config: DecoderConfig, dtype: str) -> dict[str, object]:
    """The config that makes `transformers` build this network; `dtype` by torch's name."""
    kind = _KINDS[config.family]
    is_gemma = config.family == "gemma3_text"
    written: dict[str, object] = {
        "architectures": [kind.architecture],
        "model_type": config.family,
        "attention_bias": config.out_bias,
        "attention_dropout": 0.0,
        "dtype": dtype,
        "torch_dtype": dtype,  # the name before transformers 4.56
        "head_dim": config.head_dim,
        kind.activation_key: "silu" if config.activation == "silu" else "gelu_pytorch_tanh",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "rms_norm_eps": config.rms_norm_eps,
        **_written_rope(config),
        "tie_word_embeddings": config.tie_embeddings,
        "use_cache": True,
        "use_sliding_window": bool(config.sliding_layers),
        "vocab_size": config.vocab_size,
    }
    if config.sliding_layers or is_gemma or config.family == "mistral":
        written["sliding_window"] = config.sliding_window if config.sliding_layers or not is_gemma else 4096
    if (config.sliding_layers and config.family != "mistral") or is_gemma:
        written["layer_types"] = [
            _SLIDING if layer in config.sliding_layers else _FULL for layer in range(config.num_layers)
        ]
    if config.mlp_bias:
        written["mlp_bias"] = True
    if is_gemma:
        written["query_pre_attn_scalar"] = (
            config.head_dim if config.query_scale is None else round(config.query_scale**-2)
        )
    _check_written(config, written)
    return written


def _check_written(config: DecoderConfig, written: Mapping[str, object]) -> None:
    """Raises `ValueError` for a combination of fields that no family has and that would be read back as
    another network."""
    try:
        is_same = parse_config(written, Path(CONFIG_NAME)) == config
    except UnsupportedCheckpoint:
        is_same = False
    if not is_same:
        raise ValueError(
            f"family={config.family}: this combination of fields cannot be written as a network of that "
            "family"
        )


def _written_rope(config: DecoderConfig) -> dict[str, object]:
    rope: dict[str, object] = {"rope_type": "default", "rope_theta": config.rope_theta}
    old: dict[str, object] = {}
    if (scaling := config.rope) is not None:
        said: dict[str, object] = {"rope_type": scaling.kind, "factor": scaling.factor}
        said["original_max_position_embeddings"] = scaling.original_max_position
        if scaling.kind == "llama3":
            said |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
        if scaling.kind == "yarn":
            said |= {
                "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow,
                "truncate": scaling.truncate,
            }
            said |= {} if scaling.attention_factor is None else {"attention_factor": scaling.attention_factor}
        rope, old = rope | said, {"rope_scaling": said}
    if _KINDS[config.family].local_rope_theta is not None:
        local = config.rope_theta if config.local_rope_theta is None else config.local_rope_theta
        old["rope_local_base_freq"] = local
        rope = {_FULL: rope, _SLIDING: {"rope_type": "default", "rope_theta": local}}
    # transformers before 5 reads the fields beside it.
    return {"rope_parameters": rope, "rope_theta": config.rope_theta, **old}


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
    return CorruptCheckpoint(
        f"{path}: {why}: the checkpoint is damaged; take an earlier one or copy this one again"
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
