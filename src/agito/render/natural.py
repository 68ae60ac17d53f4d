"""The natural dialect: ChatML turns and JSON tool calls in the layout of Qwen3, for language models.

Past thinking is kept, in training and in serving alike.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator, Sequence

from agito.render.formats.hermes import read_call
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
        ids = self._head("system")
        ids.extend(self.vocabulary.encode(_offer(task)))
        # our own tags are special tokens, as `transformers` reads them
        for piece in _TAG.split(_format(task)):
            ids.extend(
                [self.vocabulary.id(piece)] if _TAG.fullmatch(piece) else self.vocabulary.encode(piece)
            )
        ids.extend([self._end, *self.vocabulary.encode("\n")])
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

    def _blocks(self, said: Sequence[int]) -> Iterator[str]:
        """What stands between the tokens of a call; the same letters as text, in an argument,
        mean nothing.
        """
        start: int | None = None
        for at, token in enumerate(said):
            if token == self._call:
                start = at + 1 if start is None else start
            elif token == self._end_call and start is not None:
                yield self.text(said[start:at])
                start = None

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
        _offer(task),
        _format(task),
        task.prompt[Dialect.NATURAL],
        "system\n",
        "user\n",
        "assistant\n",
        *read,
    ]


def _offer(task: Task) -> str:
    described = (
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": dict(tool.parameters),
            },
        }
        for tool in task.tools
    )
    return _SYSTEM.format(tools="\n".join(map(json.dumps, described)))


def _format(task: Task) -> str:
    return f"{_FORMAT}\n\nYou have {task.limits.turns} turn{'s' * (task.limits.turns != 1)}."


def _response(event: Event) -> str:
    status = f"[{event.fault}]\n" if event.fault else ""
    left = f"\n[{event.left.turns} turns left]" if event.left else ""
    return f"<tool_response>\n{status}{event.text}{left}\n</tool_response>"


def _said(call: Call) -> str:
    return "\n" + json.dumps({"name": call.tool, "arguments": dict(call.arguments)}) + "\n"
