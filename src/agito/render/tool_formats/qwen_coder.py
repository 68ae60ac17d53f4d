"""Qwen3-Coder's tool calls, also those of Qwen3.5 and Nemotron 3: `<function=name>` with a `<parameter=name>`
for each argument.

Values are bare text; the tool's schema says what they become.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from agito.render import policy_json
from agito.render.tool_formats.base import Found
from agito.types import Call, Json, ToolSpec

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_FUNCTION = re.compile(r"(?:<tool_call>\s*)?<function=([^<>]*)>")
_PARAMETER = re.compile(r"\s*<parameter=([^<>]*)>")
_END_VALUE = re.compile(
    r"<\s{0,9}/\s{0,9}parameter\s{0,9}>(?=\s*(?:<parameter=|</function>|$))|(?=\n<parameter=)"
)
# The template's own lines within a value: there the call does not go on, or the value never ended.
_BROKEN = re.compile(
    r"\n</parameter>\n(?!\s*(?:<parameter=|</function>|</parameter>|$))|\n</function>\n</tool_call>"
    r"|</tool_call>\s*<tool_call>\s*<function="
)
_END = re.compile(r"\s*</function>(?:\s*</tool_call>)?")
_ORDER = ("null", "integer", "number", "boolean", "object", "array", "string")


class QwenCoder:
    """A value ends at the `</parameter>` after which the call goes on or ends; the same tag within it means
    nothing.
    """

    name = "qwen3_coder"
    served_as = "qwen3_coder"
    ends: tuple[str, ...] = ()
    tags: tuple[str, ...] = (_OPEN, _CLOSE, "<function=")
    wanted = f"{_OPEN}<function=name><parameter=argument>value</parameter></function>{_CLOSE}"

    def find(self, text: str, tools: Sequence[ToolSpec]) -> Iterator[Found]:
        at = 0
        while (found := _FUNCTION.search(text, at)) is not None:
            call, at = _call(text, found, tools)
            yield found.start(), at, call
        if (start := text.find(_OPEN, at)) >= 0:
            problem = f"a call is {self.wanted}"
            yield start, len(text), Call(tool="", arguments={}, raw=text[start:].strip(), problem=problem)

    def begin(self, tool: str) -> str:
        return f"{_OPEN}\n<function=" + (f"{tool}>\n" if tool else "")

    def write(self, calls: Sequence[Call]) -> str:
        return "\n".join(
            f"{_OPEN}\n<function={call.tool}>\n"
            + "".join(
                f"<parameter={name}>\n{_text(value)}\n</parameter>\n"
                for name, value in call.arguments.items()
            )
            + f"</function>\n{_CLOSE}"
            for call in calls
        )


def _call(text: str, opening: re.Match[str], tools: Sequence[ToolSpec]) -> tuple[Call, int]:
    """The call, and where to go on."""
    name, at = opening[1].strip(), opening.end()
    schemas = _schemas(name, tools)
    arguments: dict[str, Json] = {}
    problem = None if name else "a call has a name: <function=name>"
    while (found := _PARAMETER.match(text, at)) is not None:
        end = _END_VALUE.search(text, found.end())
        if end is None or _BROKEN.search(text, found.end(), end.start()):
            raw = text[opening.start() :].strip()
            return Call(
                tool=name,
                arguments={},
                raw=raw,
                problem="after </parameter> comes <parameter=...> or </function>",
            ), len(text)
        value = text[found.end() : end.start()]
        value = value.removeprefix("\n").removesuffix("\n")
        key = found[1].strip()
        if key in arguments:
            problem = f"the parameter {key} stands more than once"
        try:
            arguments[key] = _typed(value, schemas.get(key))
        except ValueError as error:
            problem = f"{key}: {error}"
        at = end.end()
    end = _END.match(text, at)
    if end is None:
        stop = at + len(text[at:].partition(_OPEN)[0])
        problem = problem or "a call ends with </function>"
        return Call(tool=name, arguments={}, raw=text[opening.start() : stop].strip(), problem=problem), stop
    raw = text[opening.start() : end.end()].strip()
    return Call(tool=name, arguments={} if problem else arguments, raw=raw, problem=problem), end.end()


def _schemas(name: str, tools: Sequence[ToolSpec]) -> Mapping[str, Json]:
    for tool in tools:
        if tool.name == name:
            found = tool.parameters.get("properties")
            return found if isinstance(found, dict) else {}
    return {}


def _types(schema: Json) -> set[str]:
    """Every type that the schema allows; text where it says none."""
    if not isinstance(schema, dict):
        return {"string"}
    said, found = schema.get("type"), set[str]()
    found |= (
        {said}
        if isinstance(said, str)
        else {each for each in said if isinstance(each, str)}
        if isinstance(said, list)
        else set()
    )
    for value in values if isinstance(values := schema.get("enum"), list) else []:
        found.add(_type_of(value))
    for key in ("anyOf", "oneOf", "allOf"):
        if isinstance(choices := schema.get(key), list):
            found |= {each for choice in choices for each in _types(choice)}
    return found or {"string"}


def _type_of(value: Json) -> str:
    kinds: tuple[tuple[type, str], ...] = (
        (bool, "boolean"),
        (int, "integer"),
        (float, "number"),
        (str, "string"),
        (list, "array"),
    )
    return (
        "null" if value is None else next((name for kind, name in kinds if isinstance(value, kind)), "object")
    )


def _typed(text: str, schema: Json) -> Json:
    """What cannot be read as any of its types stays text, and the tool says what is wrong. Raises
    `ValueError` for halves of characters.
    """
    if not text.isascii():
        text.encode()
    types = _types(schema)
    for kind in _ORDER:
        if kind in types and (found := _read(text, kind)) is not None:
            return found[0]
    return text


def _read(text: str, kind: str) -> tuple[Json] | None:
    """The value, in a tuple, or nothing where the text is none of this kind."""
    if kind == "string":
        return (text,)
    word = text.strip()
    if kind == "null":
        return (None,) if text.lower() == "null" else None
    if kind == "boolean":
        return (word.lower() in ("true", "1"),) if word.lower() in ("true", "false", "1", "0") else None
    if kind == "integer" and re.fullmatch(r"[+-]?0*\d{1,19}", word):
        value = int(word)
        return (value,) if -(1 << 63) <= value < 1 << 63 else None
    try:
        value = policy_json.parse(word.removeprefix("+"))
    except ValueError:
        return None
    if kind in ("integer", "number"):
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or (kind == "integer" and not isinstance(value, int))
        ):
            return None
        return (int(value) if value == int(value) and abs(value) < 1 << 53 else value,)
    return (value,) if isinstance(value, dict if kind == "object" else list) else None


def _text(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
