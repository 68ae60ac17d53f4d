"""Renderers for one effort, around a renderer that asks for none.

Own vocabularies have a token for each effort, which stands before a turn's think block. A pre-trained model
is asked as its template has it (`enable_thinking`, `/think`, a reasoning level), elsewhere by a line of the
system's; its vocabulary gets no token. Past thinking is kept as it was sampled: one rule, `keep`, in
training, evaluation and the gateway.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from agito.protocols import Renderer, Thought, ThoughtfulCall
from agito.render.commentary import CODE_PER_COMMENT, commentary
from agito.render.messages import Conversing, Said
from agito.types import Call, Channel, Effort, Event, Json, Task, ToolSpec

INSIDE, TAG = 1, 2  # of a block; 0 is outside
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list, tuple),
    "object": (dict,),
}


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
        where, is_open = self._where(ids), self._is_open(ids)
        return Thought(
            num_tokens=where.count(INSIDE),
            is_open=is_open,
            num_leaked=self._leaked(ids, where, tools) if tools and not is_open else 0,
        )

    def _leaked(self, ids: Sequence[int], where: bytes, tools: Sequence[ToolSpec]) -> int:
        """Tokens outside blocks that no call needs: text, calls that no tool takes, arguments that it does
        not know, commentary in those that it does. What is said where speech is an action has not leaked."""
        acted = self._acted(ids, where)
        said, least = self._outside(acted), (0, 0)
        taken = self._taken(acted, tools)
        if any(tool.is_speech for tool in tools if any(call.tool == tool.name for call in taken)):
            return 0
        with suppress(Exception):  # calls that the format cannot write are not what any tool asks for
            least = self._outside([*self._before, *self._inner.action(taken, tools)]) if taken else least
        beside = sum(max(own - needed, 0) for own, needed in zip(said, least, strict=True))
        return beside + sum(map(self._commented, taken))

    def _outside(self, acted: Sequence[int]) -> tuple[int, int]:
        """Tokens of text, and of calls; what ends the turn is neither."""
        first, counts = len(self._before), [0, 0]
        for token, channel in zip(acted[first:], self._inner.channels(acted)[first:], strict=True):
            if token not in self.stop_ids:
                counts[channel == Channel.CALL] += 1
        return counts[0], counts[1]

    def _taken(self, acted: Sequence[int], tools: Sequence[ToolSpec]) -> list[Call]:
        """Calls of these tools, with the arguments that they take."""
        try:
            calls = self._inner.parse(acted, tools)
        except Exception:  # whatever a policy can say must end in an event
            return []
        known = {tool.name: tool for tool in tools}
        return [
            _bare(call, known[call.tool]) for call in calls if call.problem is None and call.tool in known
        ]

    def _commented(self, call: Call) -> int:
        """Tokens of comments beyond what explains the code around them."""
        found = 0
        for value in call.arguments.values():
            if isinstance(value, str) and (said := commentary(value)):
                num_said, num_all = len(self._encode(said)), len(self._encode(value))
                found += max(num_said - (num_all - num_said) // CODE_PER_COMMENT, 0)
        return found

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


def _bare(call: Call, tool: ToolSpec) -> Call:
    """Without arguments that the tool does not know, or not as values of this type."""
    known = tool.parameters.get("properties")
    if not isinstance(known, dict):
        return call
    return replace(
        call,
        arguments={
            name: value
            for name, value in call.arguments.items()
            if name in known and _fits(value, known[name])
        },
    )


def _fits(value: Json, schema: Json) -> bool:
    """By type and by the values that are allowed; what the schema does not say is not asked."""
    if not isinstance(schema, dict):
        return True
    kind, allowed = schema.get("type"), schema.get("enum")
    if isinstance(allowed, list) and value not in allowed:
        return False
    types = _TYPES.get(kind) if isinstance(kind, str) else None
    return types is None or (isinstance(value, types) and (kind == "boolean" or not isinstance(value, bool)))
