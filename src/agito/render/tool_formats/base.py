"""What a tool-call format is: how one family of models writes calls into the text of a turn."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias

from agito.types import Call, Json, ToolSpec

MOST_BROKEN = 16  # calls of one turn that cannot be read; what follows them is not looked at
_SPACE = re.compile(r"\s*")
Found: TypeAlias = tuple[
    int, int, Call
]  # where a call begins and ends in the text, tags included, and the call


class ToolFormat(Protocol):
    """Reading never raises and takes time that grows with the length alone: a policy may write anything.

    What is meant as a call but cannot be read is a call with a `problem`, which the policy is told.
    """

    @property
    def name(self) -> str:
        """For recipes."""
        ...

    @property
    def served_as(self) -> str:
        """vLLM's name for the parser of the same calls: `vllm serve --tool-call-parser`."""
        ...

    @property
    def ends(self) -> tuple[str, ...]:
        """The control tokens that end a turn, a turn with calls first; none where the template's own end of
        turn does.
        """
        ...

    @property
    def tags(self) -> tuple[str, ...]:
        """Any of these shows that a call is meant; none where calls are bare."""
        ...

    @property
    def wanted(self) -> str:
        """How a call is written, for a policy whose turn makes none."""
        ...

    def find(self, text: str, tools: Sequence[ToolSpec]) -> Iterator[Found]:
        """The calls in a turn, thinking and the end of the turn apart, in order."""
        ...

    def begin(self, tool: str) -> str:
        """How a call to this tool begins, up to its arguments; up to the tool's name where that is empty."""
        ...

    def write(self, calls: Sequence[Call]) -> str:
        """What a policy would write to make these calls, where its template does not say. Other values may
        read back otherwise.
        """
        ...


def begins_call(tool_format: ToolFormat, text: str, tools: Sequence[ToolSpec]) -> bool:
    """Whether a turn makes a call, or means to. Without tags, what cannot be read as a call is one only if it
    begins with an offered tool's name: JSON or a list may be an answer.
    """
    names = {tool.name for tool in tools if not tool.is_speech}
    least = len(_squeezed(tool_format.begin("")))
    for start, stop, call in tool_format.find(text, tools):
        if call.problem is None or call.tool in names:
            return True
        if any(tag in text[start:stop] for tag in tool_format.tags):
            return True
        rest = _squeezed(text[start:])
        for begin in map(_squeezed, map(tool_format.begin, names)):
            if rest.startswith(begin) or (len(rest) > least and begin.startswith(rest)):
                return True
    return False


def _squeezed(text: str) -> str:
    return "".join(text.split())


def after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def named(value: Json, raw: str, *keys: str) -> Call:
    """The call that a JSON object says: `name`, and its arguments under the first of the keys that it has."""
    if not isinstance(value, dict) or not isinstance(name := value.get("name"), str):
        return Call(
            tool="", arguments={}, raw=raw, problem=f'a call is {{"name": ..., "{keys[0]}": {{...}}}}'
        )
    arguments = next((value[key] for key in keys if key in value), None)
    if not isinstance(arguments, dict):
        return Call(tool=name, arguments={}, raw=raw, problem="arguments must be an object")
    return Call(tool=name, arguments=arguments, raw=raw)
