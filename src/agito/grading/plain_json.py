"""Plain JSON values: what may leave a box, and when two values are equal."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, cast

from agito.types import Json

MAX_DEPTH = 500  # nesting of lists and dictionaries
_DIGITS = 4000  # digits that `int` converts whatever its limit
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_SPACE = re.compile(r"[\s\ufeff]")


def check(value: object, where: str) -> Json:
    """A copy of `value` if all parts have exactly JSON types; subclasses do not count. Raises `ValueError`
    naming `where`.
    """
    top: list[Any] = [None]
    pending: list[tuple[Any, Any, Any, int]] = [(value, top, 0, 0)]
    while pending:
        each, place, name, depth = pending.pop()
        kind = cast("type[object]", type(each))
        if each is None or kind in (bool, int, str) or (kind is float and math.isfinite(each)):
            place[name] = each
        elif kind is list and depth < MAX_DEPTH:
            place[name] = [None] * len(each)
            pending += [(part, place[name], at, depth + 1) for at, part in enumerate(each)]
        elif kind is dict and depth < MAX_DEPTH and all(type(key) is str for key in each):
            place[name] = dict.fromkeys(each)
            pending += [(part, place[name], key, depth + 1) for key, part in each.items()]
        else:
            deep = f", {MAX_DEPTH} deep in others," if depth >= MAX_DEPTH and kind in (list, dict) else ""
            raise ValueError(
                f"{where}: {kind.__name__}{deep} is no plain JSON value; use None, bool, int, finite "
                "float, str, list, dict with text keys"
            )
    return top[0]


def parse(data: bytes) -> Json:
    """Parses one JSON value without whitespace and nothing else. Raises `ValueError` otherwise, also for
    duplicate names.
    """
    text = data.decode("utf-8", "surrogatepass")
    if _SPACE.search(_STRING.sub("", text)):
        raise ValueError("there are spaces between the values")
    try:
        return json.loads(
            text, parse_constant=_refuse, parse_int=_integer, parse_float=_finite, object_pairs_hook=_once
        )
    except RecursionError:
        raise ValueError("nested too deep") from None


def same(one: Json, other: Json, tolerance: float = 0.0) -> bool:
    """Equal in type and value: 1, 1.0 and True differ, and so do 0.0 and -0.0, and differently composed
    letters.

    `tolerance` applies to floats only: relative, absolute below 1. With a tolerance, 0.0 equals -0.0.
    """
    pending: list[tuple[Json, Json]] = [(one, other)]
    while pending:
        one, other = pending.pop()
        if type(one) is not type(other):
            return False
        if isinstance(one, list) and isinstance(other, list):
            if len(one) != len(other):
                return False
            pending += zip(one, other, strict=True)
        elif isinstance(one, dict) and isinstance(other, dict):
            if one.keys() != other.keys():
                return False
            pending += [(each, other[name]) for name, each in one.items()]
        elif isinstance(one, float) and isinstance(other, float):
            if not _close(one, other, tolerance):
                return False
        elif one != other:
            return False
    return True


def written_bytes(values: Sequence[Json]) -> int:
    """An upper bound on the bytes needed to write any one of `values`."""
    return max((_size(value) for value in values), default=0)


def shown(value: object, most: int = 80) -> str:
    """For messages: `repr`, truncated."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or nested too deeply
        text = f"a {type(value).__name__} too long to show"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _close(one: float, other: float, tolerance: float) -> bool:
    if tolerance:
        return one == other or abs(one - other) <= tolerance * max(1.0, abs(other))
    return one == other and math.copysign(1.0, one) == math.copysign(1.0, other)


def _size(value: Json) -> int:
    size, pending = 0, [value]
    while pending:
        each = pending.pop()
        if isinstance(each, str):
            size += 6 * len(each) + 3
        elif isinstance(each, list):
            size += 2 + len(each)
            pending += each
        elif isinstance(each, dict):
            size += 2 + sum(6 * len(name) + 4 for name in each)
            pending += each.values()
        else:
            size += 32 + (each.bit_length() // 3 if isinstance(each, int) else 0)
    return size


def _integer(text: str) -> int:
    """Parses integers of any length, which `int` refuses."""
    if len(text) <= _DIGITS:
        return int(text)
    digits, value = text.lstrip("-"), 0
    for at in range(0, len(digits), _DIGITS):
        part = digits[at : at + _DIGITS]
        value = value * 10 ** len(part) + int(part)
    return -value if text.startswith("-") else value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def _once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is told twice")
    return found


def _refuse(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")
