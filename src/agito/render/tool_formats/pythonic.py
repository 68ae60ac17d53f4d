"""Pythonic tool calls: `[f(a=1), g(b="x")]`, in tags or not, or one a line; Llama 4, Olmo 3, LFM2."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from agito.render.tool_formats.base import Found
from agito.render.tool_formats.literals import Reader
from agito.types import Call, Json, ToolSpec


class Pythonic:
    """Calls fill a turn from its beginning to its end, or stand `anywhere` between their tags."""

    ends: tuple[str, ...] = ()

    def __init__(
        self,
        name: str,
        *,
        opens: str = "",
        closes: str = "",
        has_brackets: bool = True,
        anywhere: bool = False,
        has_breaks: bool = False,
    ) -> None:
        """`has_breaks`: a string in single quotes may hold line breaks: templates of this kind escape
        nothing.
        """
        self.name = self.served_as = name
        self._opens, self._closes, self._has_brackets, self._has_breaks = (
            opens,
            closes,
            has_brackets,
            has_breaks,
        )
        self.tags: tuple[str, ...] = tuple(tag for tag in (opens, closes) if tag)
        self._tagged = (
            re.compile(re.escape(opens) if anywhere else rf"\A{re.escape(opens)}") if opens else None
        )
        self._bare = (
            re.compile(r"\A\[" if has_brackets else r"\A\s*[A-Za-z_][\w.]*\(") if not has_breaks else None
        )
        body = f"{'[' if has_brackets else ''}name(argument=value, ...){']' if has_brackets else ''}"
        self._anywhere, self.wanted = anywhere, f"{opens}{body}{closes}"

    def find(self, text: str, tools: Sequence[ToolSpec]) -> Iterator[Found]:
        tag = self._tagged.search(text) if self._tagged else None
        if tag is None and (self._bare is None or not self._bare.match(text)):
            return
        start, body = (tag.start(), tag.end()) if tag else (0, 0)
        reader = Reader(text, body, has_breaks=self._has_breaks)
        found: list[tuple[int, Call]] = []
        try:
            while self._goes_on(reader, first=not found):
                begin = reader.at
                name, arguments = reader.call()
                found.append(
                    (reader.at, Call(tool=name, arguments=arguments, raw=text[begin : reader.at].strip()))
                )
            if tag and self._anywhere:
                reader.expect(self._closes)
            else:
                _ = tag and reader.takes(self._closes)
                reader.space()
                if reader.at < len(text):
                    raise ValueError("nothing may follow the calls")
            if not found:
                raise ValueError("there is no call")
        except ValueError as error:
            yield (
                start,
                len(text),
                Call(tool="", arguments={}, raw=text[body:].strip(), problem=f"cannot be read: {error}"),
            )
            return
        for number, (stop, call) in enumerate(found, 1):
            stop = reader.at if number == len(found) else stop
            yield start, stop, call
            start = stop

    def begin(self, tool: str) -> str:
        return f"{self._opens}{'[' if self._has_brackets else ''}" + (f"{tool}(" if tool else "")

    def write(self, calls: Sequence[Call]) -> str:
        said = [
            f"{call.tool}({', '.join(f'{name}={_literal(value)}' for name, value in call.arguments.items())})"
            for call in calls
        ]
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
        at_end = reader.at >= len(reader.text) or (
            self._closes and reader.text.startswith(self._closes, reader.at)
        )
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
