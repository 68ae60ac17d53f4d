"""Actions of Gymnasium spaces from JSON: taken exactly or refused; never rounded, wrapped or
reinterpreted.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# (Gymnasium leaves the types of nested spaces open.)

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array

from agito.types import Json

Space = spaces.Space[Any]
_MOST_ITEMS = 100_000


class NoAction(ValueError):
    """The value is not in the space."""


def check(space: Space, names: Sequence[str]) -> None:
    """Raises `ValueError` for a space that JSON cannot express, and for `names` that do not match its actions
    one to one.
    """
    if isinstance(space, spaces.Graph):
        raise ValueError(
            "action space Graph: an action of it cannot be said; wrap the environment in one with another "
            "space"
        )
    parts: Sequence[Space] = ()
    if isinstance(space, spaces.Dict | spaces.Tuple | spaces.OneOf):
        parts = tuple(space.spaces.values()) if isinstance(space, spaces.Dict) else tuple(space.spaces)
    elif isinstance(space, spaces.Sequence):
        parts = (space.feature_space,)
    for part in parts:
        check(part, ())
    if not names:
        return
    if not isinstance(space, spaces.Discrete):
        raise ValueError(
            f"actions={list(names)}: only the actions of a Discrete space have names, and this one is {space}"
        )
    if len(names) != space.n:
        raise ValueError(f"actions={list(names)}: {len(names)} names for {space.n} actions; name every one")
    if len(set(names)) < len(names) or not all(name and name == name.strip() for name in names):
        raise ValueError(
            f"actions={list(names)}: give each action a name of its own, without spaces around it"
        )


def cast_to(space: Space, said: Json) -> Any:
    """The action of `space` for the JSON value `said`. Raises `NoAction`."""
    action = _cast(space, said)
    if not space.contains(action):
        raise NoAction(f"not in {space}")
    return action


def _cast(space: Space, said: Json) -> Any:
    match space:
        case spaces.Discrete():
            return _whole(said, np.dtype(np.int64))
        case spaces.Box() | spaces.MultiDiscrete() | spaces.MultiBinary():
            return _array(said, space.shape, np.dtype(cast("Any", space.dtype)))
        case spaces.Dict():
            given = said if isinstance(said, dict) else {}
            if set(given) != {str(name) for name in space.spaces}:
                raise NoAction("other names")
            return {name: _cast(part, given[str(name)]) for name, part in space.spaces.items()}
        case spaces.Tuple():
            return tuple(
                _cast(part, each)
                for part, each in zip(space.spaces, _listed(said, len(space.spaces)), strict=True)
            )
        case spaces.OneOf():
            which, value = _listed(said, 2)
            at = _whole(which, np.dtype(np.int64))
            if not 0 <= at < len(space.spaces):
                raise NoAction("no such alternative")
            return np.int64(at), _cast(space.spaces[at], value)
        case spaces.Sequence():
            found = [cast_to(space.feature_space, each) for each in _listed(said)]
            part = space.feature_space
            return (
                concatenate(part, found, create_empty_array(part, n=len(found)))
                if space.stack
                else tuple(found)
            )
        case _:
            return said  # a text, or a custom space, which checks itself


def _listed(said: Json, count: int | None = None) -> list[Json]:
    if not isinstance(said, list) or len(said) > _MOST_ITEMS or (count is not None and len(said) != count):
        raise NoAction("no list of this length")
    return said


def _array(said: Json, shape: tuple[int, ...], kind: np.dtype[Any]) -> np.ndarray[Any, Any]:
    flat: list[Any] = []
    _flatten(said, shape, kind, flat)
    return np.array(flat, dtype=kind).reshape(shape)


def _flatten(said: Json, shape: tuple[int, ...], kind: np.dtype[Any], into: list[Any]) -> None:
    if shape:
        for each in _listed(said, shape[0]):
            _flatten(each, shape[1:], kind, into)
    else:
        into.append(_real(said, kind) if kind.kind == "f" else _whole(said, kind))


def _whole(said: Json, kind: np.dtype[Any]) -> int:
    if kind.kind == "b" and isinstance(said, bool):
        return said
    is_whole = isinstance(said, int) or (
        isinstance(said, float) and math.isfinite(said) and said.is_integer()
    )
    if not is_whole or isinstance(said, bool):
        raise NoAction("no whole number")
    low, high = (0, 1) if kind.kind == "b" else (int(np.iinfo(kind).min), int(np.iinfo(kind).max))
    value = int(cast("float", said))
    if not low <= value <= high:
        raise NoAction("out of range")
    return value


def _real(said: Json, kind: np.dtype[Any]) -> float:
    if isinstance(said, bool) or not isinstance(said, int | float):
        raise NoAction("no number")
    try:
        value = float(said)
    except OverflowError:
        raise NoAction("out of range") from None
    most = float(np.finfo(kind).max)
    if not -most <= value <= most:  # neither infinite nor NaN, also in the space's own precision
        raise NoAction("not finite")
    return value


def described(space: Space, names: Sequence[str]) -> str:
    """The accepted values, in words for the policy."""
    if names:
        return f"one of {', '.join(names)}"
    return f"JSON for {_shape(space)}"


def _shape(space: Space) -> str:
    match space:
        case spaces.Dict():
            return (
                "{"
                + ", ".join(
                    f'"{name}": {_shape(part)}'
                    for name, part in cast("Mapping[Any, Space]", space.spaces).items()
                )
                + "}"
            )
        case spaces.Tuple():
            return "[" + ", ".join(_shape(part) for part in space.spaces) + "]"
        case spaces.OneOf():
            return "[which, its value] of " + " | ".join(_shape(part) for part in space.spaces)
        case spaces.Sequence():
            return f"[{_shape(space.feature_space)}, ...]"
        case _:
            return str(space)
