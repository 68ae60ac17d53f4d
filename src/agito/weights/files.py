"""Weights as files, for samplers that read them by path: one name per version, never reused, whole or
absent."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from agito.models import Decoder, LoraConfig, save_adapter


class WeightFiles:
    """`DIRECTORY/POLICY@VERSION`: an adapter's folder, or a safetensors file with all weights. The newest
    `keep` remain."""

    def __init__(self, directory: Path, policy: str, *, keep: int = 4) -> None:
        """`keep`: at least as many versions as samplers may still ask for."""
        directory.mkdir(parents=True, exist_ok=True)
        self._directory, self._policy, self._keep = directory, policy, keep
        self._versions: list[int] = []

    def push_adapter(self, version: int, model: Decoder, config: LoraConfig, *, base: Path) -> Path:
        """Raises `ValueError` for a version that is not newer than the last one."""
        return self._push(version, lambda path: save_adapter(model, config, path, base=str(base)))

    def push(self, version: int, weights: Iterable[tuple[str, Tensor]]) -> Path:
        """All weights by Hugging Face name, tied ones once. Raises as `push_adapter`."""
        found = {name: tensor.detach().cpu().contiguous() for name, tensor in weights}

        def write(path: Path) -> None:
            safetensors.torch.save_file(found, path, metadata={"format": "pt"})  # pyright: ignore[reportUnknownMemberType]

        return self._push(version, write)

    def _push(self, version: int, write: Callable[[Path], object]) -> Path:
        if self._versions and version <= self._versions[-1]:
            raise ValueError(
                f"weights of version {version} come after {self._versions[-1]}: versions grow and are "
                "never used again"
            )
        path = self._path(version)
        partial = path.with_name(f".{path.name}.partial")
        _remove(partial)
        with torch.no_grad():
            write(partial)
        partial.rename(path)
        self._versions.append(version)
        for old in self._versions[: -self._keep]:
            _remove(self._path(old))
        self._versions = self._versions[-self._keep :]
        return path

    def _path(self, version: int) -> Path:
        return self._directory / f"{self._policy}@{version}"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
