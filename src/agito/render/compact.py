"""The compact dialect: the action is the command itself.

    <|task|>find kev<|act|>grep -rh kev .<|end|><|obs|>kev=mak\n<|left|>13<|act|>submit mak<|end|>

A turn that starts with the name of a tool other than the first calls that tool with the rest of the line;
everything else is for the first tool. Parameters are positional: one word each, the last one takes what is
left; words become numbers where the tool's schema says so and they can. `<think>...</think>` before the
command is thinking.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence

from agito.render import policy_json
from agito.render.messages import Message, Said, Speaker, ToolUse, thoughts_of, used
from agito.render.vocabulary import (
    ACT,
    END,
    END_THINK,
    FAULT,
    LEFT,
    OBS,
    TASK,
    THINK,
    OwnRenderer,
    Vocabulary,
)
from agito.types import Call, Channel, Dialect, Event, Json, Task, ToolSpec

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}<|act|>{{ message.content }}<|end|>"
    "{% elif message.role == 'tool' %}<|obs|>{{ message.content }}"
    "{% else %}<|task|>{{ message.content }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|act|>{% endif %}"
)


class CompactRenderer(OwnRenderer):
    dialect = Dialect.COMPACT
    chat_template = CHAT_TEMPLATE

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._end, self._act, self._obs = (vocabulary.id(token) for token in (END, ACT, OBS))
        self._left, self._fault, self._task = (vocabulary.id(token) for token in (LEFT, FAULT, TASK))
        self._think, self._end_think = vocabulary.id(THINK), vocabulary.id(END_THINK)

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
        """Raises `ValueError` unless it is one call whose arguments can be told apart again."""
        if len(calls) != 1:
            raise ValueError(f"{len(calls)} calls: a turn in the compact dialect makes exactly one")
        (call,) = calls
        tool = next(tool for tool in tools if tool.name == call.tool)
        text = _words(call, tool)
        if tool is not tools[0]:
            text = f"{tool.name} {text}" if call.arguments else tool.name
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
        arguments = arguments_of(rest, tool) if tool else arguments_of(text, tools[0])
        return (Call(tool=(tool or tools[0]).name, arguments=arguments, raw=raw),)

    def channels(self, ids: Sequence[int]) -> bytes:
        channels, current = bytearray(), Channel.CALL
        for token in ids:
            current = Channel.THINK if token == self._think else current
            channels.append(current)
            current = Channel.CALL if token == self._end_think else current
        return bytes(channels)

    def text(self, ids: Sequence[int]) -> str:
        return self.vocabulary.decode(ids)

    def conversation(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> array[int]:
        """The tools themselves are not written: this dialect knows them."""
        ids = array("i")
        for message in messages:
            if message.speaker is Speaker.ASSISTANT:
                body = "\n".join(
                    [
                        *([message.text] if message.text else []),
                        *(_command(use, tools) for use in message.uses),
                    ]
                )
                thought = (
                    (self._think, *self.vocabulary.encode(message.thinking), self._end_think)
                    if message.thinking
                    else ()
                )
                ids.extend([self._act, *thought, *self.vocabulary.encode(body), self._end])
            else:
                mark = self._obs if message.speaker is Speaker.TOOL else self._task
                ids.extend([mark, *self.vocabulary.encode(message.text)])
        ids.append(self._act)
        return ids

    def continuation(self, messages: Sequence[Message]) -> array[int]:
        return self.conversation(messages, ())

    def said(self, ids: Sequence[int], tools: Sequence[ToolSpec]) -> Said:
        is_ended = bool(ids) and ids[-1] == self._end
        said = list(ids[:-1] if is_ended else ids)
        at = len(said) - said[::-1].index(self._end_think) if self._end_think in said else 0
        thinking = self.text([token for token in said[:at] if token not in (self._think, self._end_think)])
        good = [call for call in self.parse(ids, tools) if call.problem is None] if tools and is_ended else []
        return Said(text="" if good else self.text(said[at:]), uses=tuple(map(used, good)), thinking=thinking)

    def begun(self, tool: str) -> array[int]:
        return array("i", self.vocabulary.encode(f"{tool} ")) if tool else array("i")


def texts_of(task: Task, events: Sequence[Event]) -> list[str]:
    """What is said and read in an episode."""
    said = [f"{event.call.tool} {argument}" for event in events for argument in event.call.arguments.values()]
    return [task.prompt[Dialect.COMPACT], *said, *(event.text for event in events), *thoughts_of(events)]


def _command(use: ToolUse, tools: Sequence[ToolSpec]) -> str:
    """A call that came back from a client, as this dialect writes it."""
    arguments = use.parsed()
    if arguments is None:
        return f"{use.tool} {use.arguments}"
    words = " ".join(value if isinstance(value, str) else json.dumps(value) for value in arguments.values())
    return words if tools and use.tool == tools[0].name else f"{use.tool} {words}".rstrip()


def parameters_of(tool: ToolSpec) -> dict[str, str]:
    """Names and JSON types, in order."""
    properties = tool.parameters.get("properties")
    found = properties if isinstance(properties, dict) else {}
    return {
        name: str(each.get("type")) if isinstance(each, dict) else "string" for name, each in found.items()
    }


def _words(call: Call, tool: ToolSpec) -> str:
    text = " ".join(
        value if isinstance(value, str) else json.dumps(value) for value in call.arguments.values()
    )
    if arguments_of(text, tool) != dict(call.arguments):
        parameters = ", ".join(parameters_of(tool))
        raise ValueError(
            f"{call.tool}{dict(call.arguments)}: the compact dialect needs {parameters} in order, one word "
            "each but the last"
        )
    return text


def arguments_of(text: str, tool: ToolSpec) -> dict[str, Json]:
    parameters = parameters_of(tool)
    if len(parameters) == 1:  # a command: its spaces are its own
        ((name, kind),) = parameters.items()
        return {name: value_of(text, kind)}
    words = text.split(None, max(len(parameters) - 1, 0)) if parameters else []
    return {name: value_of(word, kind) for (name, kind), word in zip(parameters.items(), words, strict=False)}


def value_of(word: str, kind: str) -> Json:
    """What cannot be read as its type stays text; the tool then says what is wrong with it."""
    if kind in ("integer", "number", "boolean"):
        try:
            value = policy_json.parse(word)
        except ValueError:
            return word
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_right = isinstance(value, bool) if kind == "boolean" else is_number
        return value if is_right else word
    return word
