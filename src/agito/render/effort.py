"""Renderers for one effort, around a renderer that asks for none.

Own vocabularies have a token for each effort, which stands before a turn's think block. A pre-trained model
is asked as its template has it (`enable_thinking`, `/think`, a reasoning level), elsewhere by a line of the
system's; its vocabulary gets no token. Past thinking is kept as it was sampled: one rule, `keep`, in
training, evaluation and the gateway.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from agito.protocols import Renderer, Thought, ThoughtfulCall
from agito.render.messages import Conversing, Said
from agito.types import Call, Channel, Effort, Event, Task, ToolSpec

INSIDE, TAG = 1, 2  # of a block; 0 is outside


class Blocks:
    """A `ThinkingRenderer`, but for what a think block is: a subclass says that, and encodes."""

    def __init__(self, inner: Renderer, effort: Effort) -> None:
        self._inner, self.effort = inner, effort
        self.dialect, self.stop_ids, self.vocab_size = inner.dialect, inner.stop_ids, inner.vocab_size
        self.chat_template = inner.chat_template
        self.opener, self.closer, self.reopeners = array("i"), array("i"), tuple[int, ...]()
        self._before = array("i")  # with which the inner renderer reads a turn that does not think

    def files(self) -> Mapping[str, str]:
        return self._inner.files()

    def text(self, ids: Sequence[int]) -> str:
        return self._inner.text(ids)

    def opening(self, task: Task) -> array[int]:
        return self._inner.opening(task) + self.opener

    def observation(self, events: Sequence[Event]) -> array[int]:
        return self._inner.observation(events) + self.opener

    def action(self, calls: Sequence[Call], tools: Sequence[ToolSpec]) -> array[int]:
        """What a demonstrator thinks stands before; without it the block is closed at once. For `none` no
        thought is written."""
        acted = self._inner.action(calls, tools)[len(self._before) :]
        if self.effort is Effort.NONE:
            return acted
        thinking = next((call.thinking for call in calls if isinstance(call, ThoughtfulCall)), "")
        return self._encode(thinking) + self.closer + acted

    def parse(self, ids: Sequence[int], tools: Sequence[ToolSpec]) -> tuple[Call, ...]:
        if self.thought(ids).is_open:
            problem = "the turn ended within a thought"
            return (Call(tool=tools[0].name, arguments={}, raw=self.text(ids), problem=problem),)
        return self._inner.parse(self._acted(ids, self._where(ids)), tools)

    def said(self, ids: Sequence[int], tools: Sequence[ToolSpec]) -> Said:
        """What a client reads of the turn."""
        where = self._where(ids)
        thinking = self.text([token for token, at in zip(ids, where, strict=True) if at == INSIDE])
        if not isinstance(self._inner, Conversing):
            raise TypeError(f"{type(self._inner).__name__} lacks members of Conversing")
        return replace(self._inner.said(self._acted(ids, where), tools), thinking=thinking)

    def channels(self, ids: Sequence[int]) -> bytes:
        where = self._where(ids)
        acted = iter(self._inner.channels(self._acted(ids, where))[len(self._before) :])
        return bytes(Channel.THINK if at else _no_thought(next(acted)) for at in where)

    def thought(self, ids: Sequence[int], tools: Sequence[ToolSpec] = ()) -> Thought:
        where = self._where(ids)
        return Thought(
            num_tokens=where.count(INSIDE),
            is_open=self._is_open(ids),
            num_leaked=self._leaked(ids, where, tools) if tools else 0,
        )

    def _leaked(self, ids: Sequence[int], where: bytes, tools: Sequence[ToolSpec]) -> int:
        """Tokens of further blocks, and those of the action that its calls do not take."""
        closed = where.find(TAG) if self.effort is not Effort.NONE else -1
        again = sum(where[at] == INSIDE for at in range(closed + 1, len(where))) if TAG in where else 0
        if self._is_open(ids):
            return again
        acted = self._acted(ids, where)
        known = {tool.name: tool.parameters.get("properties") for tool in tools}
        calls = [_bare(call, known) for call in self._inner.parse(acted, tools) if call.problem is None]
        if not calls or any(call.tool not in known for call in calls):
            return again
        try:
            needed = len(self._inner.action(calls, tools))
        except ValueError:  # calls that the format cannot write are not measured
            return again
        return again + max(len(acted) - needed, 0)

    def _acted(self, ids: Sequence[int], where: bytes) -> list[int]:
        return [*self._before, *(token for token, at in zip(ids, where, strict=True) if not at)]

    def _encode(self, text: str) -> array[int]:
        raise NotImplementedError

    def _where(self, ids: Sequence[int]) -> bytes:
        """0, INSIDE or TAG for each token after the opener."""
        raise NotImplementedError

    def _is_open(self, ids: Sequence[int]) -> bool:
        raise NotImplementedError


class TokenBlocks(Blocks):
    """Blocks between two tokens of the vocabulary."""

    def __init__(
        self, inner: Renderer, effort: Effort, *, asked: Sequence[int], think: int, end_think: int
    ) -> None:
        super().__init__(inner, effort)
        self._think, self._end_think = think, end_think
        self.opener = array("i", [*asked, think, *([end_think] if effort is Effort.NONE else [])])
        self.closer, self.reopeners = array("i", [end_think]), (think,)

    def _where(self, ids: Sequence[int]) -> bytes:
        return bytes(at for at, _ in self._states(ids))

    def _is_open(self, ids: Sequence[int]) -> bool:
        *_, last = (self.effort is not Effort.NONE, *(is_open for _, is_open in self._states(ids)))
        return last

    def _states(self, ids: Sequence[int]) -> Iterator[tuple[int, bool]]:
        is_open = self.effort is not Effort.NONE
        for token in ids:
            at = INSIDE if is_open else 0
            if is_open and (token == self._end_think or token in self.stop_ids):
                is_open, at = token in self.stop_ids, TAG
            elif not is_open and token == self._think:
                is_open, at = True, TAG
            yield at, is_open


def _no_thought(channel: int) -> int:
    """A renderer that knows of no opener may take for a thought what is none."""
    return Channel.TEXT if channel == Channel.THINK else channel


def _bare(call: Call, known: Mapping[str, object]) -> Call:
    """Without arguments that its tool does not know."""
    names = known.get(call.tool)
    if not isinstance(names, dict):
        return call
    return replace(call, arguments={name: each for name, each in call.arguments.items() if name in names})
