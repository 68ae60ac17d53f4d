"""The snippet that runs one case in the box, and the answers it may give."""

from __future__ import annotations

import marshal
from enum import StrEnum

from agito.types import Json

DIRTY = 77  # exit code: an earlier case left something behind
FIRST_PID = 2  # of the first snippet in a box
_CALLING = "agito.worlds.sandbox.inside.calling"  # loaded in every sandbox before any episode's code
_MARSHAL = 2  # a format that every supported Python reads


class CallEnd(StrEnum):
    """How a call ended."""

    VALUE = "value"  # the function returned this
    RAISES = "raises"  # it raised this builtin exception, or a subclass of it
    # it returned something other than plain JSON: the offending type, "its own ..." for a type of its own
    ODD = "odd"
    MISSING = "missing"  # the module could not be imported, or has no such function


def snippet(*, token: bytes, module: str, function: str, arguments: list[Json]) -> str:
    """Code for `Sandbox.py`. It contains inputs only."""
    packed = marshal.dumps(arguments, _MARSHAL)
    return f"import sys\nsys.modules[{_CALLING!r}].answer({token!r}, {module!r}, {function!r}, {packed!r})\n"


def in_clean_box(code: str, number: int) -> str:
    """`code` as the `number`-th snippet of its box, from 0; exits with `DIRTY` if an earlier one left
    something behind.
    """
    return f"import sys\nsys.modules[{_CALLING!r}].clean({FIRST_PID + number})\n{code}" if number else code
