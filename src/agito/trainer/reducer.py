"""How one trainer becomes several: sums over data-parallel ranks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Reducer(Protocol):
    """Every rank calls the same methods in the same order and receives the same bits."""

    @property
    def rank(self) -> int: ...
    @property
    def num_ranks(self) -> int: ...

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Adds up `tensors` over ranks, in place."""
        ...

    def sum(self, values: Sequence[float]) -> list[float]: ...
    def max(self, values: Sequence[float]) -> list[float]: ...


class OneRank:
    """A reducer with nobody else."""

    rank, num_ranks = 0, 1

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        del tensors

    def sum(self, values: Sequence[float]) -> list[float]:
        return list(values)

    def max(self, values: Sequence[float]) -> list[float]:
        return list(values)


class GlooReducer:
    """Ranks on one machine (or on `interface`) that meet through a file, which must not exist before; one flat all-reduce a call.

    Every method raises `RuntimeError` when a rank is gone, or has not answered for `timeout_s`. One per process: torch has one
    default group.
    """

    def __init__(self, rank: int, num_ranks: int, meeting_file: Path, *, interface: str = "lo", timeout_s: float = 300.0) -> None:
        self.rank, self.num_ranks = rank, num_ranks
        os.environ["GLOO_SOCKET_IFNAME"] = interface  # gloo reads it when the group is made, and has no argument for it
        dist.init_process_group(
            "gloo",
            init_method=f"file://{meeting_file.resolve()}",
            rank=rank,
            world_size=num_ranks,
            timeout=timedelta(seconds=timeout_s),
        )

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        if not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def sum(self, values: Sequence[float]) -> list[float]:
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, values: Sequence[float]) -> list[float]:
        return self._reduce(values, dist.ReduceOp.MAX)

    def close(self) -> None:
        """Leaves the group. Idempotent."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def _reduce(self, values: Sequence[float], how: dist.ReduceOp.RedOpType) -> list[float]:
        column = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(column, op=how)
        return column.tolist()
