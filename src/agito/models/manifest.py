"""The manifest of published weights: policy, version, contents, and hashes to verify them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

import torch
from torch import Tensor

MANIFEST_NAME = "manifest.json"
_SCHEMA = 1


class WeightKind(StrEnum):
    """What the tensors are."""

    FULL = "full"
    ADAPTER = "adapter"  # to be added to `base`
    DELTA = "delta"  # differences from `base`


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One published set of weights. Hashes are SHA-256 in hexadecimal."""

    version: int
    policy: str = "main"
    kind: WeightKind = WeightKind.FULL
    base: int | None = None  # the version that an adapter or delta applies to
    tensors: Mapping[str, str] = field(default_factory=dict[str, str])  # name: hash of dtype, shape and bytes
    # Path relative to the checkpoint: hash of the file's bytes.
    files: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        if (self.kind is WeightKind.FULL) != (self.base is None):
            raise ValueError(
                f"kind={self.kind}, base={self.base}: full weights have no base, the others need one"
            )

    def to_json(self) -> str:
        return json.dumps({"schema_version": _SCHEMA, **asdict(self)}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Raises `ValueError` for anything that `to_json` did not write."""
        data = json.loads(text)
        if not isinstance(data, dict) or data.pop("schema_version", None) != _SCHEMA:
            raise ValueError(f"not a manifest of schema {_SCHEMA}")
        try:
            found = cls(**{**data, "kind": WeightKind(data["kind"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a manifest: {error}") from error
        for name, value, kinds in (
            ("version", found.version, int),
            ("policy", found.policy, str),
            ("base", found.base, int | None),
            ("tensors", found.tensors, dict),
            ("files", found.files, dict),
        ):
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise ValueError(f"not a manifest: {name}={value!r}")
        for listed in (found.tensors, found.files):
            if not all(isinstance(each, str) for each in listed.values()):
                raise ValueError("not a manifest: a hash is no text")
        return found


def tensor_hashes(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """A hash for each tensor, on any device."""
    return {name: _tensor_hash(tensor) for name, tensor in sorted(weights.items())}


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tensor_hash(tensor: Tensor) -> str:
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
