"""Llama 3's tool calls: bare JSON objects in the turn, `{"name": ..., "parameters": {...}}`, several of them with `; ` between."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from agito.render import policy_json
from agito.render.formats.base import Found, named
from agito.types import Call, ToolSpec

_TAG = "<|python_tag|>"
_MOST_BROKEN = 16  # braces tried that begin no JSON


class Llama:
    """Prose around the objects is allowed, and braces in it. A whole object that is no call spoils the turn, as it does in serving."""

    name = "llama3_json"
    served_as = "llama3_json"
    ends: tuple[str, ...] = ()
    wanted = '{"name": ..., "parameters": {...}}'

    def find(self, text: str, tools: Sequence[ToolSpec]) -> Iterator[Found]:
        at, num_broken, num_found = 0, 0, 0
        broken: Found | None = None
        while num_broken < _MOST_BROKEN and (start := text.find("{", at)) >= 0:
            begin = start - len(_TAG) if text.endswith(_TAG, 0, start) else start
            try:
                value, at = policy_json.first(text, start)
                yield begin, at, named(value, text[start:at], "arguments", "parameters")
                num_found += 1
            except ValueError as error:
                call = Call(tool="", arguments={}, raw=text[start:].strip(), problem=f"not JSON: {error}")
                broken = broken or (begin, len(text), call)
                if not isinstance(error, policy_json.Unfinished):
                    num_found = 0
                    break
                num_broken, at = num_broken + 1, start + 1
        if broken and not num_found:
            yield broken

    def write(self, calls: Sequence[Call]) -> str:
        return "; ".join(json.dumps({"name": call.tool, "parameters": dict(call.arguments)}, ensure_ascii=False) for call in calls)
