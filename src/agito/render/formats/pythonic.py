"""Pythonic tool calls: `[f(a=1), g(b="x")]`, in tags or not, or one a line; Llama 4, Olmo 3, LFM2, ToolACE."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from agito.render.formats.base import Found
from agito.render.formats.literals import Reader
from agito.types import Call, Json, ToolSpec

_CALL = re.compile(r"[A-Za-z_][\w.]*\(")


class Pythonic:
    """Without tags a turn is calls from its beginning to its end, or none at all."""

    ends: tuple[str, ...] = ()

    def __init__(self, name: str, *, opens: str = "", closes: str = "", has_brackets: bool = True, is_lenient: bool = False) -> None:
        """`is_lenient`: calls stand in tags, and a string in single quotes may hold line breaks: there the template escapes nothing."""
        self.name = self.served_as = name
        self._opens, self._closes, self._has_brackets, self._is_lenient = opens, closes, has_brackets, is_lenient
        self.wanted = f"{opens}{'[' if has_brackets else ''}name(argument=value, ...){']' if has_brackets else ''}{closes}"

    def find(self, text: str, tools: Sequence[ToolSpec]) -> Iterator[Found]:
        start = text.find(self._opens) if self._opens else -1
        is_tagged = start >= 0
        if not is_tagged:
            start = len(text) - len(text.lstrip())
            if self._is_lenient or not (text.startswith("[", start) if self._has_brackets else _CALL.match(text, start)):
                return
        body = start + len(self._opens) * is_tagged
        reader = Reader(text, body, has_breaks=self._is_lenient)
        found: list[tuple[int, Call]] = []
        try:
            while self._goes_on(reader, first=not found):
                begin = reader.at
                name, arguments = reader.call()
                found.append((reader.at, Call(tool=name, arguments=arguments, raw=text[begin : reader.at].strip())))
            reader.takes(self._closes)
            reader.space()
            if not is_tagged and reader.at < len(text):
                raise ValueError("nothing may follow the calls")
            if not found:
                raise ValueError("there is no call")
        except ValueError as error:
            yield start, len(text), Call(tool="", arguments={}, raw=text[body:].strip(), problem=f"cannot be read: {error}")
            return
        for number, (stop, call) in enumerate(found, 1):
            stop = reader.at if number == len(found) else stop
            yield start, stop, call
            start = stop

    def write(self, calls: Sequence[Call]) -> str:
        said = [f"{call.tool}({', '.join(f'{name}={_literal(value)}' for name, value in call.arguments.items())})" for call in calls]
        body = f"[{', '.join(said)}]" if self._has_brackets else "\n".join(said)
        return f"{self._opens}{body}{self._closes}"

    def _goes_on(self, reader: Reader, *, first: bool) -> bool:
        """Whether another call follows; what is around calls and between them is read."""
        if self._has_brackets:
            if first:
                reader.expect("[")
                return not reader.takes("]")
            if reader.takes(","):
                return not reader.takes("]")
            reader.expect("]")
            return False
        reader.space()
        reader.takes(",")
        reader.space()
        at_end = reader.at >= len(reader.text) or (self._closes and reader.text.startswith(self._closes, reader.at))
        return not at_end


def _literal(value: Json) -> str:
    """As Python writes it, in double quotes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(name)}: {_literal(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return repr(value)
