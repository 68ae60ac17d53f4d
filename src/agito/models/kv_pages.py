"""Memory of the compiled engine: an arena for weights, and pages of keys and values. Rows share the pages of
common prefixes, and no row reserves more than it uses."""

from __future__ import annotations

import ctypes
import math
import mmap
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import torch

SPAN = 64  # positions per page, as in attend.h
_ARENA = 1 << 25  # bytes allocated at once
_LINE = 64  # bytes of a cache line


class Arena:
    """Zeroed memory, handed out front to back, in huge pages where available, which saves TLB misses."""

    def __init__(self, num_bytes: int) -> None:
        self._mapped = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a kernel without huge pages
                self._mapped.madvise(mmap.MADV_HUGEPAGE)
        self._bytes = torch.frombuffer(self._mapped, dtype=torch.uint8)
        self._taken = 0

    @staticmethod
    def for_each(*shapes: Sequence[int], dtype: torch.dtype) -> Arena:
        """Arena for one tensor of each shape."""
        return Arena(sum(Arena._rounded(math.prod(shape) * dtype.itemsize) for shape in shapes))

    def allocate(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        num_bytes = math.prod(shape) * dtype.itemsize
        taken = self._bytes[self._taken : self._taken + num_bytes]
        self._taken += self._rounded(num_bytes)
        return taken.view(dtype).view(shape)

    @staticmethod
    def _rounded(num_bytes: int) -> int:
        return -(-num_bytes // _LINE) * _LINE


class _Pool:
    """Pages of one size. Their memory is given back when none is in use: what this process does then, such as
    learn, may need it."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self.free: list[int] = []  # addresses
        self._arenas: list[torch.Tensor] = []

    def allocate(self) -> Page:
        if not self.free:
            count = max(1, _ARENA // self.num_bytes)
            arena = Arena(count * self.num_bytes).allocate(count * self.num_bytes, dtype=torch.uint8)
            self._arenas.append(arena)
            self.free = [arena.data_ptr() + number * self.num_bytes for number in reversed(range(count))]
        return Page(self, self.free.pop())

    def release(self, address: int) -> None:
        self.free.append(address)
        if len(self.free) * self.num_bytes == self.held_bytes:
            self.free, self._arenas = [], []

    @property
    def held_bytes(self) -> int:
        return sum(arena.numel() for arena in self._arenas)


class Page:
    """Freed when the last reference goes."""

    __slots__ = ("_pool", "address")

    def __init__(self, pool: _Pool, address: int) -> None:
        self._pool, self.address = pool, address

    def __del__(self) -> None:
        self._pool.release(self.address)


class StoredPages(NamedTuple):
    """Positions kept outside any slot."""

    pages: tuple[Page, ...]
    length: int


class PageTable:
    """Which pages hold each slot's positions. A full page is shared by all that refer to it and never written
    again."""

    def __init__(self, *, slots: int, context: int, num_bytes: int) -> None:
        """`num_bytes`: size of a page."""
        self.num_pages = -(-context // SPAN)  # per slot, at most
        self.addresses = np.zeros((slots, self.num_pages), dtype=np.int64)
        self._pool = _Pool(num_bytes)
        self._rows: list[list[Page]] = [[] for _ in range(slots)]

    @property
    def held_bytes(self) -> int:
        """Bytes of memory taken for pages."""
        return self._pool.held_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes of pages in use."""
        return self._pool.held_bytes - len(self._pool.free) * self._pool.num_bytes

    def reach(self, slot: int, length: int) -> None:
        """Provides arena for `length` positions."""
        row = self._rows[slot]
        while len(row) * SPAN < length:
            row.append(self._pool.allocate())
            self.addresses[slot, len(row) - 1] = row[-1].address

    def release(self, slot: int) -> None:
        self._rows[slot] = []

    def read(self, slot: int, length: int) -> StoredPages:
        """The first `length` positions. A slot that holds them may continue: it writes after them."""
        return StoredPages(tuple(self._rows[slot][: -(-length // SPAN)]), length)

    def write(self, slot: int, held: StoredPages) -> None:
        """Shares whole pages and copies a partly filled one, which will be written to."""
        row = list(held.pages)
        if held.length % SPAN:
            row[-1] = self._pool.allocate()
            ctypes.memmove(row[-1].address, held.pages[-1].address, self._pool.num_bytes)
        self._rows[slot] = row
        self.addresses[slot, : len(row)] = [page.address for page in row]
