"""Committed directories, and the trainer's full state in them, bit for bit.

The rename is the commit: a directory under its own name is complete; anything else is rubbish that the next commit of that
name sweeps away. Sampling has no state here: random streams are keyed, not stored.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from agito.errors import CorruptCheckpoint, DiskFull
from agito.trainer.trainer import LocalTrainer
from agito.types import Json

META = "meta.json"
STATE = "trainer.json"
TENSORS = "trainer.safetensors"
_FORMAT = 1
_FULL = (errno.ENOSPC, errno.EDQUOT)


def commit(directory: Path, write: Callable[[Path], None], *, meta: Mapping[str, Json] | None = None) -> None:
    """Makes `directory` whole or not at all: `write` fills a temporary sibling, which is synced, then renamed.

    `meta` is kept beside what `write` wrote: consumed slots, curriculum, counters. Raises `DiskFull`, leaving what was
    committed before intact, and `FileExistsError` when `directory` is already there: a commit is never overwritten.
    """
    if directory.exists():
        raise FileExistsError(f"{directory} is already committed: choose another name or remove it")
    temporary = directory.with_name(f".{directory.name}.partial")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        write(temporary)
        (temporary / META).write_text(json.dumps({"format": _FORMAT, "meta": dict(meta or {})}, sort_keys=True), encoding="utf-8")
        _sync_tree(temporary)
        temporary.rename(directory)
        _sync(directory.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if _is_full(error):
            raise DiskFull(f"{directory}: no space left; free some and resume: what was committed before is intact") from error
        raise


def latest(parent: Path) -> Path | None:
    """The committed `step-N` with the largest N."""
    steps = [path for path in parent.glob("step-*") if path.name[5:].isdigit() and path.is_dir()]
    return max(steps, key=lambda path: int(path.name[5:]), default=None)


def prune(parent: Path, keep: int) -> None:
    """Removes all but the last `keep` committed `step-N`; each vanishes under another name first, never by halves."""
    if keep < 1:
        raise ValueError(f"keep={keep}: need at least 1")
    steps = sorted((path for path in parent.glob("step-*") if path.name[5:].isdigit()), key=lambda path: int(path.name[5:]))
    for path in steps[:-keep]:
        rubbish = path.with_name(f".{path.name}.partial")
        shutil.rmtree(rubbish, ignore_errors=True)
        path.rename(rubbish)
        shutil.rmtree(rubbish)


def load_meta(directory: Path) -> dict[str, Json]:
    """What `commit` was given as `meta`. Raises `CorruptCheckpoint`."""
    meta = _read_json(directory / META).get("meta")
    if not isinstance(meta, dict):
        raise CorruptCheckpoint(f"{directory / META}: no 'meta' object in it")
    return meta


def save_state(trainer: LocalTrainer, directory: Path) -> None:
    """Writes weights, moments and counters; call it inside `commit`."""
    tensors = {f"weights/{name}": parameter.detach() for name, parameter in trainer.model.named_parameters()}
    if trainer.phase is not None:
        tensors |= {f"moments/{name}": value for name, value in trainer.optimizer.moments().items()}
    data = save_tensors({name: tensor.contiguous().cpu() for name, tensor in tensors.items()})
    state = {
        "format": _FORMAT,
        "phase": trainer.phase,
        "total_steps": trainer.total_steps,
        "phase_step": trainer.phase_step,
        "version": trainer.version,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    (directory / TENSORS).write_bytes(data)
    (directory / STATE).write_text(json.dumps(state, sort_keys=True), encoding="utf-8")


def load_state(trainer: LocalTrainer, directory: Path) -> None:
    """The inverse of `save_state`, into a trainer with the same model shape and configuration.

    Raises `CorruptCheckpoint` when anything is missing, truncated or altered, or does not fit the model; the trainer is then
    unchanged.
    """
    state = _read_json(directory / STATE)
    tensors = _read_tensors(directory / TENSORS, state.get("sha256"))
    weights = {name.removeprefix("weights/"): value for name, value in tensors.items() if name.startswith("weights/")}
    moments = {name.removeprefix("moments/"): value for name, value in tensors.items() if name.startswith("moments/")}
    parameters = dict(trainer.model.named_parameters())
    if {name: value.shape for name, value in weights.items()} != {name: value.shape for name, value in parameters.items()}:
        raise CorruptCheckpoint(f"{directory}: its weights are not those of this model: resume with the run's own configuration")
    if not {name.rpartition("/")[0] for name in moments} <= parameters.keys():
        raise CorruptCheckpoint(f"{directory}: its moments are not those of this model: resume with the run's own configuration")
    try:
        phase, total_steps = state["phase"], int(state["total_steps"])
        phase_step, version = int(state["phase_step"]), int(state["version"])
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptCheckpoint(f"{directory / STATE}: {error!r}: use an earlier checkpoint") from error
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    if phase is not None:
        trainer.begin_phase(phase, total_steps)
        trainer.optimizer.load_moments(moments)
    trainer.phase_step, trainer.version = phase_step, version


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptCheckpoint(f"{path}: {error}: use an earlier checkpoint") from error
    if not isinstance(value, dict) or value.get("format") != _FORMAT:
        raise CorruptCheckpoint(f"{path}: not format {_FORMAT}: use an earlier checkpoint")
    return value


def _read_tensors(path: Path, sha256: object) -> dict[str, torch.Tensor]:
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise CorruptCheckpoint(f"{path}: truncated or altered ({len(data)} bytes): use an earlier checkpoint")
        return load_tensors(data)
    except (OSError, SafetensorError) as error:
        raise CorruptCheckpoint(f"{path}: {error}: use an earlier checkpoint") from error


def _is_full(error: BaseException) -> bool:
    # safetensors reports the operating system's error as text
    return (isinstance(error, OSError) and error.errno in _FULL) or "No space left on device" in str(error)


def _sync_tree(directory: Path) -> None:
    for path in sorted(directory.rglob("*")):
        _sync(path)
    _sync(directory)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
