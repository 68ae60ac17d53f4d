"""Plain JSON values: what may leave a box, and when two of them are the same."""

from __future__ import annotations

import json
import math

from agito.types import Json


def check(value: object, where: str) -> Json:
    """Returns `value` if every part of it is exactly of a JSON type. Raises `ValueError` naming `where`; subclasses do not count."""
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value  # type: ignore[return-value]
    if type(value) is float and math.isfinite(value):
        return value
    if type(value) is list:
        return [check(each, where) for each in value]  # type: ignore[reportUnknownVariableType]
    if type(value) is dict and all(type(name) is str for name in value):  # type: ignore[reportUnknownVariableType]
        return {name: check(each, where) for name, each in value.items()}  # type: ignore[reportUnknownVariableType]
    raise ValueError(
        f"{where}: {kind.__name__} is no plain JSON value; use None, bool, int, finite float, str, list, dict with string keys"
    )


def parse(data: bytes) -> Json:
    """One JSON value and nothing else. Raises `ValueError` for everything else, values nested too deep to read among it."""
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deep") from None


def same(one: Json, other: Json, tolerance: float = 0.0) -> bool:
    """Equal in type and value: 1, 1.0 and True are three things. `tolerance` is relative, absolute below 1, and for floats alone."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        assert isinstance(other, list)
        return len(one) == len(other) and all(same(a, b, tolerance) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict):
        assert isinstance(other, dict)
        return one.keys() == other.keys() and all(same(each, other[name], tolerance) for name, each in one.items())
    if isinstance(one, float):
        assert isinstance(other, float)
        return one == other or abs(one - other) <= tolerance * max(1.0, abs(other))
    return one == other


def _refuse(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")
