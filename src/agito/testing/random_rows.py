"""Uses an engine's rows in every possible way, at random, and keeps what they sampled."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import anyio
import anyio.lowlevel

from agito.protocols import Engine, Row, Sampled, SampleRequest


class Asking(Protocol):
    """What is needed of an engine contract."""

    vocab_size: int

    def ask(self, extend: Sequence[int] | None = None, *, most: int | None = None) -> SampleRequest: ...


class Said(NamedTuple):
    """What a row sampled after all that it had seen."""

    seed: int
    past: tuple[int, ...]
    sampled: Sampled


class RandomUser:
    """Uses rows in every possible way, at random."""

    def __init__(self, contract: Asking, engine: Engine, rng: random.Random) -> None:
        self._contract, self._engine, self._rng = contract, engine, rng
        self._rows: list[tuple[Row, int, tuple[int, ...]]] = []  # with seed and past
        self.said: list[Said] = []

    async def run(self, *, keep: int = 0) -> None:
        """At the end closes all but `keep` of them."""
        for _ in range(24):
            await self._rng.choice(
                (self._open, self._sample, self._sample, self._branch, self._close, self._give_up)
            )()
        self._rng.shuffle(self._rows)
        for row, _, _ in self._rows[keep:]:
            await row.close()

    async def _open(self) -> None:
        if len(self._rows) < 5:
            seed = self._rng.randrange(1000)
            self._rows.append((self._engine.open(seed), seed, ()))

    async def _sample(self) -> None:
        if not self._rows:
            return
        at = self._rng.randrange(len(self._rows))
        row, seed, past = self._rows[at]
        extend = tuple(
            self._rng.randrange(1, self._contract.vocab_size) for _ in range(self._rng.randrange(1, 4))
        )
        sampled = await row.sample(self._contract.ask(extend, most=self._rng.randrange(1, 4)))
        self.said.append(Said(seed, past + extend, sampled))
        self._rows[at] = row, seed, (*past, *extend, *sampled.ids)
        if len(self._rows[at][2]) > 40:
            self._rows.pop(at)
            await row.close()

    async def _branch(self) -> None:
        if self._rows:
            row, _, past = self._rng.choice(self._rows)
            seed = self._rng.randrange(1000)
            self._rows.append((row.branch(seed), seed, past))

    async def _close(self) -> None:
        if self._rows:
            row, _, _ = self._rows.pop(self._rng.randrange(len(self._rows)))
            for _ in range(self._rng.randrange(1, 3)):
                await row.close()

    async def _give_up(self) -> None:
        """Cancels a request after a moment, whatever it is doing then."""
        if not self._rows:
            return
        row, _, _ = self._rows.pop(self._rng.randrange(len(self._rows)))
        is_answered = False

        async def sample() -> None:
            nonlocal is_answered
            await row.sample(self._contract.ask(most=8))
            is_answered = True

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sample)
            for _ in range(self._rng.randrange(6)):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        if is_answered or self._rng.random() < 0.5:  # otherwise cancelling has closed it
            await row.close()
