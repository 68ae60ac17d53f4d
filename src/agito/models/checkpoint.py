"""Checkpoints in the Hugging Face layout: `transformers` loads what this module writes, and the reverse.

A checkpoint with a manifest is verified against it, file by file. `save` writes into a directory and flushes
every file to disk. To make a checkpoint appear atomically, write it beside its final place and rename the
directory.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from agito.errors import CorruptCheckpoint, DiskFull, NotFound
from agito.models.config import CONFIG_NAME, WEIGHTS_NAME, UnsupportedCheckpoint
from agito.models.families import damaged, hf_config, read_config, read_json
from agito.models.lora import merged_weights
from agito.models.manifest import MANIFEST_NAME, Manifest, WeightKind, file_hash, tensor_hashes
from agito.models.network import Decoder

INDEX_NAME = "model.safetensors.index.json"


def save(
    model: Decoder,
    directory: Path | str,
    *,
    version: int = 0,
    policy: str = "main",
    eos_ids: Sequence[int] = (),
    pad_id: int | None = None,
    extra: Mapping[str, bytes | str] | None = None,
) -> Manifest:
    """Writes config, weights, generation defaults, `extra` files (tokenizer, chat template), and last their
    manifest. An adapter is merged into the weights."""
    directory = Path(directory)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in merged_weights(model).items()}
    ends = {"eos_token_id": list(eos_ids) if len(eos_ids) > 1 else eos_ids[0]} if eos_ids else {}
    ends |= {} if pad_id is None else {"pad_token_id": pad_id}
    files: dict[str, bytes] = {
        CONFIG_NAME: _json(
            hf_config(model.config, str(next(iter(weights.values())).dtype).removeprefix("torch.")) | ends
        ),
        WEIGHTS_NAME: safetensors.torch.save(weights, metadata={"format": "pt"}),
        "generation_config.json": _json(
            {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} | ends
        ),
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
            raise DiskFull(
                f"no space left to write the checkpoint {directory}: free some, then resume"
            ) from error
        raise
    return manifest


def load(
    directory: Path | str, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Decoder:
    """The network of a checkpoint, in its stored dtype unless `dtype` is given.

    Raises `NotFound`, `CorruptCheckpoint`, or `UnsupportedCheckpoint` for another architecture.
    """
    directory = Path(directory)
    model = Decoder(read_config(directory), seed=None, device="meta")
    weights = _weights_for(model, directory)
    stored = dtype or weights["model.embed_tokens.weight"].dtype
    model.load_state_dict(
        {name: tensor.to(device=device, dtype=stored) for name, tensor in weights.items()}, assign=True
    )
    return model.requires_grad_(True)


def load_into(model: Decoder, directory: Path | str) -> None:
    """Loads the weights of a checkpoint of the same shape. Raises as `load`; the model is then unchanged."""
    model.load_state_dict(_weights_for(model, Path(directory)))


def _weights_for(model: Decoder, directory: Path) -> dict[str, Tensor]:
    """Raises `CorruptCheckpoint` unless names and shapes match the model's."""
    weights, wanted = load_weights(directory), model.state_dict()
    if model.config.tie_embeddings:
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
            f"{directory}: {problems[0]} (of {len(problems)} problems): weights and {CONFIG_NAME} do not "
            "belong together"
        )
    return weights


def load_weights(directory: Path | str) -> dict[str, Tensor]:
    """Every tensor of a checkpoint on the CPU, as stored, sharded or whole; verified if there is a manifest.

    Raises `NotFound`, `CorruptCheckpoint`, or `UnsupportedCheckpoint` for an adapter or a delta, which are
    not full weights.
    """
    directory = Path(directory)
    _verify(directory)
    weights: dict[str, Tensor] = {}
    for path in _weight_files(directory):
        try:
            weights |= safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError) as error:
            raise damaged(path, str(error)) from error
    return weights


def _weight_files(directory: Path) -> Iterator[Path]:
    if (directory / WEIGHTS_NAME).exists():
        yield directory / WEIGHTS_NAME
        return
    if not (directory / INDEX_NAME).exists():
        raise NotFound(f"{directory}: neither {WEIGHTS_NAME} nor {INDEX_NAME} is there: not a checkpoint")
    shards = read_json(directory / INDEX_NAME).get("weight_map")
    if not isinstance(shards, dict) or not all(
        isinstance(shard, str) and Path(shard).name == shard for shard in shards.values()
    ):
        raise damaged(directory / INDEX_NAME, "weight_map does not name files")
    for name in sorted(set(shards.values())):
        if not (directory / name).exists():
            raise damaged(directory / name, f"{INDEX_NAME} names it, but it is not there")
        yield directory / name


def _verify(directory: Path) -> None:
    path = directory / MANIFEST_NAME
    if not path.exists():
        return
    try:
        manifest = Manifest.from_json(path.read_text())
    except (ValueError, OSError) as error:
        raise damaged(path, str(error)) from error
    if manifest.kind is not WeightKind.FULL:
        raise UnsupportedCheckpoint(
            f"{path}: kind={manifest.kind} of version {manifest.base}: only full weights can be loaded by "
            "themselves"
        )
    for name, expected in manifest.files.items():
        file = directory / name
        if not file.is_file():
            raise damaged(file, "the manifest names it, but it is not there")
        if file_hash(file) != expected:
            raise damaged(file, f"its hash is not the one in {MANIFEST_NAME}")


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _json(data: Mapping[str, object]) -> bytes:
    return (json.dumps(data, indent=2) + "\n").encode()
