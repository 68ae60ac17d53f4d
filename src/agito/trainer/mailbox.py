"""Weights on their way from a trainer to the engines of the same machine, through shared memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

_ALIGN = 64  # bytes
_EMPTY = -1


class Mailbox:
    """Two places in turn: a version can be written while the one before it is read, but not the one after that.

    A version that is not there, or not there as a whole, is never handed out.
    """

    def __init__(self, share: Callable[[int], Tensor], named: Iterable[tuple[str, Tensor]]) -> None:
        """`share(size)` gives the bytes that all have in common, such as `SharedReducer.share`; `named` says what the weights look like."""
        like, at = list(named), _ALIGN
        spans: dict[str, tuple[int, int]] = {}
        for name, tensor in like:
            spans[name] = at, at + tensor.numel() * tensor.element_size()
            at += -(-(spans[name][1] - at) // _ALIGN) * _ALIGN
        memory = share(2 * at).view(2, at)
        self._stamps = [half[:8].view(torch.int64) for half in memory]
        self._places = [{name: half[slice(*spans[name])].view(tensor.dtype).view(tensor.shape) for name, tensor in like} for half in memory]
        for stamp in self._stamps:
            stamp.fill_(_EMPTY)

    def write(self, version: int, named: Iterable[tuple[str, Tensor]]) -> None:
        stamp, place = self._stamps[version % 2], self._places[version % 2]
        stamp.fill_(_EMPTY)
        for name, tensor in named:
            place[name].copy_(tensor.detach())
        stamp.fill_(version)

    def read(self, version: int) -> Mapping[str, Tensor]:
        """The weights where they lie: copy them before the version after the next is written. Raises `RuntimeError` if they are not."""
        found = int(self._stamps[version % 2])
        if found != version:
            raise RuntimeError(f"weights of version {version} are not in the mailbox: it has {found}")
        return self._places[version % 2]
