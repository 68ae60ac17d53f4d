"""Llama 3's tool calls: bare JSON objects in the turn, `{"name": ..., "parameters": {...}}`, several of them
with `; ` between.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from agito.render import policy_json
from agito.render.tool_formats.base import Found, named
from agito.types import Call, ToolSpec

_TAG = "<|python_tag|>"


class Llama:
    """Prose around the objects is allowed, without braces in it: behind one that begins no JSON nothing is
    read.
    """

    name = "llama3_json"
    served_as = "llama3_json"
    ends: tuple[str, ...] = ()
    tags: tuple[str, ...] = (_TAG,)
    wanted = '{"name": ..., "parameters": {...}}'

    def find(self, text: str, tools: Sequence[ToolSpec]) -> Iterator[Found]:
        at = 0
        while (start := text.find("{", at)) >= 0:
            begin = start - len(_TAG) if text.endswith(_TAG, 0, start) else start
            try:
                value, at = policy_json.first(text, start)
            except ValueError as error:
                yield (
                    begin,
                    len(text),
                    Call(tool="", arguments={}, raw=text[start:].strip(), problem=f"not JSON: {error}"),
                )
                return
            yield begin, at, named(value, text[start:at], "arguments", "parameters")

    def begin(self, tool: str) -> str:
        return '{"name": "' + (f'{tool}", "parameters": ' if tool else "")

    def write(self, calls: Sequence[Call]) -> str:
        return "; ".join(
            json.dumps({"name": call.tool, "parameters": dict(call.arguments)}, ensure_ascii=False)
            for call in calls
        )
