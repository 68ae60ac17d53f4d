"""Checks arguments against a tool's JSON schema, for common keywords; the server checks the rest."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

from agito.types import Json

_Schema: TypeAlias = "Mapping[str, Any]"
_DEEPEST = 32
_BOUNDS: dict[str, Callable[[Any, Any], bool]] = {
    "minimum": operator.ge,
    "maximum": operator.le,
    "exclusiveMinimum": operator.gt,
    "exclusiveMaximum": operator.lt,
}


def misfit(arguments: Mapping[str, Json], schema: Mapping[str, Json]) -> str:
    """What is wrong with `arguments`, in words for the policy; empty if nothing was found."""
    return _misfit(dict(arguments), schema, schema, "", 0)


def _misfit(value: Any, schema: Any, whole: _Schema, where: str, depth: int) -> str:
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return ""
    known = _resolved(cast("_Schema", schema), whole)
    said = f"`{where}`" if where else "the arguments"
    kinds = known.get("type")
    listed = [kinds] if isinstance(kinds, str) else _list(kinds)
    if listed and not any(_is(value, kind) for kind in listed):
        return f"{said} must be of type {' or '.join(map(str, listed))}"
    choices = _list(known.get("enum"))
    if choices and not any(_equal(value, each) for each in choices):
        return f"{said} must be one of {', '.join(json.dumps(each, ensure_ascii=False) for each in choices)}"
    if "const" in known and not _equal(value, known["const"]):
        return f"{said} must be {json.dumps(known['const'], ensure_ascii=False)}"
    problem = ""
    if isinstance(value, dict):
        problem = _of_object(cast("dict[str, Any]", value), known, whole, where, depth)
    elif isinstance(value, list):
        problem = _of_list(cast("list[Any]", value), known, whole, where, depth)
    elif isinstance(value, str):
        problem = _count(len(value), known, "minLength", "maxLength", f"{said} must have", "characters")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        problem = next(
            (
                f"{said}: {name} is {known[name]}"
                for name, holds in _BOUNDS.items()
                if _number(known.get(name)) and not holds(value, known[name])
            ),
            "",
        )
    return problem or _alternatives(value, known, whole, where, depth)


def _of_object(value: Mapping[str, Any], known: _Schema, whole: _Schema, where: str, depth: int) -> str:
    prefix = f"{where}." if where else ""
    properties = _object(known.get("properties"))
    missing = [f"{prefix}{name}" for name in _list(known.get("required")) if name not in value]
    if missing:
        return f"needs {', '.join(missing)}"
    if known.get("additionalProperties") is False and "patternProperties" not in known:
        unknown = [name for name in value if name not in properties]
        if unknown:
            return (
                f"does not take {prefix}{unknown[0][:40]}; its parameters are "
                f"{', '.join(properties) or 'none'}"
            )
    found = (
        _misfit(each, properties.get(name), whole, f"{prefix}{name[:40]}", depth + 1)
        for name, each in value.items()
    )
    return next(filter(None, found), "")


def _of_list(value: list[Any], known: _Schema, whole: _Schema, where: str, depth: int) -> str:
    problem = _count(len(value), known, "minItems", "maxItems", f"`{where}` must have", "items")
    found = (
        _misfit(each, known.get("items"), whole, f"{where}[{at}]", depth + 1) for at, each in enumerate(value)
    )
    return problem or next(filter(None, found), "")


def _alternatives(value: Any, known: _Schema, whole: _Schema, where: str, depth: int) -> str:
    for name in ("anyOf", "oneOf"):
        problems = [_misfit(value, one, whole, where, depth + 1) for one in _list(known.get(name))]
        if problems and all(problems):
            return problems[0]
    found = (_misfit(value, one, whole, where, depth + 1) for one in _list(known.get("allOf")))
    return next(filter(None, found), "")


def _resolved(schema: _Schema, whole: _Schema) -> _Schema:
    """Follows references within the schema; any other reference accepts everything."""
    for _ in range(_DEEPEST):
        target = schema.get("$ref")
        if not isinstance(target, str):
            return schema
        schema = whole if target.startswith("#") else {}
        for part in target.removeprefix("#").strip("/").split("/"):
            schema = _object(schema.get(part)) if part else schema
    return {}


def _is(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, float) and value.is_integer():
        return kind in ("integer", "number")
    kinds: dict[str, type | tuple[type, ...]] = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "array": list,
        "object": dict,
        "null": type(None),
    }
    return kind not in kinds or isinstance(value, kinds[kind])


def _equal(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _count(number: int, known: _Schema, least: str, most: str, said: str, what: str) -> str:
    if _number(known.get(least)) and number < known[least]:
        return f"{said} at least {known[least]} {what}"
    if _number(known.get(most)) and number > known[most]:
        return f"{said} at most {known[most]} {what}"
    return ""


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def _object(value: Any) -> _Schema:
    return cast("_Schema", value) if isinstance(value, dict) else {}
