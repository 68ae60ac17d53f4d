"""The compact dialect: the action is the command itself.

    <|task|>find kev<|act|>grep -rh kev .<|end|><|obs|>kev=mak\n<|left|>13<|act|>submit mak<|end|>

A turn that starts with the name of a tool other than the first calls that tool with the rest of the line; everything else is the
first tool's argument. `<think>...</think>` before the command is thinking.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from agito.render.vocabulary import ACT, END, END_THINK, FAULT, LEFT, OBS, TASK, THINK, Vocabulary
from agito.types import Call, Channel, Dialect, Event, Task, ToolSpec

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}<|act|>{{ message.content }}<|end|>"
    "{% elif message.role == 'tool' %}<|obs|>{{ message.content }}"
    "{% else %}<|task|>{{ message.content }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|act|>{% endif %}"
)


class CompactRenderer:
    dialect = Dialect.COMPACT
    chat_template = CHAT_TEMPLATE

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._end, self._act, self._obs = (vocabulary.id(token) for token in (END, ACT, OBS))
        self._left, self._fault, self._task = (vocabulary.id(token) for token in (LEFT, FAULT, TASK))
        self._think, self._end_think = vocabulary.id(THINK), vocabulary.id(END_THINK)

    @property
    def vocab_size(self) -> int:
        return len(self.vocabulary)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return (self._end,)

    def opening(self, task: Task) -> array[int]:
        return array("i", [self._task, *self.vocabulary.encode(task.prompt[Dialect.COMPACT]), self._act])

    def observation(self, events: Sequence[Event]) -> array[int]:
        ids = array("i")
        for event in events:
            ids.append(self._obs)
            if event.fault is not None:
                ids.append(self._fault)
            ids.extend(self.vocabulary.encode(event.text))
            if event.left is not None:
                ids.append(self._left)
                ids.extend(self.vocabulary.encode(str(event.left.turns)))
        ids.append(self._act)
        return ids

    def action(self, calls: Sequence[Call], tools: Sequence[ToolSpec]) -> array[int]:
        """Raises `ValueError` unless it is one call of a tool with a single string argument."""
        if len(calls) != 1:
            raise ValueError(f"{len(calls)} calls: a turn in the compact dialect makes exactly one")
        (call,) = calls
        if len(call.arguments) != 1 or not isinstance(argument := next(iter(call.arguments.values())), str):
            raise ValueError(f"{call.tool}{dict(call.arguments)}: the compact dialect needs one string argument")
        text = argument if call.tool == tools[0].name else f"{call.tool} {argument}"
        return array("i", [*self.vocabulary.encode(text), self._end])

    def parse(self, ids: Sequence[int], tools: Sequence[ToolSpec]) -> tuple[Call, ...]:
        listed = list(ids)
        raw = self.text(listed)
        if not listed or listed[-1] != self._end:
            return (Call(tool=tools[0].name, arguments={}, raw=raw, problem="the turn was cut off"),)
        said = listed[:-1]
        if self._end_think in said:
            said = said[len(said) - said[::-1].index(self._end_think) :]
        text = self.vocabulary.decode(said)
        if not text.strip():
            return (Call(tool=tools[0].name, arguments={}, raw=raw, problem="no command"),)
        word, _, rest = text.partition(" ")
        tool = next((tool for tool in tools[1:] if tool.name == word), None)
        name, argument = (tool.name, rest) if tool else (tools[0].name, text)
        return (Call(tool=name, arguments={_parameter(tool or tools[0]): argument}, raw=raw),)

    def channels(self, ids: Sequence[int]) -> bytes:
        channels, current = bytearray(), Channel.CALL
        for token in ids:
            current = Channel.THINK if token == self._think else current
            channels.append(current)
            current = Channel.CALL if token == self._end_think else current
        return bytes(channels)

    def text(self, ids: Sequence[int]) -> str:
        return self.vocabulary.decode(ids)


def _parameter(tool: ToolSpec) -> str:
    properties = tool.parameters.get("properties")
    assert isinstance(properties, dict) and properties, f"tool {tool.name}: the compact dialect needs a parameter"
    return next(iter(properties))
