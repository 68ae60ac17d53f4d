"""The natural dialect: ChatML turns and JSON tool calls in the layout of Qwen3, for language models.

Past thinking is kept, in training and in serving alike.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator, Sequence

from agito.render.messages import Message, Said, Speaker, allowance, answered, call_json, thoughts_of, used
from agito.render.tool_formats.hermes import read_call
from agito.render.vocabulary import (
    CALL,
    END_CALL,
    END_THINK,
    IM_END,
    IM_START,
    THINK,
    OwnRenderer,
    Vocabulary,
)
from agito.types import Call, Channel, Dialect, Event, Task, ToolSpec

_SYSTEM = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within """
_FORMAT = """<tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""
_TAG = re.compile(f"({re.escape(CALL)}|{re.escape(END_CALL)})")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ message.content }}\n"
    "</tool_response><|im_end|>\n"
    "{% else %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class NaturalRenderer(OwnRenderer):
    dialect = Dialect.NATURAL
    chat_template = CHAT_TEMPLATE

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._start, self._end = vocabulary.id(IM_START), vocabulary.id(IM_END)
        self._call, self._end_call = vocabulary.id(CALL), vocabulary.id(END_CALL)
        self._think, self._end_think = vocabulary.id(THINK), vocabulary.id(END_THINK)

    def opening(self, task: Task) -> array[int]:
        ids = self._system(task.tools, allowance(task.limits.turns))
        ids.extend(self._message("user", task.prompt[Dialect.NATURAL]))
        ids.extend(self._head("assistant"))
        return ids

    def observation(self, events: Sequence[Event]) -> array[int]:
        ids = array("i", self.vocabulary.encode("\n"))
        for event in events:
            ids.extend(self._message("user", _response(event)))
        ids.extend(self._head("assistant"))
        return ids

    def action(self, calls: Sequence[Call], tools: Sequence[ToolSpec]) -> array[int]:
        ids = array("i")
        for number, call in enumerate(calls):
            ids.extend(self.vocabulary.encode("\n") if number else ())
            ids.append(self._call)
            ids.extend(self.vocabulary.encode(_said(call)))
            ids.append(self._end_call)
        ids.append(self._end)
        return ids

    def parse(self, ids: Sequence[int], tools: Sequence[ToolSpec]) -> tuple[Call, ...]:
        listed = list(ids)
        raw = self.text(listed)
        if not listed or listed[-1] != self._end:
            return (Call(tool="", arguments={}, raw=raw, problem="the turn was cut off"),)
        said = listed[:-1]
        if self._end_think in said:
            said = said[len(said) - said[::-1].index(self._end_think) :]
        blocks = list(self._blocks(said))
        if not blocks:
            return (Call(tool="", arguments={}, raw=raw, problem="no <tool_call> in the turn"),)
        return tuple(read_call(block) for block in blocks)

    def channels(self, ids: Sequence[int]) -> bytes:
        channels, current = bytearray(), Channel.TEXT
        for token in ids:
            current = {self._think: Channel.THINK, self._call: Channel.CALL}.get(token, current)
            channels.append(current)
            current = Channel.TEXT if token in (self._end_think, self._end_call) else current
        return bytes(channels)

    def text(self, ids: Sequence[int]) -> str:
        return self.vocabulary.decode(ids)

    def conversation(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> array[int]:
        """What the client says as `system` at the beginning stands where an episode says how many turns there
        are.
        """
        first = 0
        while first < len(messages) and messages[first].speaker is Speaker.SYSTEM:
            first += 1
        system = "\n\n".join(message.text for message in messages[:first])
        ids = (
            self._system(tools, system)
            if tools
            else self._message("system", system)
            if system
            else array("i")
        )
        return ids + self._following(messages[first:])

    def continuation(self, messages: Sequence[Message]) -> array[int]:
        return self.vocabulary.encode("\n") + self._following(messages)

    def said(self, ids: Sequence[int], tools: Sequence[ToolSpec]) -> Said:
        said = list(ids[:-1] if ids and ids[-1] == self._end else ids)
        thought = len(said) - said[::-1].index(self._end_think) if self._end_think in said else 0
        blocks = [
            (start, stop, read_call(self.text(said[start + 1 : stop - 1])))
            for start, stop in (self._spans(said[thought:], thought) if tools else ())
        ]
        good = [each for each in blocks if each[2].problem is None]
        starts, stops = (
            [thought, *(stop for _, stop, _ in good)],
            [*(start for start, _, _ in good), len(said)],
        )
        text = "".join(self.text(said[start:stop]) for start, stop in zip(starts, stops, strict=True))
        thinking = self.text(
            [token for token in said[:thought] if token not in (self._think, self._end_think)]
        )
        return Said(
            text=text.strip() if tools else text,
            uses=tuple(used(call) for _, _, call in good),
            thinking=thinking,
        )

    def begun(self, tool: str) -> array[int]:
        name = f'{tool}", "arguments": ' if tool else ""
        return array("i", [self._call, *self.vocabulary.encode(f'\n{{"name": "{name}')])

    def _blocks(self, said: Sequence[int]) -> Iterator[str]:
        for start, stop in self._spans(said):
            yield self.text(said[start + 1 : stop - 1])

    def _spans(self, said: Sequence[int], offset: int = 0) -> Iterator[tuple[int, int]]:
        """Where calls begin and end, their tokens included; the same letters as text, in an argument, mean
        nothing.
        """
        start: int | None = None
        for at, token in enumerate(said, offset):
            if token == self._call:
                start = at if start is None else start
            elif token == self._end_call and start is not None:
                yield start, at + 1
                start = None

    def _system(self, tools: Sequence[ToolSpec], more: str) -> array[int]:
        ids = self._head("system")
        ids.extend(self.vocabulary.encode(_offer(tools)))
        *format_, last = _TAG.split(_FORMAT)  # our own tags are special tokens, as `transformers` reads them
        for piece in (*format_, f"{last}\n\n{more}" if more else last):
            ids.extend(
                [self.vocabulary.id(piece)] if _TAG.fullmatch(piece) else self.vocabulary.encode(piece)
            )
        return ids + array("i", [self._end, *self.vocabulary.encode("\n")])

    def _following(self, messages: Sequence[Message]) -> array[int]:
        ids = array("i")
        for message in messages:
            if message.speaker is Speaker.ASSISTANT:
                ids.extend(self._spoken(message))
            elif message.speaker is Speaker.TOOL:
                ids.extend(self._message("user", _wrapped(message.text)))
            else:
                ids.extend(self._message(message.speaker.value, message.text))
        return ids + self._head("assistant")

    def _spoken(self, message: Message) -> array[int]:
        """An answer as it came back from a client."""
        ids = self._head("assistant")
        if message.thinking:
            ids.extend([self._think, *self.vocabulary.encode(message.thinking), self._end_think])
        ids.extend(self.vocabulary.encode(message.text))
        for number, use in enumerate(message.uses):
            ids.extend(self.vocabulary.encode("\n") if number or message.text else ())
            ids.extend([self._call, *self.vocabulary.encode(f"\n{call_json(use)}\n"), self._end_call])
        return ids + array("i", [self._end, *self.vocabulary.encode("\n")])

    def _head(self, role: str) -> array[int]:
        return array("i", [self._start, *self.vocabulary.encode(f"{role}\n")])

    def _message(self, role: str, text: str) -> array[int]:
        return array(
            "i", [*self._head(role), *self.vocabulary.encode(text), self._end, *self.vocabulary.encode("\n")]
        )


def texts_of(task: Task, events: Sequence[Event]) -> list[str]:
    """What is said and read in an episode, the prompt's fixed words included."""
    read = [text for event in events for text in (_said(event.call), _response(event))]
    return [
        _offer(task.tools),
        f"{_FORMAT}\n\n{allowance(task.limits.turns)}",
        task.prompt[Dialect.NATURAL],
        "system\n",
        "user\n",
        "assistant\n",
        *read,
        *thoughts_of(events),
    ]


def _offer(tools: Sequence[ToolSpec]) -> str:
    described = (
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": dict(tool.parameters),
            },
        }
        for tool in tools
    )
    return _SYSTEM.format(tools="\n".join(map(json.dumps, described)))


def _response(event: Event) -> str:
    return _wrapped(answered(event))


def _wrapped(text: str) -> str:
    return f"<tool_response>\n{text}\n</tool_response>"


def _said(call: Call) -> str:
    return "\n" + json.dumps({"name": call.tool, "arguments": dict(call.arguments)}) + "\n"
