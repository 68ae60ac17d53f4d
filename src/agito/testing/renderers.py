"""A renderer over raw bytes, in either dialect: no vocabulary to train, one encoding for every text."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence

from agito.render.effort import TokenBlocks
from agito.render.messages import Message, Said, Speaker, ToolUse, used
from agito.types import Call, Channel, Dialect, Effort, Event, Task, ToolSpec

END, ACT, OBS, THINK, END_THINK = 256, 257, 258, 259, 260


class ByteRenderer:
    """Compact: `tool value`. Natural: one JSON object per line. Token 256 ends a turn, 257 opens one, 258
    opens an observation.
    """

    stop_ids = (END,)
    vocab_size = 259
    chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"

    def __init__(self, dialect: Dialect = Dialect.COMPACT) -> None:
        self.dialect = dialect

    def files(self) -> Mapping[str, str]:
        return {}

    def opening(self, task: Task) -> array[int]:
        return array("i", [*task.prompt[self.dialect].encode(), ACT])

    def observation(self, events: Sequence[Event]) -> array[int]:
        return array("i", [token for event in events for token in (OBS, *event.text.encode())] + [ACT])

    def action(self, calls: Sequence[Call], tools: Sequence[ToolSpec]) -> array[int]:
        return array("i", [*"\n".join(map(self._write, calls)).encode(), END])

    def parse(self, ids: Sequence[int], tools: Sequence[ToolSpec]) -> tuple[Call, ...]:
        raw = self.text(ids)
        if not ids or ids[-1] != END:
            return (Call(tool="", arguments={}, raw=raw, problem="the turn was cut off"),)
        lines = raw.removesuffix("<256>").split("\n")
        return tuple(self._read(line, tools) for line in lines)

    def channels(self, ids: Sequence[int]) -> bytes:
        return bytes([Channel.CALL]) * len(ids)

    def text(self, ids: Sequence[int]) -> str:
        return b"".join(bytes([token]) if token < END else f"<{token}>".encode() for token in ids).decode(
            "utf-8", "replace"
        )

    def conversation(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> array[int]:
        """One user's message is an opening, and one of a tool an observation."""
        first = bool(messages) and messages[0].speaker is Speaker.USER
        return array(
            "i", [*(messages[0].text.encode() if first else b""), *self.continuation(messages[first:])]
        )

    def continuation(self, messages: Sequence[Message]) -> array[int]:
        ids = array("i")
        for message in messages:
            if message.speaker is Speaker.ASSISTANT:
                lines = [*([message.text] if message.text else []), *map(self._used, message.uses)]
                ids.extend([ACT, *"\n".join(lines).encode(), END])
            else:
                speaker = "" if message.speaker is Speaker.TOOL else f"{message.speaker}: "
                ids.extend([OBS, *f"{speaker}{message.text}".encode()])
        ids.append(ACT)
        return ids

    def said(self, ids: Sequence[int], tools: Sequence[ToolSpec]) -> Said:
        is_ended = bool(ids) and ids[-1] == END
        text = self.text(ids[:-1] if is_ended else ids)
        calls = self.parse(ids, tools)
        if not (is_ended and tools) or any(call.problem for call in calls):
            return Said(text=text)
        return Said(text="", uses=tuple(map(used, calls)))

    def begun(self, tool: str) -> array[int]:
        return array("i", [*(f'{{"tool": "{tool}", "arguments": ' if tool else '{"tool": "').encode()])

    def _used(self, use: ToolUse) -> str:
        """As `_write` writes the call, the arguments to the letter."""
        if self.dialect is Dialect.NATURAL:
            return f'{{"tool": {json.dumps(use.tool)}, "arguments": {use.arguments}}}'
        return " ".join((use.tool, *map(str, (use.parsed() or {"": use.arguments}).values())))

    def _write(self, call: Call) -> str:
        if self.dialect is Dialect.NATURAL:
            return json.dumps({"tool": call.tool, "arguments": dict(call.arguments)})
        return " ".join((call.tool, *map(str, call.arguments.values())))

    def _read(self, line: str, tools: Sequence[ToolSpec]) -> Call:
        if self.dialect is Dialect.NATURAL:
            return read_json(line)
        name, _, value = line.partition(" ")
        names = [key for spec in tools if spec.name == name for key in required(spec)]
        if not names or not value:
            return Call(
                tool=name,
                arguments={},
                raw=line,
                problem=f"write a tool and its argument; the tools are {[t.name for t in tools]}",
            )
        return Call(tool=name, arguments={names[0]: value}, raw=line)


def read_json(line: str) -> Call:
    try:
        said = json.loads(line)
        return Call(tool=str(said["tool"]), arguments=dict(said["arguments"]), raw=line)
    except (ValueError, TypeError, KeyError):
        return Call(tool="", arguments={}, raw=line, problem='write {"tool": NAME, "arguments": {...}}')


def required(spec: ToolSpec) -> list[str]:
    listed = spec.parameters.get("required")
    return [str(name) for name in listed] if isinstance(listed, list) else []


class ThinkingByteRenderer(ByteRenderer):
    """With efforts: tokens 259 and 260 begin and end a think block; from 261 on, one asks for each effort."""

    vocab_size = 261 + len(Effort)

    def asking(self, effort: Effort) -> TokenBlocks:
        asked = (261 + list(Effort).index(effort),)
        return _ByteBlocks(self, effort, asked=asked, think=THINK, end_think=END_THINK)


class _ByteBlocks(TokenBlocks):
    def _encode(self, text: str) -> array[int]:
        return array("i", text.encode())
