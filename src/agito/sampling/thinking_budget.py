"""A turn as a list of stretches: hard budgets of thinking, enforced while it is sampled.

A stretch within a block may be as long as the budget that is left. Where that is used up, forced tokens close
the block, and sampling goes on in the same turn; nothing is ever trained on them. A policy that opens another
block finds what is left of the same budget.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

from agito.protocols import Sampled, ThinkingRenderer
from agito.sampling.capture import Capture
from agito.types import FinishReason, Thinking, TokenSource, ToolSpec, Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeTurn:
    """All tokens of a turn after its opener, the forced ones included."""

    ids: array[int]
    stopped: FinishReason
    num_thought: int


class Stretches:
    """Samples one turn on a capture, stretch by stretch. `spent`: think tokens of the attempt's other turns.

    `room`: tokens of the whole turn. What a policy does not think of its own accord is not filled up.
    """

    def __init__(
        self, capture: Capture, renderer: ThinkingRenderer, thinking: Thinking, *, spent: int, room: int
    ) -> None:
        self._capture, self._renderer, self._thinking = capture, renderer, thinking
        self._spent, self._room, self._first = spent, room, len(capture.turns)
        self.ids = array("i")

    @property
    def renderer(self) -> ThinkingRenderer:
        return self._renderer

    @property
    def has_room(self) -> bool:
        """For at least one token, after a block was closed."""
        return self._room - len(self.ids) > len(self._renderer.closer)

    async def whole(self, *, temperature: float, top_p: float, tools: Sequence[ToolSpec]) -> WholeTurn:
        """Needs `has_room` at the beginning. Raises as `Row.sample`."""
        while True:
            sampled = await self.next(self._room, temperature=temperature, top_p=top_p)
            if sampled is None or sampled.ids[-1] in self._renderer.stop_ids:
                break
        stopped = FinishReason.LENGTH if sampled is None else FinishReason.END
        return WholeTurn(ids=self.ids, stopped=stopped, num_thought=self.end(tools))

    async def next(self, most: int, *, temperature: float, top_p: float) -> Sampled | None:
        """The next stretch, of at most so many tokens; None when there is no room for one."""
        thought = self._renderer.thought(self.ids)
        left = self._left(thought.num_tokens)
        if thought.is_open and left == 0 and self.has_room:
            self._capture.extend(self._renderer.closer, TokenSource.FORCED)
            self.ids.extend(self._renderer.closer)
            thought = replace(thought, is_open=False)
        room = min(self._room - len(self.ids), most)
        if left is not None and (thought.is_open or thought.may_reopen):
            room = min(room, left if thought.is_open else max(left, 1))
        if room < 1:
            return None
        sampled = await self._capture.sample(
            max_tokens=room,
            temperature=temperature,
            top_p=top_p,
            effort=self._thinking.effort,
            more_stops=() if thought.is_open or left is None else self._renderer.reopeners,
        )
        self.ids.extend(sampled.ids)
        return sampled

    def end(self, tools: Sequence[ToolSpec]) -> int:
        """Labels the turn's tokens, and marks its stretches as one turn. Returns its think tokens."""
        turns, thought = self._capture.turns, self._renderer.thought(self.ids, tools)
        if len(turns) > self._first:
            self._capture.label(self._renderer.channels(self.ids))
            turns[self._first] = replace(
                turns[self._first],
                think_budget=self._left(0),
                num_thought=thought.num_tokens,
                num_leaked=thought.num_leaked,
            )
            turns[self._first + 1 :] = [replace(turn, continues=True) for turn in turns[self._first + 1 :]]
        return thought.num_tokens

    def _left(self, in_turn: int) -> int | None:
        return self._thinking.left(in_turn=in_turn, in_attempt=self._spent + in_turn)


def whole_turns(turns: Sequence[Turn]) -> list[list[Turn]]:
    """Stretches, turn by turn."""
    found = list[list[Turn]]()
    for turn in turns:
        if turn.continues and found:
            found[-1].append(turn)
        else:
            found.append([turn])
    return found
