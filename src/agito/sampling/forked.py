"""An engine that repeats the recorded turns of an attempt, then goes on live.

A harness is deterministic given tokens and events, so it brings itself to the point of the fork, and the
world with it.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Collection, Mapping, Sequence

from agito.errors import AgitoError, Diverged
from agito.protocols import Engine, Row, Sampled, SampleRequest
from agito.types import Segment, Trajectory, Turn, VersionSpan


class ForkedEngine:
    """`turns`: by segment, how many of its turns are repeated. Rows are opened in the order in which the
    attempt opened them; further ones are live from the start. `reads_on`: whether the first live turn of a
    row reads what it read in the attempt. `over`: segments whose agents handed back all that they did; one
    that asks for more failed in the attempt, and fails again.
    """

    def __init__(
        self,
        live: Engine,
        was: Trajectory,
        turns: Mapping[int, int],
        policy: str,
        *,
        seed: int,
        reads_on: bool = True,
        over: Collection[int] = (),
    ) -> None:
        self._live, self._seed, self.context = live, seed, live.context
        self._past: list[tuple[Segment, list[Turn], int | None, bool]] = []
        for segment in sorted(was.segments, key=lambda segment: segment.id):
            own = [turn for turn in was.turns if turn.segment == segment.id]
            num = turns.get(segment.id, 0)
            start = own[num].start if reads_on and 0 < num < len(own) else None
            if segment.policy == policy:
                self._past.append((segment, own[:num], start, segment.id in over))
        self._num_rows = 0

    def open(self, seed: int) -> Row:
        """`seed` of the attempt is mixed with the fork's own, so that what is live is drawn afresh."""
        number, self._num_rows = self._num_rows, self._num_rows + 1
        live = self._live.open(zlib.crc32(f"{seed}/{self._seed}".encode()))
        return live if number >= len(self._past) else ForkedRow(live, *self._past[number])


class ForkedRow:
    """`start`: of the first live turn, where what comes before it is as it was."""

    def __init__(
        self, live: Row, was: Segment, turns: Sequence[Turn], start: int | None, is_over: bool
    ) -> None:
        self._row, self._was, self._turns, self._start, self._is_over = live, was, turns, start, is_over
        self._num_done = 0
        self._unsent: array[int] = array("i")  # what the live row has not been told

    async def sample(self, request: SampleRequest) -> Sampled:
        """Raises `Diverged` where the attempt does not come as far again, and `AgitoError` where its agent
        failed."""
        if self._num_done < len(self._turns):
            return self._repeated(request)
        if self._is_over:
            raise AgitoError(f"{self._was.agent} failed here in the attempt")
        if self._start is not None:
            self._require_as_it_was(request, self._start)
            self._start = None
        num_unsent = len(self._unsent)
        whole = SampleRequest(
            extend=self._unsent + request.extend,
            max_tokens=request.max_tokens,
            stop_ids=request.stop_ids,
            temperature=request.temperature,
            top_p=request.top_p,
            first=request.first,
        )
        sampled = await self._row.sample(whole)
        self._unsent = array("i")
        return Sampled(
            ids=sampled.ids,
            logprobs=sampled.logprobs,
            stopped=sampled.stopped,
            versions=_from(num_unsent, sampled.versions),
        )

    def _repeated(self, request: SampleRequest) -> Sampled:
        turn, tokens = self._turns[self._num_done], self._was.tokens
        self._require_as_it_was(request, turn.start)
        shown = len(self._unsent)
        self._num_done += 1
        self._unsent = tokens.ids[: turn.stop]
        return Sampled(
            ids=tokens.ids[turn.start : turn.stop],
            logprobs=tokens.logprobs[turn.start : turn.stop],
            stopped=turn.stopped,
            versions=_between(shown, turn.stop, tokens.versions),
        )

    def _require_as_it_was(self, request: SampleRequest, start: int) -> None:
        if request.extend != self._was.tokens.ids[len(self._unsent) : start]:
            raise Diverged(f"turn {self._num_done} of {self._was.agent} reads something else than it did")

    def branch(self, seed: int) -> Row:
        raise NotImplementedError("a fork cannot branch")

    async def close(self) -> None:
        await self._row.close()


def _from(start: int, spans: Sequence[VersionSpan]) -> tuple[VersionSpan, ...]:
    """What lies behind `start`, counted from there."""
    return _between(start, max((span.stop for span in spans), default=start), spans)


def _between(start: int, stop: int, spans: Sequence[VersionSpan]) -> tuple[VersionSpan, ...]:
    cut = [(max(span.start, start), min(span.stop, stop), span.version) for span in spans]
    return tuple(
        VersionSpan(start=first - start, stop=last - start, version=version)
        for first, last, version in cut
        if last > first
    )
