"""One turn of a conversation, in as many pieces as it is sampled in."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

from agito.gateway.api_request import Refused
from agito.gateway.tree import Line
from agito.render.effort import Blocks
from agito.sampling.capture import Capture
from agito.sampling.thinking_budget import Stretches
from agito.types import Effort, FinishReason, Thinking, ToolSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnThinking:
    """What is asked of one turn, and the renderer for it. `may_choose`: it is the attempt's first, and no
    call was begun for it."""

    renderer: Blocks
    thinking: Thinking
    may_choose: bool

    def stretches(self, capture: Capture, *, spent: int, room: int) -> Stretches:
        """Raises `Refused` without room for a token behind a block."""
        found = Stretches(
            capture, self.renderer, self.thinking, spent=spent, room=room, may_choose=self.may_choose
        )
        if not found.has_room:
            why = f"there is room for {room} tokens, too few for a think block and an answer"
            raise Refused(400, why, code="context_length_exceeded")
        return found


class SampledTurn:
    """A turn that may be sampled in several pieces, which are one in the record. Of one that thinks, `ids`
    hold the forced tokens too, without log-probabilities."""

    def __init__(self, line: Line, *, hard_budget: int) -> None:
        self.line, self.hard_budget, self._first = line, hard_budget, len(line.capture.turns)
        self.ids, self.logprobs = array("i"), array("f")
        self.stretches: Stretches | None = None
        self.num_thought = 0

    async def sample(self, most: int, *, temperature: float, top_p: float, effort: Effort) -> FinishReason:
        """The next piece."""
        if self.stretches is None:
            sampled = await self.line.capture.sample(
                max_tokens=most, temperature=temperature, top_p=top_p, effort=effort
            )
            self.ids += sampled.ids
            self.logprobs += sampled.logprobs
            return sampled.stopped
        found = await self.stretches.next(most, temperature=temperature, top_p=top_p)
        logprobs = found.logprobs if found is not None else array("f")
        num_forced = len(self.stretches.ids) - len(self.ids) - len(logprobs)
        self.ids, self.logprobs = (
            array("i", self.stretches.ids),
            self.logprobs + array("f", [math.nan]) * num_forced + logprobs,
        )
        if found is None:
            self.hard_budget = len(self.ids)  # there is no room for more
            return FinishReason.LENGTH
        return FinishReason.END if found.ids[-1] in self.stretches.renderer.stop_ids else FinishReason.LENGTH

    def end(self, stopped: FinishReason, tools: Sequence[ToolSpec], begun: Sequence[int]) -> None:
        turns = self.line.capture.turns
        if self.stretches is not None:
            self.num_thought = self.stretches.end(tools, begun)
        pieces = turns[self._first :]
        if pieces:
            turns[self._first :] = [
                replace(pieces[0], stop=pieces[-1].stop, stopped=stopped, hard_budget=self.hard_budget),
            ]
