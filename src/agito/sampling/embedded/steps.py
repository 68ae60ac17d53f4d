"""Decode steps: one token for each sampling row, repeatedly, until it stops.

Axes: R sampling rows, M those of them that continue, S slots of the cache, K stop tokens, X kinds of
counters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from agito.sampling.embedded.rows import EngineRow

# For recorded steps:
_FINE_SLOTS, _FINE_POSITIONS = 16, 128  # granularity of rounding up
_NUM_STOPS = 4  # per row, initially
_COUNTS = ("lane", "position", "end", "advance")  # followed by the stop tokens


@dataclass(slots=True)
class Batch:
    """The rows of one step on the device. `positions_R`: positions to sample; `ends_R`: last allowed ones."""

    lanes_R: Tensor
    slots_R: Tensor
    positions_R: Tensor
    ends_R: Tensor
    stops_RK: Tensor
    temperatures_R: Tensor
    top_ps_R: Tensor | None
    is_greedy: bool

    @classmethod
    def of(cls, rows: Sequence[EngineRow], device: torch.device) -> Batch:
        requests = [row.request for row in rows if row.request is not None]
        num_stops = max(len(request.stop_ids) for request in requests)
        counts = [
            (
                row.lane,
                row.slot,
                row.length,
                row.limit - 1,
                *request.stop_ids,
                *(-1,) * (num_stops - len(request.stop_ids)),
            )
            for row, request in zip(rows, requests, strict=True)
        ]
        counts_XR = torch.tensor(counts, dtype=torch.long).T.contiguous().to(device)
        heat_2R = torch.tensor(
            [[request.temperature for request in requests], [request.top_p for request in requests]],
            device=device,
        )
        return cls(
            lanes_R=counts_XR[0],
            slots_R=counts_XR[1],
            positions_R=counts_XR[2],
            ends_R=counts_XR[3],
            stops_RK=counts_XR[4:].T,
            temperatures_R=heat_2R[0],
            top_ps_R=heat_2R[1] if any(request.top_p < 1 for request in requests) else None,
            is_greedy=any(request.temperature == 0 for request in requests),
        )

    def only(self, kept_M: Tensor) -> Batch:
        return Batch(
            lanes_R=self.lanes_R[kept_M],
            slots_R=self.slots_R[kept_M],
            positions_R=self.positions_R[kept_M],
            ends_R=self.ends_R[kept_M],
            stops_RK=self.stops_RK[kept_M],
            temperatures_R=self.temperatures_R[kept_M],
            top_ps_R=None if self.top_ps_R is None else self.top_ps_R[kept_M],
            is_greedy=self.is_greedy,
        )


# (batch, slots, longest row): samples and returns which rows stop there.
Step: TypeAlias = Callable[[Batch, int, int], Tensor]


class Steps(Protocol):
    def begin(self, rows: Sequence[EngineRow]) -> None:
        """Sets the rows that sample from here on, ascending by slot."""
        ...

    def next(self, step: Step, *, num_slots: int, longest: int) -> list[bool]:
        """One token for each running row; returns which of them stop. `step` is the same in every call."""
        ...


class LaunchedSteps:
    """Launches one kernel after another."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def begin(self, rows: Sequence[EngineRow]) -> None:
        self._batch = Batch.of(rows, self._device)

    def next(self, step: Step, *, num_slots: int, longest: int) -> list[bool]:
        is_stopped_R = step(self._batch, num_slots, longest)
        flags = is_stopped_R.tolist()
        if any(flags):
            self._batch = self._batch.only((~is_stopped_R).nonzero()[:, 0])
        self._batch.positions_R += 1
        return flags


class Recording(Protocol):
    def replay(self) -> None: ...


# What to record, and another recording that may share its memory.
Record: TypeAlias = Callable[[Callable[[], None], Recording | None], Recording]


