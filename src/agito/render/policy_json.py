"""JSON that a policy wrote: a value that every tool can take, or what is wrong with it, in time that grows
with the length alone.

What `json` reads beyond the standard, or reads otherwise elsewhere, is refused: NaN and infinities, numbers
that no 64 bits hold, a key that stands twice, half a character, nesting without end. So no tool has to expect
them, and nothing depends on how deep the stack is.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter

from agito.types import Json

MOST_DEEP = 64  # lists and objects within one another
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}"]', re.DOTALL)
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1


def parse(text: str) -> Json:
    """Raises `ValueError`, which says to the policy what is wrong."""
    if _depth(text) > MOST_DEEP:
        raise ValueError(f"lists and objects are nested deeper than {MOST_DEEP}")
    value: Json = json.loads(
        text, parse_int=_integer, parse_float=_number, parse_constant=_number, object_pairs_hook=_object
    )
    if not _is_whole(value):
        raise ValueError("a string holds half a character (a lone surrogate)")
    return value


def first(text: str, start: int) -> tuple[Json, int]:
    """The object or list that begins at `start`, and where it ends, whatever follows.

    Raises `Unfinished` where it does not end or holds no JSON, else `ValueError` for what no tool could take.
    """
    depth = 0
    for found in _BRACKETS.finditer(text, start):
        letter = found[0]
        if letter == '"':
            break
        depth += 1 if letter in "[{" else -1 if letter in "]}" else 0
        if depth == 0:
            try:
                return parse(text[start : found.end()]), found.end()
            except json.JSONDecodeError as error:
                raise Unfinished(str(error)) from error
    raise Unfinished("the JSON has no end")


class Unfinished(ValueError):
    """No JSON, or not all of it."""


def printable(text: str) -> str:
    """The text, halves of characters replaced, so that it can be encoded wherever it goes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _depth(text: str) -> int:
    """How deep brackets are nested, those in strings apart; unbalanced ones count too."""
    if text.count("[") + text.count("{") <= MOST_DEEP:
        return 0
    depth = deepest = 0
    is_string = is_escaped = False
    for letter in text:
        if is_string:
            if is_escaped:
                is_escaped = False
            elif letter == "\\":
                is_escaped = True
            elif letter == '"':
                is_string = False
        elif letter == '"':
            is_string = True
        elif letter in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif letter in "]}":
            depth -= 1
    return deepest


def _integer(digits: str) -> int:
    if len(digits) > 20 or not _LEAST <= (value := int(digits)) <= _MOST:
        raise ValueError(f"{_short(digits)}: a whole number must fit into 64 bits")
    return value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{_short(text)} is no number")
    return value


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {_short(json.dumps(twice))} stands more than once in one object")
    return found


def _is_whole(value: Json) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:20]}... ({len(text)} characters)"
