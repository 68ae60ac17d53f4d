"""Two engines without a network: one samples from a hash of the past, the other replays given tokens."""

from __future__ import annotations

import hashlib
import math
import random
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio.lowlevel

from agito.protocols import Row, Sampled, SampleRequest
from agito.types import FinishReason, VersionSpan, span

SMALLEST_TEMPERATURE = 1e-6


def logits_after(past: Sequence[int], vocab_size: int) -> list[float]:
    """Fixed but arbitrary logits between -2 and 2; every past token matters."""
    rng = random.Random(zlib.crc32(array("i", past).tobytes()))
    return [rng.uniform(-2.0, 2.0) for _ in range(vocab_size)]


def log_softmax(logits: Sequence[float]) -> list[float]:
    top = max(logits)
    log_sum = top + math.log(sum(math.exp(logit - top) for logit in logits))
    return [logit - log_sum for logit in logits]


def nucleus(logprobs: Sequence[float], top_p: float) -> list[int]:
    """The smallest set of most likely tokens with a mass of at least `top_p`."""
    kept: list[int] = []
    mass = 0.0
    for token in sorted(range(len(logprobs)), key=lambda token: -logprobs[token]):
        kept.append(token)
        mass += math.exp(logprobs[token])
        if mass >= top_p:
            break
    return kept


class FakeEngine:
    """Samples from logits that are a hash of the past; satisfies the whole engine contract. `num_open` counts
    unclosed rows.
    """

    def __init__(self, *, vocab_size: int = 32, context: int = 256, version: int = 0) -> None:
        self.vocab_size, self.context, self.version = vocab_size, context, version
        self.num_open = 0

    def open(self, seed: int) -> Row:
        return FakeRow(self, seed, [])


class FakeRow:
    def __init__(self, engine: FakeEngine, seed: int, ids: list[int]) -> None:
        self._engine, self._seed, self._ids = engine, seed, ids
        self._is_open, self._is_sampling = True, False
        engine.num_open += 1

    async def sample(self, request: SampleRequest) -> Sampled:
        self._refuse_unless_at_rest()
        self._is_sampling = True
        try:
            await anyio.lowlevel.checkpoint()  # lets other rows run, as a real engine does
        except BaseException:
            await self.close()  # the progress of a cancelled request is unknown
            raise
        finally:
            self._is_sampling = False
        if not self._is_open:
            raise ValueError("the row was closed")
        if request.max_tokens < 1:
            raise ValueError(f"max_tokens={request.max_tokens}: sample at least one token")
        if len(self._ids) + len(request.extend) + request.max_tokens > self._engine.context:
            raise ValueError(
                f"{len(self._ids) + len(request.extend)} tokens and {request.max_tokens} more exceed "
                f"{self._engine.context}"
            )
        self._ids.extend(request.extend)
        ids, logprobs = array("i"), array("f")
        stopped = FinishReason.LENGTH
        while len(ids) < request.max_tokens and stopped is FinishReason.LENGTH:
            token, logprob = self._draw(request)
            self._ids.append(token)
            ids.append(token)
            logprobs.append(logprob)
            if token in request.stop_ids:
                stopped = FinishReason.END
        versions = span(self._engine.version, len(request.extend) + len(ids))
        return Sampled(ids=ids, logprobs=logprobs, stopped=stopped, versions=versions)

    def _draw(self, request: SampleRequest) -> tuple[int, float]:
        logits = logits_after(self._ids, self._engine.vocab_size)
        if request.temperature < SMALLEST_TEMPERATURE:
            logprobs = log_softmax(logits)
            token = max(range(len(logprobs)), key=lambda token: logprobs[token])
            return token, logprobs[token]
        logprobs = log_softmax([logit / request.temperature for logit in logits])
        kept = nucleus(logprobs, request.top_p)
        digest = hashlib.sha256(f"{self._seed}/{len(self._ids)}".encode()).digest()
        point = int.from_bytes(digest[:8], "big") / 2**64 * sum(math.exp(logprobs[token]) for token in kept)
        for token in kept:
            point -= math.exp(logprobs[token])
            if point < 0:
                return token, logprobs[token]
        return kept[-1], logprobs[kept[-1]]

    def branch(self, seed: int) -> Row:
        self._refuse_unless_at_rest()
        return FakeRow(self._engine, seed, list(self._ids))

    def _refuse_unless_at_rest(self) -> None:
        if not self._is_open or self._is_sampling:
            raise ValueError("this row is closed" if not self._is_open else "this row samples already")

    async def close(self) -> None:
        self._engine.num_open -= self._is_open
        self._is_open = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request as the engine saw it, and its answer."""

    row: int
    request: SampleRequest
    sampled: Sampled


@dataclass(slots=True, kw_only=True)
class ReplayEngine:
    """Says the given turns one after the other, then repeats the last one.

    The log-probability of token t is -(t % 7 + 1) / 8. Turn i has version `first_version + i`. Requests are
    recorded in `exchanges`.
    """

    turns: Sequence[Sequence[int]]
    context: int = 1 << 14
    first_version: int = 0
    failure: Exception | None = None  # raised instead of answering a request after the last turn
    exchanges: list[Exchange] = field(default_factory=list[Exchange])
    num_rows: int = 0
    num_open: int = 0

    def open(self, seed: int) -> Row:
        self.num_rows += 1
        return ReplayRow(self, self.num_rows - 1)

    def tokens(self, row: int = 0) -> array[int]:
        """Everything that went into and came out of a row, in order."""
        ids = array("i")
        for exchange in self.exchanges:
            if exchange.row == row:
                ids.extend(exchange.request.extend)
                ids.extend(exchange.sampled.ids)
        return ids


class ReplayRow:
    def __init__(self, engine: ReplayEngine, number: int) -> None:
        self._engine, self._number, self._length = engine, number, 0
        self._is_open = True
        engine.num_open += 1

    async def sample(self, request: SampleRequest) -> Sampled:
        engine = self._engine
        done = len(engine.exchanges)
        if engine.failure is not None and done >= len(engine.turns):
            raise engine.failure
        turn = engine.turns[min(done, len(engine.turns) - 1)]
        ids = array("i", turn[: request.max_tokens])
        self._length += len(request.extend) + len(ids)
        if self._length > engine.context:
            raise ValueError(f"{self._length} tokens exceed the context of {engine.context}")
        stopped = FinishReason.END if ids and ids[-1] in request.stop_ids else FinishReason.LENGTH
        logprobs = array("f", [-(token % 7 + 1) / 8 for token in ids])
        covered = (
            VersionSpan(start=0, stop=len(request.extend) + len(ids), version=engine.first_version + done),
        )
        sampled = Sampled(ids=ids, logprobs=logprobs, stopped=stopped, versions=covered)
        engine.exchanges.append(Exchange(row=self._number, request=request, sampled=sampled))
        return sampled

    def branch(self, seed: int) -> Row:
        raise NotImplementedError("ReplayEngine says given turns; a branch would have to share them")

    async def close(self) -> None:
        self._engine.num_open -= self._is_open
        self._is_open = False
