"""A turn as a list of stretches: hard budgets of thinking, enforced while it is sampled.

A stretch within a block may be as long as the budget that is left. Where that is used up, forced tokens close
the block, and sampling goes on in the same turn; nothing is ever trained on them. A policy that opens another
block finds what is left of the same budget.

At effort `auto` an attempt's first token chooses its mode, and may be chosen for it: see `Thinking.mode`.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

from agito.protocols import FirstToken, Sampled, ThinkingRenderer
from agito.sampling.capture import Capture
from agito.types import Effort, FinishReason, Mode, Thinking, TokenSource, ToolSpec, Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeTurn:
    """All tokens of a turn after its opener, the forced ones included."""

    ids: array[int]
    stopped: FinishReason
    num_thought: int


class Stretches:
    """Samples one turn on a capture, stretch by stretch. `spent`: think tokens of the attempt's other turns.

    `room`: tokens of the whole turn. What a policy does not think of its own accord is not filled up.
    `may_choose`: at `auto`, the capture's first turn may be the attempt's first too.
    """

    def __init__(
        self,
        capture: Capture,
        renderer: ThinkingRenderer,
        thinking: Thinking,
        *,
        spent: int,
        room: int,
        may_choose: bool = True,
    ) -> None:
        self._capture, self._renderer, self._thinking = capture, renderer, thinking
        self._may_choose = may_choose
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
        if self._acts and not self.ids:
            return await self._act_at_once(temperature, top_p)
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
            first=self._first_token if not self.ids and self._is_steered else None,
        )
        self.ids.extend(sampled.ids)
        return sampled

    async def _act_at_once(self, temperature: float, top_p: float) -> Sampled:
        """Closes the block by its first token; where a close is several, the others are forced."""
        sampled = await self._capture.sample(
            max_tokens=1,
            temperature=temperature,
            top_p=top_p,
            effort=self._thinking.effort,
            first=self._first_token,
        )
        self.ids.extend(sampled.ids)
        if rest := self._renderer.closer[1:]:
            self._capture.extend(rest, TokenSource.FORCED)
            self.ids.extend(rest)
        return sampled

    def end(self, tools: Sequence[ToolSpec], begun: Sequence[int] = ()) -> int:
        """Labels the turn's tokens, and marks its stretches as one turn. Returns its think tokens. `begun`:
        tokens of a call that was begun for it."""
        turns, thought = self._capture.turns, self._renderer.thought([*begun, *self.ids], tools)
        if len(turns) > self._first:
            self._capture.label(self._renderer.channels(self.ids))
            turns[self._first] = replace(
                turns[self._first],
                think_budget=self._left(0),
                num_thought=thought.num_tokens,
                num_leaked=thought.num_leaked,
                mode=self._mode if self._chooses else None,
                is_steered=self._is_steered,
            )
            turns[self._first + 1 :] = [replace(turn, continues=True) for turn in turns[self._first + 1 :]]
        return thought.num_tokens

    @property
    def _chooses(self) -> bool:
        """Whether its first token is the attempt's choice of a mode."""
        return self._may_choose and self._first == 0 and self._thinking.effort is Effort.AUTO

    @property
    def _is_steered(self) -> bool:
        return self._chooses and self._thinking.mode is not None

    @property
    def _acts(self) -> bool:
        return self._is_steered and self._thinking.mode is Mode.ACT

    @property
    def _first_token(self) -> FirstToken:
        return FirstToken(id=self._renderer.closer[0], is_wanted=self._acts)

    @property
    def _mode(self) -> Mode:
        closer = self._renderer.closer
        return Mode.ACT if self.ids[: len(closer)] == closer else Mode.THINK

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
