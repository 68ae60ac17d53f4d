"""What is asked of the box for one case, and what may come back."""

from __future__ import annotations

import marshal
from enum import StrEnum

from agito.types import Json

DIRTY = 77  # exit code: an earlier case left something that lasts
FIRST_PID = 2  # of the first snippet in a box
_CALLING = "agito.worlds.sandbox.inside.calling"  # loaded in every sandbox before any episode's code
_MARSHAL = 2  # a format that every Python reads


class CallEnd(StrEnum):
    """How a call ended."""

    VALUE = "value"  # the function returned this
    RAISES = "raises"  # it raised an exception that is this builtin one, or of a class that inherits from it
    # it returned something that is no plain JSON value: the offending type, "its own ..." if no library's
    ODD = "odd"
    MISSING = "missing"  # the module could not be imported, or has no such function


def snippet(*, token: bytes, module: str, function: str, arguments: list[Json]) -> str:
    """What `Sandbox.py` is given. It knows inputs only."""
    packed = marshal.dumps(arguments, _MARSHAL)
    return f"import sys\nsys.modules[{_CALLING!r}].answer({token!r}, {module!r}, {function!r}, {packed!r})\n"


def in_clean_box(code: str, number: int) -> str:
    """`code` as the `number`-th snippet of its box, from 0: it leaves with `DIRTY` where an earlier one left
    something that lasts.
    """
    return f"import sys\nsys.modules[{_CALLING!r}].clean({FIRST_PID + number})\n{code}" if number else code
