"""Checkpoints in the Hugging Face layout: written so that `transformers` loads them, read as `transformers` writes them.

A checkpoint that carries a manifest is verified against it, file by file. `save` writes into a directory and flushes every
file to the disk; to make a checkpoint appear at once, write it beside its final place and rename the directory.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from agito.errors import AgitoError, CorruptCheckpoint, DiskFull, NotFound
from agito.models.manifest import MANIFEST_NAME, Manifest, file_hash, tensor_hashes
from agito.models.network import Qwen3, Qwen3Config

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"


class UnsupportedCheckpoint(AgitoError, ValueError):
    """A sound checkpoint of a network that Agito does not implement."""

    exit_code = 5


def save(
    model: Qwen3,
    directory: Path | str,
    *,
    version: int = 0,
    policy: str = "main",
    eos_ids: Sequence[int] = (),
    pad_id: int | None = None,
    extra: Mapping[str, bytes | str] | None = None,
) -> Manifest:
    """Writes config, weights, generation defaults, the `extra` files (tokenizer, chat template) and their manifest, last."""
    directory = Path(directory)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    ends = {"eos_token_id": list(eos_ids) if len(eos_ids) > 1 else eos_ids[0]} if eos_ids else {}
    ends |= {} if pad_id is None else {"pad_token_id": pad_id}
    files: dict[str, bytes] = {
        CONFIG_NAME: _json(_hf_config(model.config, next(iter(weights.values())).dtype) | ends),
        WEIGHTS_NAME: safetensors.torch.save(weights, metadata={"format": "pt"}),
        "generation_config.json": _json({"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} | ends),
    }
    files |= {name: data.encode() if isinstance(data, str) else data for name, data in (extra or {}).items()}
    manifest = Manifest(
        version=version,
        policy=policy,
        tensors=tensor_hashes(weights),
        files={name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())},
    )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in (files | {MANIFEST_NAME: manifest.to_json().encode()}).items():
            _write(directory / name, data)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no space left to write the checkpoint {directory}: free some, then resume") from error
        raise
    return manifest


def load(directory: Path | str, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Qwen3:
    """The network of a checkpoint, in the type it was stored in unless `dtype` says otherwise.

    Raises `NotFound`, `CorruptCheckpoint`, or `UnsupportedCheckpoint` for another architecture.
    """
    directory = Path(directory)
    config = read_config(directory)
    weights = load_weights(directory)
    model = Qwen3(config, seed=None, device="meta")
    wanted = model.state_dict()
    if config.tie_embeddings:
        weights.pop("lm_head.weight", None)  # some writers store both names
    problems = [f"{name} is missing" for name in wanted if name not in weights]
    problems += [f"{name} is unknown" for name in weights if name not in wanted]
    problems += [
        f"{name} has shape {tuple(weights[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if problems:
        raise CorruptCheckpoint(
            f"{directory}: {problems[0]} (of {len(problems)} problems): weights and {CONFIG_NAME} do not belong together"
        )
    stored = dtype or weights["model.embed_tokens.weight"].dtype
    model.load_state_dict({name: tensor.to(device=device, dtype=stored) for name, tensor in weights.items()}, assign=True)
    return model.requires_grad_(True)


def read_config(directory: Path | str) -> Qwen3Config:
    """The shape of a checkpoint's network, weights unread."""
    path = Path(directory) / CONFIG_NAME
    data = _read_json(path)
    if data.get("model_type") != "qwen3":
        raise UnsupportedCheckpoint(f"{path}: model_type={data.get('model_type')!r}: only qwen3 is implemented")
    rope = data.get("rope_parameters") or data.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    refused = {
        "attention_bias": data.get("attention_bias"),
        "use_sliding_window": data.get("use_sliding_window"),
        "rope_type": kind != "default" and kind,
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
            rms_norm_eps=data.get("rms_norm_eps", 1e-6),
            tie_embeddings=data.get("tie_word_embeddings", False),
            max_position=data.get("max_position_embeddings", 32_768),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptCheckpoint(f"{path}: {error!r}: restore the file") from error


def load_weights(directory: Path | str) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, on the CPU, as stored, sharded or whole; verified where there is a manifest."""
    directory = Path(directory)
    _verify(directory)
    weights: dict[str, Tensor] = {}
    for path in _weight_files(directory):
        try:
            weights |= safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError) as error:
            raise _corrupt(path, str(error)) from error
    return weights


def _weight_files(directory: Path) -> Iterator[Path]:
    if (directory / WEIGHTS_NAME).exists():
        yield directory / WEIGHTS_NAME
        return
    if not (directory / INDEX_NAME).exists():
        raise NotFound(f"{directory}: neither {WEIGHTS_NAME} nor {INDEX_NAME} is there: not a checkpoint")
    shards = _read_json(directory / INDEX_NAME).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(shard, str) and Path(shard).name == shard for shard in shards.values()):
        raise _corrupt(directory / INDEX_NAME, "weight_map does not name files")
    for name in sorted(set(shards.values())):
        if not (directory / name).exists():
            raise _corrupt(directory / name, f"{INDEX_NAME} names it, but it is not there")
        yield directory / name


def _verify(directory: Path) -> None:
    path = directory / MANIFEST_NAME
    if not path.exists():
        return
    try:
        manifest = Manifest.from_json(path.read_text())
    except (ValueError, OSError) as error:
        raise _corrupt(path, str(error)) from error
    for name, expected in manifest.files.items():
        file = directory / name
        if not file.is_file():
            raise _corrupt(file, "the manifest names it, but it is not there")
        if file_hash(file) != expected:
            raise _corrupt(file, f"its hash is not the one in {MANIFEST_NAME}")


def _corrupt(path: Path, why: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(f"{path}: {why}: the checkpoint is damaged; take an earlier one or copy this one again")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise NotFound(f"{path} is not there: not a checkpoint")
    try:
        data = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise _corrupt(path, str(error)) from error
    if not isinstance(data, dict):
        raise _corrupt(path, "not a JSON object")
    return data


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _json(data: Mapping[str, object]) -> bytes:
    return (json.dumps(data, indent=2) + "\n").encode()


def _hf_config(config: Qwen3Config, dtype: torch.dtype) -> dict[str, object]:
    kind = str(dtype).removeprefix("torch.")
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "dtype": kind,
        "torch_dtype": kind,  # transformers before 4.56 reads this name
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rope_theta": config.rope_theta,  # transformers before 5 reads this name
        "tie_word_embeddings": config.tie_embeddings,
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": config.vocab_size,
    }