class RecordedSteps:
    """On a CUDA device, records a step once per shape as a graph and replays it: launching its kernels takes
    longer than running them.

    It runs over the first slots of the cache that include all sampling rows, rounded up to limit the number
    of shapes. Slots without a sampling row compute too: their samples go to a spare lane behind the last, and
    their keys and values to position `context` - 2 of the slot. No row that can still continue has data
    there: it holds at most `context` - 1 tokens, the last of which is not in the cache.
    """

    def __init__(
        self, *, slots: int, context: int, device: torch.device, record: Record | None = None
    ) -> None:
        self._context, self._record = context, record or _Cuda(device)
        self._numbers_S = torch.arange(slots, device=device)
        self._heat_2S = torch.ones(2, slots, device=device)
        self._is_stopped_S = torch.zeros(slots, dtype=torch.bool, device=device)
        self._widen(_NUM_STOPS)

    def begin(self, rows: Sequence[EngineRow]) -> None:
        batch = Batch.of(rows, torch.device("cpu"))
        num_slots, num_stops = len(self._numbers_S), batch.stops_RK.shape[1]
        if num_stops > len(self._counts_XS) - len(_COUNTS):
            self._widen(num_stops)
        slots_R, ends_R = batch.slots_R, batch.ends_R
        counts_XS = torch.full(self._counts_XS.shape, -1)
        counts_XS[: len(_COUNTS)] = torch.tensor([num_slots, self._context - 1, -1, 0])[:, None]
        counts_XS[: len(_COUNTS) + num_stops, slots_R] = torch.stack(
            [batch.lanes_R, batch.positions_R, ends_R, torch.ones_like(ends_R), *batch.stops_RK.T]
        )
        heat_2S = torch.ones(2, num_slots)
        heat_2S[0, slots_R] = batch.temperatures_R
        if batch.top_ps_R is not None:
            heat_2S[1, slots_R] = batch.top_ps_R
        self._counts_XS.copy_(counts_XS)
        self._heat_2S.copy_(heat_2S)
        self._how = int(batch.top_ps_R is not None), int(batch.is_greedy)
        self._slots = slots_R.tolist()

    def next(self, step: Step, *, num_slots: int, longest: int) -> list[bool]:
        size = min(_rounded(num_slots, _FINE_SLOTS), len(self._numbers_S))
        shape = size, min(_rounded(max(longest, _FINE_POSITIONS), _FINE_POSITIONS), self._context), *self._how
        if shape not in self._graphs:
            self._graphs[shape] = self._recorded(step, *shape)
        self._graphs[shape].replay()
        flags_S = self._is_stopped_S[:size].tolist()
        flags = [flags_S[slot] for slot in self._slots]
        if any(flags):
            self._slots = [slot for slot, stops in zip(self._slots, flags, strict=True) if not stops]
        return flags

    def _widen(self, num_stops: int) -> None:
        """Makes room for `num_stops` stop tokens per row."""
        self._counts_XS = torch.zeros(
            len(_COUNTS) + num_stops, len(self._numbers_S), dtype=torch.long, device=self._numbers_S.device
        )
        self._graphs: dict[tuple[int, ...], Recording] = {}

    def _recorded(self, step: Step, size: int, longest: int, is_cut: int, is_greedy: int) -> Recording:
        lanes_S, positions_S, ends_S, advance_S = self._counts_XS[: len(_COUNTS), :size]
        batch = Batch(
            lanes_R=lanes_S,
            slots_R=self._numbers_S[:size],
            positions_R=positions_S,
            ends_R=ends_S,
            stops_RK=self._counts_XS[len(_COUNTS) :, :size].T,
            temperatures_R=self._heat_2S[0, :size],
            top_ps_R=self._heat_2S[1, :size] if is_cut else None,
            is_greedy=bool(is_greedy),
        )

        def run() -> None:
            is_stopped_S = self._is_stopped_S[:size].copy_(step(batch, size, longest))
            positions_S.add_(advance_S).masked_fill_(is_stopped_S, self._context - 1)
            lanes_S.masked_fill_(is_stopped_S, len(self._numbers_S))
            advance_S.masked_fill_(is_stopped_S, 0)

        counts_XS = self._counts_XS.clone()
        graph = self._record(run, next(iter(self._graphs.values()), None))
        self._counts_XS.copy_(counts_XS)
        return graph


class _Cuda:
    """Records on a separate stream."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def __call__(self, run: Callable[[], None], other: Recording | None) -> Recording:
        with torch.cuda.device(self._device):
            here = torch.cuda.current_stream()
            self._stream.wait_stream(here)
            with torch.cuda.stream(self._stream):
                run()  # libraries' first-call setup cannot be recorded
            here.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            pool = other.pool() if isinstance(other, torch.cuda.CUDAGraph) else None
            with torch.cuda.graph(graph, pool=pool, stream=self._stream):
                run()
        return graph


def _rounded(number: int, fine: int) -> int:
    """Rounds up: to a power of two below `fine`, to a multiple of it up to 8 x `fine`, and beyond to within
    an eighth to a quarter."""
    if number < fine:
        return 1 << (number - 1).bit_length()
    unit = max(fine, 1 << ((number - 1).bit_length() - 3))
    return -(-number // unit) * unit
