"""gpt-oss' channels (harmony): thinking, calls and the answer are messages of their own within one turn.

A call is a message to `functions.NAME` whose body is JSON; it ends with `<|call|>`, the answer with
`<|return|>`, everything else with `<|end|>`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from agito.render import policy_json
from agito.render.tool_formats.base import MOST_BROKEN, Found, after_space, named
from agito.types import Call, ToolSpec

_BODY = "<|message|>"
_END = re.compile(r"<\|(?:end|call|return)\|>")
_ENDS = re.compile(rf"(?:{_END.pattern})+")
_TO = r"(?:\s*\bto=((?:(?!<\|)\S)+?))?"
_HEADER = re.compile(
    rf"(?:\s*<\|start\|>assistant)?{_TO}\s*<\|channel\|>(?:analysis|commentary|final){_TO}"
    r"(?:\s*<\|constrain\|>\w+|\s+\w+)?\s*<\|message\|>"
)
_OTHERS = ("python", "browser", "container")  # tools of the model's own, which nobody offers here


class Harmony:
    name = "harmony"
    served_as = "openai"
    ends: tuple[str, ...] = ("<|call|>", "<|return|>")
    tags: tuple[str, ...] = (_BODY,)
    wanted = "<|channel|>commentary to=functions.name <|constrain|>json<|message|>{...}<|call|>"

    def find(self, text: str, tools: Sequence[ToolSpec]) -> Iterator[Found]:
        at = num_broken = 0
        while num_broken < MOST_BROKEN and (header := _HEADER.match(text, at)) is not None:
            call, at = _message(text, header, _recipient(header[1] or header[2]))
            if call is not None:
                yield header.start(), at, call
                num_broken += call.problem is not None
            ends = _ENDS.match(text, at)
            at = ends.end() if ends else len(text)
        rest = text[at:].strip()
        if _BODY in rest:
            yield (
                at,
                len(text),
                Call(
                    tool="",
                    arguments={},
                    raw=rest,
                    problem=f"no channel reads like this; a call is {self.wanted}",
                ),
            )

    def begin(self, tool: str) -> str:
        return "<|channel|>commentary to=functions." + (f"{tool} <|constrain|>json{_BODY}" if tool else "")

    def write(self, calls: Sequence[Call]) -> str:
        """One message a call; a turn ends with its first `<|call|>`, so all others end with `<|end|>`."""
        return "<|end|><|start|>assistant".join(
            self.begin(call.tool) + json.dumps(dict(call.arguments), ensure_ascii=False) for call in calls
        )


def _recipient(said: str | None) -> str | None:
    """The tool that a message goes to."""
    name = (said or "").removeprefix("functions.")
    return (
        None
        if not name or (said == name and (name == "assistant" or name.split(".")[0] in _OTHERS))
        else name
    )


def _message(text: str, header: re.Match[str], name: str | None) -> tuple[Call | None, int]:
    """The call that a message makes, if any, and where the message ends."""
    body = header.end()
    end = _END.search(text, body)
    stop = end.start() if end else len(text)
    if name is None:
        return None, stop
    raw = text[header.start() : stop].strip()
    begin = after_space(text, body)
    try:
        value, after = policy_json.first(text, begin) if text.startswith("{", begin) else (None, begin)
    except ValueError as error:
        return Call(tool=name, arguments={}, raw=raw, problem=f"arguments are not JSON: {error}"), stop
    rest = _END.search(text, after)
    stop = rest.start() if rest else len(text)
    if value is None or text[after:stop].strip():
        return Call(tool=name, arguments={}, raw=raw, problem="arguments are one JSON object"), stop
    return named({"name": name, "arguments": value}, text[header.start() : stop].strip(), "arguments"), stop
