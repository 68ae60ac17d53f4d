"""Ours against vLLM's reading of one turn: the same, or different for a reason that is named here."""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Sequence
from typing import Any

from agito.render.tool_formats import FORMATS
from agito.types import Call, ToolSpec

REASONS = {
    "told": "one call cannot be read: vLLM drops the whole turn, or the rest of it; we run the others and "
    "tell the policy what is wrong",
    "tag in a text": "a tag within an argument, where it means nothing: vLLM cuts the turn there",
    "guessed": "vLLM makes a call of what is cut off or broken, with the arguments that it could find; "
    "we tell the policy",
    "no name": "vLLM makes a call to a tool without a name, or with a mark in its name",
    "pattern": "vLLM's pattern for a turn is narrower than its reader: no dot in a name, no space or line "
    "break within a call, no comma behind the last one, no word of Python's as an argument's name",
    "retyped": "vLLM reads a string of the JSON once more, where the schema has other types too",
    "touching objects": "vLLM skips an object that begins where the one before ends",
}
_PROBLEM = ("", None)  # a call that nobody can run
_TAGS = re.compile(r"</?tool_call>|</?parameter\b|</?function\b|\[TOOL_CALLS\]|<think>")


def ours(name: str, text: str, tools: Sequence[ToolSpec]) -> list[Any]:
    return [
        _PROBLEM if call.problem else (call.tool, dict(call.arguments)) for call in _calls(name, text, tools)
    ]


def theirs(answer: Any) -> list[Any]:
    """vLLM's answer; a call whose arguments are no object is one that nobody can run."""
    if not isinstance(answer, list):
        return []
    found: list[Any] = []
    for tool, given in answer:
        try:
            arguments = json.loads(given)
        except ValueError:
            arguments = None
        found.append((tool, arguments) if isinstance(arguments, dict) else _PROBLEM)
    return found


def agrees(mine: list[Any], answer: Any) -> bool:
    other = theirs(answer)
    return mine == other or (not _good(mine) and not _good(other))


def reason(name: str, text: str, mine: list[Any], answer: Any) -> str:
    """Why they differ; nothing if no reason is known."""
    other = theirs(answer)
    good, found = _good(mine), _good(other)
    whole = [call for call in other if call != _PROBLEM]
    if any(not tool or re.search(r"[\[\]<>'\"\s]", tool) for tool, _ in whole):
        return "no name"
    if any(_TAGS.search(json.dumps(arguments, ensure_ascii=False)) for _, arguments in good):
        return "tag in a text"
    if name in ("pythonic", "llama4_pythonic", "olmo3") and not found and _is_odd(text, good):
        return "pattern"
    if (
        name == "mistral_v11"
        and [tool for tool, _ in good] == [tool for tool, _ in found]
        and _retyped(good) == _retyped(found)
    ):
        return "retyped"
    if name == "llama3_json" and re.search(r"\}(?:<\|python_tag\|>)?\{", text) and len(found) < len(good):
        return "touching objects"
    if _PROBLEM in mine and _is_part(found, good):
        return "told"
    if _PROBLEM in mine and (len(found) > len(good) or any(call not in good for call in found)):
        return "guessed"
    return ""


def _calls(name: str, text: str, tools: Sequence[ToolSpec]) -> list[Call]:
    return [call for _, _, call in FORMATS[name].find(text, tools)]


def _good(calls: list[Any]) -> list[Any]:
    return [call for call in calls if call != _PROBLEM]


def _is_odd(text: str, good: list[Any]) -> bool:
    names = [name for _, arguments in good for name in arguments]
    spaced = re.search(r"\w\s+\(|\)\s*,\s*(?:\]|<|$)|\s=|\[\s+\w|\(\s|,\s*\n|\n\s*[,)]", text)
    return bool(spaced) or any("." in tool for tool, _ in good) or any(map(keyword.iskeyword, names))


def _retyped(calls: list[Any]) -> list[Any]:
    """All scalars as text."""
    return [(tool, {name: _word(value) for name, value in given.items()}) for tool, given in calls]


def _word(value: Any) -> Any:
    if isinstance(value, list | dict):
        return value
    word = value if isinstance(value, str) else json.dumps(value)
    return word.removesuffix(".0")


def _is_part(some: list[Any], more: list[Any]) -> bool:
    """Whether these calls stand among those, in order."""
    rest = iter(more)
    return all(any(each == other for other in rest) for each in some)
