"""The one place where tokens are recorded: open, extend, sample, branch, close.

The solo harness and every other driver of an engine use it. Input and output are appended once and never
changed.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from copy import copy

from agito.protocols import MAIN, Engine, FirstToken, Row, Sampled, SampleRequest
from agito.types import Channel, Effort, Segment, Tokens, TokenSource, Turn, VersionSpan


class Capture:
    """A segment being recorded, on one row of an engine."""

    def __init__(
        self,
        engine: Engine,
        *,
        seed: int,
        stop_ids: tuple[int, ...],
        segment: int = 0,
        control_ids: Sequence[int] = (),
    ) -> None:
        self._row: Row = engine.open(seed)
        self._stop_ids, self._segment = stop_ids, segment
        self._control = frozenset((*stop_ids, *control_ids))
        self._pending: array[int] = array("i")  # extended but not sent
        self._ids: array[int] = array("i")
        self._logprobs: array[float] = array("f")
        self._kinds, self._channels = bytearray(), bytearray()
        self._versions: list[VersionSpan] = []
        self._parent: int | None = None
        self._prefix_len = 0  # tokens shared with the parent
        self.turns: list[Turn] = []

    def __len__(self) -> int:
        """Number of tokens, including those not sent yet."""
        return len(self._ids)

    def ids(self, stop: int) -> array[int]:
        """The first tokens, up to `stop`."""
        return self._ids[:stop]

    def extend(self, ids: Sequence[int], kind: TokenSource = TokenSource.OBSERVED) -> None:
        """Appends tokens that the policy did not choose."""
        self._pending.extend(ids)
        self._append(
            ids, array("f", [math.nan]) * len(ids), bytes([kind]) * len(ids), bytes([Channel.TEXT]) * len(ids)
        )

    async def sample(
        self,
        *,
        max_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        effort: Effort = Effort.NONE,
        more_stops: tuple[int, ...] = (),
        first: FirstToken | None = None,
    ) -> Sampled:
        """Samples one turn, or up to one of `more_stops` in it. `label` sets its channels afterwards. Raises
        as `Row.sample`."""
        sent, start = len(self._ids) - len(self._pending), len(self._ids)
        request = SampleRequest(
            extend=self._pending,
            max_tokens=max_tokens,
            stop_ids=(*self._stop_ids, *more_stops),
            temperature=temperature,
            top_p=top_p,
            first=first,
        )
        sampled = await self._row.sample(request)
        self._pending = array("i")
        kinds = bytes(
            TokenSource.CONTROL if token in self._control else TokenSource.SAMPLED for token in sampled.ids
        )
        self._append(sampled.ids, sampled.logprobs, kinds, bytes([Channel.TEXT]) * len(sampled.ids))
        for each in sampled.versions:
            self._add_version(sent + each.start, sent + each.stop, each.version)
        self.turns.append(
            Turn(
                segment=self._segment,
                start=start,
                stop=len(self._ids),
                stopped=sampled.stopped,
                effort=effort,
                hard_budget=max_tokens,
                temperature=temperature,
                top_p=top_p,
            )
        )
        return sampled

    def label(self, channels: bytes) -> None:
        """Sets the channel of each token of the last turn, which ends the record."""
        assert len(channels) >= self.turns[-1].stop - self.turns[-1].start
        self._channels[len(self._ids) - len(channels) :] = channels

    def branch(self, seed: int, *, segment: int) -> Capture:
        """A second capture with the same content, as a separate segment whose parent is this one. Turns so
        far stay with this one. Nothing may be pending."""
        assert not self._pending, "send what was extended before branching"
        twin = copy(self)
        twin._row, twin._segment = self._row.branch(seed), segment
        twin._parent, twin._prefix_len = self._segment, len(self._ids)
        twin._pending, twin.turns = array("i"), []
        twin._ids, twin._logprobs = array("i", self._ids), array("f", self._logprobs)
        twin._kinds, twin._channels = bytearray(self._kinds), bytearray(self._channels)
        twin._versions = list(self._versions)
        return twin

    async def close(self) -> None:
        await self._row.close()

    def segment(self, *, agent: str = "solo", role: str = "solo", policy: str = MAIN) -> Segment:
        """What the engine has seen; tokens extended after the last turn were never sent and are left out."""
        sent = len(self._ids) - len(self._pending)
        tokens = Tokens(
            ids=self._ids[:sent],
            logprobs=self._logprobs[:sent],
            kinds=bytes(self._kinds[:sent]),
            channels=bytes(self._channels[:sent]),
            versions=tuple(self._versions),
        )
        return Segment(
            id=self._segment,
            tokens=tokens,
            parent=self._parent,
            prefix_len=self._prefix_len,
            agent=agent,
            role=role,
            policy=policy,
        )

    def _append(self, ids: Sequence[int], logprobs: array[float], kinds: bytes, channels: bytes) -> None:
        self._ids.extend(ids)
        self._logprobs.extend(logprobs)
        self._kinds += kinds
        self._channels += channels

    def _add_version(self, start: int, stop: int, version: int) -> None:
        last = self._versions[-1] if self._versions else None
        if last is not None and last.version == version and last.stop == start:
            self._versions[-1] = VersionSpan(start=last.start, stop=stop, version=version)
        else:
            self._versions.append(VersionSpan(start=start, stop=stop, version=version))
