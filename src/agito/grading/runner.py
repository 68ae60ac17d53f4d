"""What is asked of the box for one case, and what may come back."""

from __future__ import annotations

from enum import StrEnum

from agito.types import Json

DIRTY = 77  # exit code: an earlier case left something in /tmp
_CALLING = "agito.world.sandbox.inside.calling"  # loaded in every sandbox before any episode's code


class Told(StrEnum):
    """How a call ended."""

    VALUE = "value"  # the function returned this
    RAISES = "raises"  # it raised an exception of this name
    ODD = "odd"  # it returned something that is no plain JSON value: the offending type, "its own ..." if no library's
    MISSING = "missing"  # the module could not be imported, or has no such function


def snippet(*, token: bytes, module: str, function: str, arguments: list[Json]) -> str:
    """What `Sandbox.py` is given. It knows inputs only."""
    return f"import sys\nsys.modules[{_CALLING!r}].answer({token!r}, {module!r}, {function!r}, {arguments!r})\n"
