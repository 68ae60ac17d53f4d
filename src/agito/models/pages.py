"""Memory of the compiled engine: room for weights, and pages of keys and values, of which rows that begin
alike share what they have in common and none reserves what it does not use.
"""

from __future__ import annotations

import ctypes
import math
import mmap
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import torch

SPAN = 64  # positions of a page, as in attend.h
_ARENA = 1 << 25  # bytes that are asked for at once
_LINE = 64  # bytes


class Room:
    """Zeros, handed out from the front; in large pages where there are, so that reading all of it looks up
    few addresses.
    """

    def __init__(self, num_bytes: int) -> None:
        self._mapped = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a kernel without
                self._mapped.madvise(mmap.MADV_HUGEPAGE)
        self._bytes = torch.frombuffer(self._mapped, dtype=torch.uint8)
        self._taken = 0

    @staticmethod
    def for_each(*shapes: Sequence[int], dtype: torch.dtype) -> Room:
        """For one tensor of each shape."""
        return Room(sum(Room._rounded(math.prod(shape) * dtype.itemsize) for shape in shapes))

    def take(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        num_bytes = math.prod(shape) * dtype.itemsize
        taken = self._bytes[self._taken : self._taken + num_bytes]
        self._taken += self._rounded(num_bytes)
        return taken.view(dtype).view(shape)

    @staticmethod
    def _rounded(num_bytes: int) -> int:
        return -(-num_bytes // _LINE) * _LINE


class _Pool:
    """Pages of one size."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self.free: list[int] = []  # addresses
        self._arenas: list[torch.Tensor] = []

    def take(self) -> Page:
        if not self.free:
            count = max(1, _ARENA // self.num_bytes)
            arena = Room(count * self.num_bytes).take(count * self.num_bytes, dtype=torch.uint8)
            self._arenas.append(arena)
            self.free = [arena.data_ptr() + number * self.num_bytes for number in reversed(range(count))]
        return Page(self, self.free.pop())

    @property
    def held_bytes(self) -> int:
        return sum(arena.numel() for arena in self._arenas)


class Page:
    """Free again when nothing refers to it."""

    __slots__ = ("_pool", "address")

    def __init__(self, pool: _Pool, address: int) -> None:
        self._pool, self.address = pool, address

    def __del__(self) -> None:
        self._pool.free.append(self.address)


class Held(NamedTuple):
    """Positions that are kept apart from any slot."""

    pages: tuple[Page, ...]
    length: int


class PageTable:
    """Which pages each slot's positions lie in. A page that is full belongs to all who share it, and nobody
    writes to it again.
    """

    def __init__(self, *, slots: int, context: int, num_bytes: int) -> None:
        """`num_bytes`: of a page."""
        self.num_pages = -(-context // SPAN)  # of a slot, at the most
        self.addresses = np.zeros((slots, self.num_pages), dtype=np.int64)
        self._pool = _Pool(num_bytes)
        self._rows: list[list[Page]] = [[] for _ in range(slots)]

    @property
    def used_bytes(self) -> int:
        """Of pages that somebody holds."""
        return self._pool.held_bytes - len(self._pool.free) * self._pool.num_bytes

    def reach(self, slot: int, length: int) -> None:
        """Room for so many positions."""
        row = self._rows[slot]
        while len(row) * SPAN < length:
            row.append(self._pool.take())
            self.addresses[slot, len(row) - 1] = row[-1].address

    def release(self, slot: int) -> None:
        self._rows[slot] = []

    def read(self, slot: int, length: int) -> Held:
        """The first `length` positions. Whoever has them in a slot may go on: it writes behind them."""
        return Held(tuple(self._rows[slot][: -(-length // SPAN)]), length)

    def write(self, slot: int, held: Held) -> None:
        """Whole pages are shared; one that is begun is copied, as it will be written to."""
        row = list(held.pages)
        if held.length % SPAN:
            row[-1] = self._pool.take()
            ctypes.memmove(row[-1].address, held.pages[-1].address, self._pool.num_bytes)
        self._rows[slot] = row
        self.addresses[slot, : len(row)] = [page.address for page in row]
