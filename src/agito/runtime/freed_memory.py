"""What Python and torch have freed goes back to the operating system.

The C library keeps freed memory for later. That of a step of learning would lie idle while the process
samples, and add to what sampling needs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable


def give_back() -> None:
    """Takes milliseconds. Does nothing where the C library cannot."""
    if _trim is not None:
        _trim(0)


def _found() -> Callable[[int], int] | None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim.argtypes, trim.restype = (ctypes.c_size_t,), ctypes.c_int
    return trim


_trim = _found()
