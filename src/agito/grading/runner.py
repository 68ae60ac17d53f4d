"""The few lines that stand beside a candidate in its process: they call it once and send one answer out.

The candidate can reach all of it: the descriptor, the frames, the token. So it may forge its own answer, which helps nobody who does not
know the expected value, and the expected value never enters the box. The token tells an answer of this code from bytes that
something else wrote, as long as the candidate does not go and read it; it is a sign, not a lock. Prints go nowhere.
"""

from __future__ import annotations

from enum import StrEnum

from agito.types import Json

DIRTY = 77  # the box holds something that an earlier case left in /tmp
_SOURCE = r"""
def _answer(token, path, name, arguments):
    import fcntl, os, sys
    out = fcntl.fcntl(1, 1030, 200)
    null = os.open("/dev/null", 2)
    os.dup2(null, 1)
    os.dup2(null, 2)
    write, leave = os.write, os._exit
    if os.listdir("/tmp"):
        leave(77)
    def text(value):
        kind = type(value)
        if value is None:
            return "null"
        if kind is bool:
            return "true" if value else "false"
        if kind is int or kind is float and value - value == 0:
            return repr(value)
        if kind is str:
            if value.isascii() and value.isprintable() and '"' not in value and "\\" not in value:
                return '"' + value + '"'
            units = value.encode("utf-16-be", "surrogatepass")
            return '"' + "".join("\\u%04x" % (units[at] << 8 | units[at + 1]) for at in range(0, len(units), 2)) + '"'
        if kind is list:
            return "[" + ",".join([text(each) for each in value]) + "]"
        if kind is dict:
            for key in value:
                if type(key) is not str:
                    raise TypeError(type(key))
            return "{" + ",".join([text(key) + ":" + text(each) for key, each in value.items()]) + "}"
        raise TypeError(kind)
    def said(kind, value):
        data = token + ('["%s",%s]' % (kind, value)).encode()
        while data:
            data = data[write(out, data):]
        leave(0)
    sys.path[0] = "/work"
    sys.dont_write_bytecode = True
    try:
        function = getattr(__import__(path, None, None, ["_"]), name)
    except BaseException as error:
        said("missing", text(type(error).__name__))
    try:
        value = function(*arguments)
    except BaseException as error:
        said("raises", text(type(error).__name__))
    try:
        value = text(value)
    except BaseException as error:
        kind = error.args[0] if type(error) is TypeError else type(error)
        is_own = kind.__module__ not in sys.stdlib_module_names
        said("odd", text(("its own " if is_own else "") + kind.__name__))
    said("value", value)
"""


class Told(StrEnum):
    """What the runner says happened."""

    VALUE = "value"  # the function returned this
    RAISES = "raises"  # it raised an exception of this name
    ODD = "odd"  # it returned something that is no plain JSON value: the offending type, "its own ..." if it was not the library's
    MISSING = "missing"  # the module could not be imported, or has no such function


def snippet(*, token: bytes, module: str, function: str, arguments: list[Json]) -> str:
    """What `Sandbox.py` is given for one case. It knows inputs only."""
    return f"{_SOURCE}_answer({token!r}, {module!r}, {function!r}, {arguments!r})\n"
