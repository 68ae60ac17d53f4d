"""Calls as a person types them in `agito play`: words in order, `name=value` pairs, or a JSON object."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import cast

from agito.render import compact
from agito.types import Call, Json, ToolSpec

_EXAMPLES = {"integer": "1", "number": "1.5", "boolean": "true", "array": "[]", "object": "{}"}


def signature(tool: ToolSpec) -> str:
    """`orders(name, page)`; what may be left out has a question mark."""
    required = tool.parameters.get("required")
    needed = required if isinstance(required, list) else []
    names = (name if name in needed else f"{name}?" for name in compact.parameters_of(tool))
    return f"{tool.name}({', '.join(names)})"


def how_to_call(tools: Sequence[ToolSpec]) -> list[str]:
    """Notes for whoever is to act."""
    notes = [
        f"A line is for {tools[0].name}; one that begins with the name of another tool is for that. "
        "Ctrl-D gives up."
    ]
    several = next((tool for tool in tools if len(compact.parameters_of(tool)) > 1), None)
    if several is not None:
        kinds = compact.parameters_of(several)
        words = {name: _EXAMPLES.get(kind, name.upper()) for name, kind in kinds.items()}
        whole = {name: json.loads(word) if kinds[name] in _EXAMPLES else word for name, word in words.items()}
        in_order, pairs = " ".join(words.values()), " ".join(f"{key}={word}" for key, word in words.items())
        notes.append(
            f"Several arguments: {several.name} {in_order}, or {several.name} {pairs}, or {several.name} "
            f"{json.dumps(whole)}; quotes hold words together."
        )
    return notes


def typed_call(line: str, tools: Sequence[ToolSpec]) -> Call:
    """The first tool may be named too."""
    word, _, rest = line.strip().partition(" ")
    named = next((tool for tool in tools if tool.name == word), None)
    tool, text = (named, rest.strip()) if named else (tools[0], line.strip())
    arguments = (
        _object(text, tool) or _pairs(text, tool) or _quoted(text, tool) or compact.arguments_of(text, tool)
    )
    return Call(tool=tool.name, arguments=arguments, raw=line, problem=None if line.strip() else "no command")


def _object(text: str, tool: ToolSpec) -> Mapping[str, Json]:
    """A JSON object of parameters; nothing for any other text."""
    try:
        read: object = json.loads(text) if text.startswith("{") else None
    except (ValueError, RecursionError):
        return {}
    found = cast("dict[str, Json]", read) if isinstance(read, dict) else {}
    return found if found.keys() <= compact.parameters_of(tool).keys() else {}


def _pairs(text: str, tool: ToolSpec) -> Mapping[str, Json]:
    """`name=Ada Lovelace page=1`: a value goes on to the next pair. Nothing for any other text."""
    kinds = compact.parameters_of(tool)
    if not kinds:
        return {}
    names = "|".join(map(re.escape, kinds))
    parts = re.split(rf"(?:^|\s+)({names})=", text)
    if parts[0] or len(parts) < 3:
        return {}
    return {
        name: compact.value_of(_unquoted(said.strip()), kinds[name])
        for name, said in zip(parts[1::2], parts[2::2], strict=True)
    }


def _quoted(text: str, tool: ToolSpec) -> Mapping[str, Json]:
    """As many words as there are parameters, some in quotes; nothing for any other text."""
    kinds = compact.parameters_of(tool)
    if len(kinds) < 2 or not set(text) & set("\"'"):
        return {}
    try:
        words = shlex.split(text)
    except ValueError:
        return {}
    if len(words) != len(kinds):
        return {}
    return {
        name: compact.value_of(word, kind) for (name, kind), word in zip(kinds.items(), words, strict=True)
    }


def _unquoted(word: str) -> str:
    return word[1:-1] if len(word) > 1 and word[0] == word[-1] and word[0] in "\"'" else word
