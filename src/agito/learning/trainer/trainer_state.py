"""The trainer's full state, bit for bit. Sampling has no state to save: its random streams are keyed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from agito.errors import CorruptCheckpoint
from agito.learning.trainer.optimizer import Ending
from agito.learning.trainer.trainer import Counters, LocalTrainer

STATE = "trainer.json"
# The file is safetensors, but has another suffix: servers load every *.safetensors in a folder as weights.
TENSORS = "trainer.tensors"
_FORMAT = 1


def save_state(trainer: LocalTrainer, directory: Path) -> None:
    """Writes weights, moments and counters. Call it inside `commit`."""
    tensors = {
        f"weights/{name}": parameter.detach()
        for name, parameter in trainer.model.named_parameters()
        if parameter.requires_grad
    }
    if trainer.phase is not None:
        tensors |= {f"moments/{name}": value for name, value in trainer.optimizer.moments().items()}
    data = save_tensors({name: tensor.contiguous().cpu() for name, tensor in tensors.items()})
    state: dict[str, Any] = {
        "format": _FORMAT,
        "phase": trainer.phase,
        "total_steps": trainer.total_steps,
        "phase_step": trainer.phase_step,
        "version": trainer.version,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    if trainer.phase is not None and (ending := trainer.optimizer.ending) is not None:
        state["ending"] = asdict(ending)
    (directory / TENSORS).write_bytes(data)
    (directory / STATE).write_text(json.dumps(state, sort_keys=True), encoding="utf-8")


def load_state(trainer: LocalTrainer, directory: Path) -> None:
    """The inverse of `save_state`, for a trainer with the same model shape and configuration.

    Raises `CorruptCheckpoint` when anything is missing, truncated, altered, or does not fit the model; the
    trainer is then unchanged.
    """
    state = _read_json(directory / STATE)
    tensors = _read_tensors(directory / TENSORS, state.get("sha256"))
    weights = {
        name.removeprefix("weights/"): value for name, value in tensors.items() if name.startswith("weights/")
    }
    moments = {
        name.removeprefix("moments/"): value for name, value in tensors.items() if name.startswith("moments/")
    }
    try:
        ending = Ending(**state["ending"]) if "ending" in state else None
        counters = Counters(
            **{name: state[name] for name in ("phase", "total_steps", "phase_step", "version")}, ending=ending
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptCheckpoint(f"{directory / STATE}: {error!r}: use an earlier checkpoint") from error
    try:
        trainer.restore(weights, moments, counters)
    except ValueError as error:
        raise CorruptCheckpoint(
            f"{directory}: {error}: not those of this model: resume with the run's own configuration"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptCheckpoint(f"{path}: {error}: use an earlier checkpoint") from error
    if not isinstance(value, dict) or value.get("format") != _FORMAT:
        raise CorruptCheckpoint(f"{path}: not format {_FORMAT}: use an earlier checkpoint")
    return value


def _read_tensors(path: Path, sha256: object) -> dict[str, torch.Tensor]:
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise CorruptCheckpoint(
                f"{path}: truncated or altered ({len(data)} bytes): use an earlier checkpoint"
            )
        return load_tensors(data)
    except (OSError, SafetensorError) as error:
        raise CorruptCheckpoint(f"{path}: {error}: use an earlier checkpoint") from error
