"""Mistral's tool calls: `[TOOL_CALLS]` and a list of JSON objects, or, from version 11 on,
`[TOOL_CALLS]name[ARGS]{...}` for each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from agito.render import policy_json
from agito.render.tool_formats.base import MOST_BROKEN, Found, after_space, named
from agito.types import Call, Json, ToolSpec

_TAG = "[TOOL_CALLS]"
_NAME = re.compile(r"\s*([\w.-]*)\s*(?:\[CALL_ID\][^\[{]*)?(\[ARGS\])?\s*")


class Mistral:
    """`has_names`: the newer form. What follows a list is prose."""

    served_as = "mistral"
    ends: tuple[str, ...] = ()
    tags: tuple[str, ...] = (_TAG, "[ARGS]")

    def __init__(self, *, has_names: bool) -> None:
        self._has_names = has_names
        self.name = "mistral_v11" if has_names else "mistral"
        self.wanted = (
            f"{_TAG}name[ARGS]{{...}}" if has_names else f'{_TAG}[{{"name": ..., "arguments": {{...}}}}]'
        )

    def find(self, text: str, tools: Sequence[ToolSpec]) -> Iterator[Found]:
        start, num_broken = text.find(_TAG), 0
        while start >= 0 and num_broken < MOST_BROKEN:
            at = start + len(_TAG)
            body = after_space(text, at)
            if not self._has_names:
                if not text.startswith(_TAG, body):  # else it is said twice
                    yield from _listed(text, start, body)
                    return
                stop = body
            else:
                call, stop = _named(text, at)
                yield start, stop, call
                num_broken += call.problem is not None
            start = text.find(_TAG, stop)

    def begin(self, tool: str) -> str:
        if self._has_names:
            return f"{_TAG}{tool}[ARGS]" if tool else _TAG
        return f'{_TAG}[{{"name": "' + (f'{tool}", "arguments": ' if tool else "")

    def write(self, calls: Sequence[Call]) -> str:
        if self._has_names:
            return "".join(
                f"{_TAG}{call.tool}[ARGS]{json.dumps(dict(call.arguments), ensure_ascii=False)}"
                for call in calls
            )
        listed = [{"name": call.tool, "arguments": dict(call.arguments)} for call in calls]
        return f"{_TAG}{json.dumps(listed, ensure_ascii=False)}"


def _listed(text: str, start: int, body: int) -> Iterator[Found]:
    """The older form. Each call but the first begins where the one before ends: a list is one stretch of
    text.
    """
    try:
        if not text.startswith(("[", "{"), body):
            raise ValueError("there is no list of calls")
        value, stop = policy_json.first(text, body)
    except ValueError as error:
        yield (
            start,
            len(text),
            Call(tool="", arguments={}, raw=text[body:].strip(), problem=f"not JSON: {error}"),
        )
        return
    made: list[Json] = value if isinstance(value, list) else [value]
    if not made:
        yield (
            start,
            stop,
            Call(tool="", arguments={}, raw=text[body:stop], problem="the list of calls is empty"),
        )
    for number, each in enumerate(made):
        yield (start if number == 0 else stop), stop, _item(each)


def _item(value: Json) -> Call:
    raw = json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict) and isinstance(said := value.get("arguments"), str):  # JSON in a string
        try:
            return named(value | {"arguments": policy_json.parse(said)}, raw, "arguments")
        except ValueError as error:
            return Call(
                tool=str(value.get("name", "")),
                arguments={},
                raw=raw,
                problem=f"arguments are not JSON: {error}",
            )
    return named(value, raw, "arguments")


def _named(text: str, at: int) -> tuple[Call, int]:
    """The newer form, and where it ends."""
    found = _NAME.match(text, at)
    assert found is not None
    name, body = found[1], found.end()
    end = text.find(_TAG, body)
    end = len(text) if end < 0 else end
    if not name or not text.startswith("{", body):
        if name and found[2] and not text[body:end].strip():  # nothing to say
            return Call(tool=name, arguments={}, raw=text[at:end].strip()), end
        return Call(
            tool=name, arguments={}, raw=text[at:end].strip(), problem=f"a call is {_TAG}name[ARGS]{{...}}"
        ), end
    try:
        value, stop = policy_json.first(text, body)
    except ValueError as error:
        return Call(
            tool=name, arguments={}, raw=text[at:end].strip(), problem=f"arguments are not JSON: {error}"
        ), end
    return named({"name": name, "arguments": value}, text[at:stop].strip(), "arguments"), stop
