"""Sums over data-parallel ranks."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

_SLAB_BYTES = 4 << 20  # sent per rank and exchange; larger tensors are split
_ALIGN = 64  # bytes


class Reducer(Protocol):
    """All ranks call the same methods in the same order and receive the same bits."""

    @property
    def rank(self) -> int: ...
    @property
    def num_ranks(self) -> int: ...

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Adds up `tensors` over ranks, in place."""
        ...

    def sum(self, values: Sequence[float]) -> list[float]: ...
    def max(self, values: Sequence[float]) -> list[float]: ...

    @property
    def shares_memory(self) -> bool:
        """Whether `unite` spares memory."""
        ...

    def unite(self, tensors: Sequence[Tensor]) -> None:
        """Tensors in main memory that every rank has alike become the first rank's, in memory that all share,
        if they can: what one rank writes, all have."""
        ...


class OneRank:
    """The reducer of a single rank."""

    rank, num_ranks, shares_memory = 0, 1, False

    def unite(self, tensors: Sequence[Tensor]) -> None:
        del tensors

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        del tensors

    def sum(self, values: Sequence[float]) -> list[float]:
        return list(values)

    def max(self, values: Sequence[float]) -> list[float]:
        return list(values)


class SharedReducer:
    """Ranks on one machine: data in shared memory, summed by every rank in the same order; barriers through
    gloo.

    Ranks find one another through a file, which must not exist before. Every method raises `RuntimeError`
    when a rank is gone or has not reached a barrier for `timeout_s`. One per process: torch has one default
    group.
    """

    shares_memory = True

    def __init__(
        self,
        rank: int,
        num_ranks: int,
        rendezvous_file: Path,
        *,
        interface: str = "lo",
        timeout_s: float = 300.0,
    ) -> None:
        self.rank, self.num_ranks = rank, num_ranks
        # Gloo reads the interface when the group is made and takes no argument for it.
        os.environ["GLOO_SOCKET_IFNAME"] = interface
        dist.init_process_group(
            "gloo",
            init_method=f"file://{rendezvous_file.resolve()}",
            rank=rank,
            world_size=num_ranks,
            timeout=timedelta(seconds=timeout_s),
        )
        # Two slabs in turn: none is written before all ranks have passed the barrier that follows its
        # reading.
        slabs = self.share(2 * num_ranks * _SLAB_BYTES)
        self._slabs = slabs.view(2, num_ranks, _SLAB_BYTES)
        self._turn = 0

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        flats = [tensor.detach().reshape(-1) for tensor in tensors]
        for parts in _portions(flats):
            mine = torch.cat(parts)
            first, *others = self._exchange(mine)
            mine.copy_(first)
            for other in others:
                mine.add_(other)
            for part, summed in zip(parts, mine.split([len(part) for part in parts]), strict=True):
                part.copy_(summed)
        for tensor, flat in zip(tensors, flats, strict=True):
            if flat.data_ptr() != tensor.data_ptr():  # its elements are not in order
                tensor.copy_(flat.view_as(tensor))

    def sum(self, values: Sequence[float]) -> list[float]:
        return self._exchange(torch.tensor(values, dtype=torch.float64)).sum(dim=0).tolist()

    def max(self, values: Sequence[float]) -> list[float]:
        return self._exchange(torch.tensor(values, dtype=torch.float64)).amax(dim=0).tolist()

    @torch.no_grad()
    def unite(self, tensors: Sequence[Tensor]) -> None:
        sizes = [tensor.numel() * tensor.element_size() for tensor in tensors]
        starts = [0]
        for size in sizes:
            starts.append(starts[-1] + -(-size // _ALIGN) * _ALIGN)
        memory = self.share(max(starts[-1], 1))
        for tensor, start, size in zip(tensors, starts, sizes, strict=False):
            place = memory[start : start + size].view(tensor.dtype).view(tensor.shape)
            if self.rank == 0:
                place.copy_(tensor)
            tensor.data = place  # its own memory is free at once
        self._barrier()

    def close(self) -> None:
        """Leaves the group. Idempotent."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def _exchange(self, mine_N: Tensor) -> Tensor:
        """What every rank sent, shape (ranks, N); valid until the call after the next."""
        self._turn ^= 1
        slab_RN = self._slabs[self._turn].view(mine_N.dtype)[:, : mine_N.numel()]
        slab_RN[self.rank].copy_(mine_N)
        self._barrier()
        return slab_RN.to(mine_N.device)

    def _barrier(self) -> None:
        dist.all_reduce(torch.zeros(1))  # the fastest of gloo's collectives as a barrier

    def share(self, size: int) -> Tensor:
        """`size` zeroed bytes of memory shared by all ranks, freed with the last of them. All ranks call it
        together."""
        fd = os.memfd_create("agito") if self.rank == 0 else -1
        where = torch.tensor([os.getpid(), fd])
        dist.broadcast(where, src=0)
        if self.rank == 0:
            os.ftruncate(fd, size)
        else:
            fd = os.open(f"/proc/{int(where[0])}/fd/{int(where[1])}", os.O_RDWR)
        self._barrier()  # before any rank reads its length or closes it
        memory = mmap.mmap(fd, size)
        self._barrier()
        os.close(fd)
        return torch.frombuffer(memory, dtype=torch.uint8)


def _portions(flats: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """All elements in order, by what fits into a slab."""
    most = _SLAB_BYTES // max((flat.element_size() for flat in flats), default=1)
    parts, room = list[Tensor](), most
    for flat in flats:
        at = 0
        while at < len(flat):
            parts.append(flat[at : at + room])
            at, room = at + len(parts[-1]), room - len(parts[-1])
            if not room:
                yield parts
                parts, room = [], most
    if parts:
        yield parts
