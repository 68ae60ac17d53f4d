"""Batched sampling in this process: rows that keep their cache across requests, exact log-probabilities,
bitwise repeatable exchanges.

Rows with a common prefix share its computation: a prompt is computed once for all rows opened under the same
weights, and copied.

A row is created by its first request and holds one of `rows` slots until it closes; further rows wait. If
some wait while nobody samples, idle rows give up their slots and their cache is stored until they return. So
any number of rows may exist, and every waiting row is served.

Randomness is keyed by (seed, position in the row), so a row's draws do not depend on its neighbours. Its
log-probabilities do, in the last bits, because a different batch changes the order of sums; the same sequence
of exchanges repeats bit for bit on the same build.

A sampled position carries the version of the weights that sampled it. A weight update keeps the cache.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agito.models import (
    CachedDecoder,
    Decoder,
    DecoderConfig,
    NativeDecoder,
    is_supported,
    merged_weights,
    num_params,
)
from agito.models.lora import apart, has_adapter
from agito.protocols import Sampled
from agito.sampling.capabilities import EMBEDDED
from agito.sampling.embedded.rows import EngineRow, RowBook, problem_of
from agito.sampling.embedded.sampling import logprobs_of, sample, steer, uniforms
from agito.sampling.embedded.steps import Batch, LaunchedSteps, RecordedSteps, Steps
from agito.sampling.wire import EngineRequest, EngineResponse, RowBranch, RowDone, RowRequest
from agito.types import FinishReason

_MASK64 = (1 << 64) - 1
_LARGE = 8192  # vocabulary size from which compiled code draws; torch is as fast for smaller ones
_CHUNK, _CHUNK_WORK = 4096, 1 << 37  # tokens; for a large network, as many as take this many products


class EmbeddedEngine:
    """A pure function of its exchanges. Not thread-safe.

    `native`: use compiled code wherever possible. `chunk`: maximum prompt and observation tokens per
    exchange, so that a long one does not stall decoding. `steps`: how decode steps run; by default recorded
    on a CUDA device and launched elsewhere.
    """

    capabilities = EMBEDDED

    def __init__(
        self,
        model: Decoder,
        *,
        rows: int,
        context: int,
        device: torch.device | str | None = None,
        version: int = 0,
        native: bool = True,
        chunk: int | None = None,
        steps: Steps | None = None,
        dtype: torch.dtype | None = None,
        threads: int = 1,
    ):
        if rows < 1 or context < 2 or (chunk is not None and chunk < 1):
            raise ValueError(
                f"rows={rows}, context={context}, chunk={chunk}: need at least 1 row of 2 tokens, 1 token "
                "at a time"
            )
        weight = model.head_weight
        self.device = torch.device(device) if device is not None else weight.device
        self.context = context
        self._chunk = chunk or self.chunk_of(model, self.device)
        self.version = version
        self._network = _network(
            model.config, rows, context, self.device, dtype or weight.dtype, native, threads
        )
        self._base: Decoder | None = None  # whose frozen weights are loaded
        self._book = RowBook(rows)
        # The last lane belongs to no row.
        self._ids_LC = torch.zeros(rows + 1, context, dtype=torch.long, device=self.device)
        self._logprobs_LC = torch.zeros(rows + 1, context, device=self.device)
        self._uniforms_LC = torch.zeros(rows + 1, context, dtype=torch.float64, device=self.device)
        is_cuda = self.device.type == "cuda"
        self._steps = steps or (
            RecordedSteps(slots=rows, context=context, device=self.device)
            if is_cuda
            else LaunchedSteps(self.device)
        )
        self._stored: dict[int, Any] = {}  # keys and values of rows without a slot
        # A row's initial tokens → the row, and the version that computed it.
        self._prompts: dict[bytes, tuple[EngineRow, int]] = {}
        self._forwarded = self._num_exchanges = 0
        self.load_weights(model, version)

    @staticmethod
    def chunk_of(model: Decoder, device: torch.device) -> int:
        """As many tokens as keep other rows waiting for at most a second on a CPU."""
        return _CHUNK if device.type != "cpu" else min(_CHUNK, max(_CHUNK_WORK // num_params(model), 64))

    @property
    def num_rows(self) -> int:
        """Open rows, including those waiting for a slot."""
        return len(self._book.rows.keys() | self._book.busy())

    def load_weights(self, weights: Mapping[str, Tensor] | Decoder, version: int) -> None:
        """Copies the weights; positions from here on carry `version`. Raises `ValueError` when they have
        another shape."""
        self._load(weights)
        self.version = version
        for row in self._book.live:
            row.mark(version, row.length)
        for row in self._book.reading:
            row.mark(version, max(row.computed, row.start))

    def _load(self, weights: Mapping[str, Tensor] | Decoder) -> None:
        """In bfloat16 an adapter stays apart: merged, much of what it adds would be rounded away."""
        if not isinstance(weights, Decoder):
            self._network.load(weights)
            self._base = None
        elif isinstance(self._network, NativeDecoder) and self._network.is_narrow and has_adapter(weights):
            frozen, adapter = apart(weights)
            if self._base is not weights:  # which never change
                self._network.load(frozen)
                self._base = weights
            self._network.adapt(adapter)
        else:
            self._network.load(merged_weights(weights))
            self._base = None

    def drop_all(self) -> None:
        """Forgets all rows and requests, like a new engine."""
        for key in list(self._book.rows):
            self._close(key)
        self._book = RowBook(self._book.size)
        self._prompts.clear()

    @torch.inference_mode()
    def advance(self, exchange: EngineRequest) -> EngineResponse:
        """One exchange: branch, close, admit, decode up to `steps` tokens for each live row.

        A closed row is never answered, and its branches live on. A request that cannot be served is answered
        with an error and leaves its row unchanged. Raises `ValueError`, before anything changes, for a
        request to a busy row or a branch of an unknown one.
        """
        began = time.perf_counter()
        self._check(exchange)
        self._forwarded = 0
        self._num_exchanges += 1
        for branch in exchange.branched:
            self._branch(branch)
        for key in exchange.closed:
            self._close(key)
        done = self._admit(exchange.requests)
        stopped = self._read() if self._book.reading else []
        moves = self._book.gather() if self._network.packs_rows else []
        if moves:
            sources, targets, lengths = zip(*moves, strict=True)
            self._network.move(sources, targets, lengths)
        steps, stopped_later = self._decode(exchange.steps)
        done += self._answers(stopped + stopped_later)
        return EngineResponse(
            done=tuple(sorted(done, key=lambda row: row.key)),
            live=len(self._book.busy()),
            steps=steps,
            forwarded=self._forwarded,
            busy_s=time.perf_counter() - began,
        )

    def _check(self, exchange: EngineRequest) -> None:
        known, busy = set(self._book.rows), self._book.busy()
        for branch in exchange.branched:
            if branch.parent not in known or branch.parent in busy:
                raise ValueError(f"branch of row {branch.parent}: it must be known and idle")
            if branch.child in known or branch.child in busy:
                raise ValueError(f"branch to row {branch.child}: the key is taken")
            known.add(branch.child)
        busy -= set(exchange.closed)
        for request in exchange.requests:
            if request.key in busy:
                raise ValueError(f"request to row {request.key}: it has one already")
            busy.add(request.key)

    def _branch(self, branch: RowBranch) -> None:
        book = self._book
        parent = book.rows[branch.parent]
        child = EngineRow(
            key=branch.child,
            length=parent.length,
            computed=parent.computed,
            last_id=parent.last_id,
            rested=self._num_exchanges,
        )
        book.rows[child.key] = child
        if parent.slot < 0:
            self._stored[child.key] = self._stored[parent.key]
        elif book.is_full:
            self._stored[child.key] = self._network.read(parent.slot, parent.computed)
        else:
            book.seat(child)
            self._network.move([parent.slot], [child.slot], [parent.computed])

    def _close(self, key: int) -> None:
        row = self._book.rows.get(key)
        if row is not None and row.slot >= 0:
            self._network.release(row.slot)
        self._book.close(key)
        self._stored.pop(key, None)

    def _admit(self, requests: Sequence[RowRequest]) -> list[RowDone]:
        """Gives slots to requests that can start now, without computing their extension; returns the refused
        ones."""
        book, size = self._book, self._network.config.vocab_size
        admitted: list[tuple[EngineRow, RowRequest]] = []
        refused: list[RowDone] = []
        for request in requests:
            row = book.rows.get(request.key)
            length = 0 if row is None else row.length
            problem = problem_of(request.request, length, context=self.context, vocab_size=size)
            if problem is not None:
                refused.append(RowDone(key=request.key, sampled=None, error=problem))
            elif row is not None and row.slot >= 0:
                admitted.append((row, request))
            else:
                book.queue.append(request)
        if book.queue and book.is_full and not (book.live or book.reading or admitted):
            for row in book.resting()[: len(book.queue)]:
                self._stored[row.key] = self._network.read(row.slot, row.computed)
                self._network.release(row.slot)
                book.unseat(row)
        while book.queue and not book.is_full:
            request = book.queue.popleft()
            row = book.rows.setdefault(request.key, EngineRow(key=request.key))
            book.seat(row)
            if row.key in self._stored:
                self._network.write(row.slot, self._stored.pop(row.key))
            admitted.append((row, request))
        for row, request in admitted:
            row.seed, row.request, row.start, row.marks = request.seed, request.request, row.length, []
            row.mark(self.version, row.start)
            row.length = row.first = row.start + len(request.request.extend)
            book.reading.append(row)
        return refused

    def _read(self) -> list[EngineRow]:
        """Computes extensions, first come first served, up to a chunk in total, and samples the first token
        of each complete one; returns the rows that stop there."""
        book, room = self._book, self._chunk
        self._prompts = {
            prompt: first
            for prompt, first in self._prompts.items()
            if book.rows.get(first[0].key) is first[0]
        }
        alone, alike, cut = list[EngineRow](), dict[EngineRow, EngineRow](), list[EngineRow]()
        for row in book.reading:
            leader = self._leader(row)
            cost = 1 if leader else row.length - row.computed
            if leader and not leader.start and leader in book.reading and leader not in alone:
                break
            if cost > room:
                cut = [row] if room and not leader else []
                break
            room -= cost
            if leader:
                alike[row] = leader
            else:
                alone.append(row)
        read = {row.key for row in (*alone, *alike)}
        book.reading = [row for row in book.reading if row.key not in read]
        book.live += [*alone, *alike]
        stopped = self._append(alone, cut, room)
        for row in alike:
            row.computed = row.length - 1  # the last one is computed again, for its logits
        if alike:
            slots = [leader.slot for leader in alike.values()], [row.slot for row in alike]
            self._network.move(*slots, [row.computed for row in alike])
        return stopped + self._append(list(alike))

    def _leader(self, row: EngineRow) -> EngineRow | None:
        """An open row, or one about to be computed, with the same initial tokens and weights."""
        if row.start or row.computed or row.length < 2 or row.request is None:
            return None
        leader, version = self._prompts.setdefault(row.request.extend.tobytes(), (row, self.version))
        if version == self.version and leader is not row and leader.slot >= 0:
            return leader
        self._prompts[row.request.extend.tobytes()] = row, self.version
        return None

    def _append(self, rows: list[EngineRow], cut: Sequence[EngineRow] = (), room: int = 0) -> list[EngineRow]:
        """Appends only the next `room` tokens of rows in `cut`, and samples nothing for them yet."""
        if not rows and not cut:
            return []
        rows = sorted(rows, key=lambda row: row.length - row.computed)
        ids, lengths = list[int](), [row.length - row.computed for row in rows] + [room for _ in cut]
        for row, length in zip((*rows, *cut), lengths, strict=True):
            assert row.request is not None
            last = [row.last_id] if row.computed < row.start else []
            ids += [*last, *row.request.extend[max(row.computed - row.start, 0) :]][:length]
        starts = [row.computed for row in (*rows, *cut)]
        logits_RV = self._network.extend(
            self._tensor(ids), [row.slot for row in (*rows, *cut)], starts, lengths
        )
        self._forwarded += len(ids)
        for row in cut:
            row.computed += room
        if not rows:
            return []
        self._draw_uniforms(rows)
        is_stopped = self._sample_first(rows, logits_RV[: len(rows)]).tolist()
        for row in rows:
            row.computed = row.length
            row.length += 1
        return self._retire([row for row, stops in zip(rows, is_stopped, strict=True) if stops])

    def _sample_first(self, rows: Sequence[EngineRow], logits_RV: Tensor) -> Tensor:
        """The first token of each request, as asked for; returns which rows stop there."""
        batch = Batch.of(rows, self.device)
        at, whole_RV = steer(logits_RV, [row.request.first if row.request else None for row in rows])
        is_stopped = self._sample(batch, logits_RV)
        if at:
            places = batch.lanes_R[at], batch.positions_R[at]
            found_R = logprobs_of(whole_RV, self._ids_LC[places], batch.temperatures_R[at])
            self._logprobs_LC[places] = found_R
        return is_stopped

    def _decode(self, steps: int) -> tuple[int, list[EngineRow]]:
        """Up to `steps` tokens for every live row; returns the steps run and the rows that stopped."""
        rows = self._book.live
        if not rows or steps < 1:
            return 0, []
        self._steps.begin(rows)
        stopped: list[EngineRow] = []
        for step in range(1, steps + 1):
            flags = self._steps.next(
                self._step, num_slots=rows[-1].slot + 1, longest=max(row.length for row in rows)
            )
            self._forwarded += len(rows)
            for row in rows:
                row.computed = row.length
                row.length += 1
            if any(flags):
                stopped += self._retire([row for row, stops in zip(rows, flags, strict=True) if stops])
                rows = self._book.live
                if not rows:
                    return step, stopped
        return steps, stopped

    def _step(self, batch: Batch, num_slots: int, longest: int) -> Tensor:
        """Computes the token before each of `batch.positions_R`, samples there, and returns which rows
        stop."""
        ids_R = self._ids_LC[batch.lanes_R, batch.positions_R - 1]
        return self._sample(
            batch,
            self._network.decode(
                ids_R, batch.slots_R, batch.positions_R - 1, num_slots=num_slots, longest=longest
            ),
        )

    def _sample(self, batch: Batch, logits_RV: Tensor) -> Tensor:
        """Samples and records the tokens at `batch.positions_R`; returns which rows stop there."""
        uniforms_R = self._uniforms_LC[batch.lanes_R, batch.positions_R]
        network = self._network
        if isinstance(network, NativeDecoder) and network.config.vocab_size > _LARGE:
            ids_R, logprobs_R = network.draw(logits_RV, uniforms_R, batch.temperatures_R, batch.top_ps_R)
        else:
            ids_R, logprobs_R = sample(
                logits_RV, uniforms_R, batch.temperatures_R, batch.top_ps_R, is_greedy=batch.is_greedy
            )
        self._ids_LC[batch.lanes_R, batch.positions_R] = ids_R
        self._logprobs_LC[batch.lanes_R, batch.positions_R] = logprobs_R
        return (ids_R[:, None] == batch.stops_RK).any(1) | (batch.positions_R == batch.ends_R)

    def _retire(self, rows: list[EngineRow]) -> list[EngineRow]:
        keys = {row.key for row in rows}
        self._book.live = [row for row in self._book.live if row.key not in keys]
        return rows

    def _draw_uniforms(self, rows: list[EngineRow]) -> None:
        counts = [row.limit - row.first for row in rows]
        seeds = np.repeat(np.array([row.seed & _MASK64 for row in rows], dtype=np.uint64), counts)
        positions = np.concatenate([np.arange(row.first, row.limit) for row in rows])
        places = np.repeat(np.array([row.lane * self.context for row in rows]), counts) + positions
        self._uniforms_LC.view(-1)[self._tensor(places)] = self._tensor(uniforms(seeds, positions))

    def _answers(self, rows: list[EngineRow]) -> list[RowDone]:
        if not rows:
            return []
        places = self._tensor(
            np.concatenate([np.arange(row.first, row.length) + row.lane * self.context for row in rows])
        )
        ids = self._ids_LC.view(-1)[places].to("cpu", torch.int32).numpy()
        logprobs = self._logprobs_LC.view(-1)[places].cpu().numpy()
        done: list[RowDone] = []
        at = 0
        for row in rows:
            assert row.request is not None
            end = at + row.length - row.first
            row.last_id = int(ids[end - 1])
            sampled = Sampled(
                ids=array("i", ids[at:end].tobytes()),
                logprobs=array("f", logprobs[at:end].tobytes()),
                stopped=FinishReason.END if row.last_id in row.request.stop_ids else FinishReason.LENGTH,
                versions=row.spans(),
            )
            row.request, row.rested = None, self._num_exchanges
            done.append(RowDone(key=row.key, sampled=sampled))
            at = end
        return done

    def _tensor(self, values: Sequence[int] | NDArray[Any]) -> Tensor:
        return torch.as_tensor(np.asarray(values), device=self.device)


def _network(
    config: DecoderConfig,
    rows: int,
    context: int,
    device: torch.device,
    dtype: torch.dtype,
    native: bool,
    threads: int,
) -> CachedDecoder | NativeDecoder:
    if native and is_supported(config, device, dtype):
        return NativeDecoder(config, slots=rows, context=context, dtype=dtype, threads=threads)
    return CachedDecoder(config, slots=rows, context=context, device=device, dtype=dtype)
