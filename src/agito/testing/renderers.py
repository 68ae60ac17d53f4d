"""A renderer over raw bytes, in either dialect: no vocabulary to train, one encoding for every text."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence

from agito.types import Call, Channel, Dialect, Event, Task, ToolSpec

END, ACT, OBS = 256, 257, 258


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
