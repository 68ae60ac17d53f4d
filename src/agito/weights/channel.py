"""The channel between a learner and the samplers of its policy: `push` a version, `pull` that version.

A missing or incomplete version is never returned, and no version is used twice. The caller, who counts
commits, numbers versions; the channel only requires that they grow. Between processes, the order of requests
ensures that a push precedes its pull.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from agito.weights.address import SharedMemory

_ALIGN = 64  # bytes
EMPTY = -1


class WeightChannel(Protocol):
    """One policy's weights, from one learner to any number of samplers."""

    def push(self, version: int, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Raises `ValueError` for a version that is not newer than the last one."""
        ...

    def pull(self, version: int) -> Mapping[str, Tensor]:
        """The weights in place, without a copy: copy them before the version after the next is pushed. Raises
        `RuntimeError` if this version is not there."""
        ...


class InProcess:
    """For a learner and sampler in one process. Nothing is copied, so a version is valid only until the
    learner's weights change."""

    def __init__(self) -> None:
        self._newest = self._held = EMPTY
        self._weights: dict[str, Tensor] = {}

    def push(self, version: int, weights: Iterable[tuple[str, Tensor]]) -> None:
        require_newer(version, self._newest)
        self._weights = {name: tensor.detach() for name, tensor in weights}
        self._newest = self._held = version

    def withdraw(self) -> None:
        """Invalidates the pushed weights because they are about to change."""
        self._held = EMPTY

    def pull(self, version: int) -> Mapping[str, Tensor]:
        require_there(version, self._held)
        return self._weights


class WeightBuffer:
    """Shared memory between processes of one machine.

    It holds two versions in turn: a new one can be written while the previous one is read, but not the one
    after.
    """

    def __init__(self, memory: Tensor, like: Iterable[tuple[str, Tensor]], fd: int = -1) -> None:
        """`memory`: bytes that both sides map, on the learner's side from descriptor `fd`; `like` gives
        names, shapes and types."""
        places, half = spans(like)
        halves = memory.view(2, half)
        self._stamps = [each[:8].view(torch.int64) for each in halves]
        self._slots = [
            {
                name: each[start:stop].view(tensor.dtype).view(tensor.shape)
                for name, (start, stop, tensor) in places.items()
            }
            for each in halves
        ]
        self._newest, self._fd = EMPTY, fd

    @classmethod
    def create(cls, like: Iterable[tuple[str, Tensor]]) -> tuple[WeightBuffer, SharedMemory]:
        """The learner's side, and the address at which samplers find it until it closes."""
        like = list(like)
        size = 2 * spans(like)[1]
        fd = os.memfd_create("agito-weights")
        os.ftruncate(fd, size)
        buffer = cls(_mapped(fd, size), like, fd)
        for stamp in buffer._stamps:
            stamp.fill_(EMPTY)
        return buffer, SharedMemory(path=f"/proc/{os.getpid()}/fd/{fd}", num_bytes=size)

    @classmethod
    def open(cls, where: SharedMemory, like: Iterable[tuple[str, Tensor]]) -> WeightBuffer:
        """A sampler's side. Raises `RuntimeError` when the learner's weights have another size."""
        like = list(like)
        if where.num_bytes != 2 * spans(like)[1]:
            raise RuntimeError(
                f"{where.path}: {where.num_bytes} bytes of weights, but this policy has {2 * spans(like)[1]}"
            )
        fd = os.open(where.path, os.O_RDWR)
        try:
            return cls(_mapped(fd, where.num_bytes), like)
        finally:
            os.close(fd)

    def push(self, version: int, weights: Iterable[tuple[str, Tensor]]) -> None:
        require_newer(version, self._newest)
        stamp, slot = self._stamps[version % 2], self._slots[version % 2]
        stamp.fill_(EMPTY)
        for name, tensor in weights:
            slot[name].copy_(tensor.detach())
        stamp.fill_(version)
        self._newest = version

    def pull(self, version: int) -> Mapping[str, Tensor]:
        require_there(version, int(self._stamps[version % 2]))
        return self._slots[version % 2]

    def close(self) -> None:
        """Hides the memory from new samplers; it is freed when the last process closes it. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def spans(like: Iterable[tuple[str, Tensor]]) -> tuple[dict[str, tuple[int, int, Tensor]], int]:
    """Offset of each tensor within one half, after the half's stamp, and the size of a half in bytes."""
    places, at = dict[str, tuple[int, int, Tensor]](), _ALIGN
    for name, tensor in like:
        stop = at + tensor.numel() * tensor.element_size()
        places[name] = at, stop, tensor
        at += -(-(stop - at) // _ALIGN) * _ALIGN
    return places, at


def _mapped(fd: int, size: int) -> Tensor:
    return torch.frombuffer(mmap.mmap(fd, size), dtype=torch.uint8)


def require_newer(version: int, newest: int) -> None:
    if version <= newest:
        raise ValueError(
            f"weights of version {version} come after {newest}: versions grow and are never used again"
        )


def require_there(version: int, found: int) -> None:
    if version < 0 or found != version:
        raise RuntimeError(
            f"weights of version {version} are not in the channel: it has "
            f"{found if found != EMPTY else 'none'}"
        )
