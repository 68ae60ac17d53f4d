"""Calling one function of an episode's code and sending one plain JSON value out; runs in the snippet's own process, beside that code.

The code can reach all of this: the descriptor, the frames, the token. So it may forge its own answer, which helps nobody who does not
know what is expected. The token tells an answer of this module from bytes that something else wrote, as long as the code does not go and
read it; it is a sign, not a lock. Prints go nowhere. Nothing is imported after the code begins.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

OUT = 200  # where the answer leaves; far from what code opens by accident
DIRTY = 77  # exit code: /tmp holds something that was there before the code


_type: Callable[[object], Any] = type


def answer(token: bytes, path: str, name: str, arguments: list[Any]) -> NoReturn:
    """Prints `token` and ["value", V], ["raises", TYPE], ["odd", TYPE] or ["missing", TYPE]. `path` is a dotted module beneath /work."""
    out = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, OUT)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    if os.listdir("/tmp"):
        os._exit(DIRTY)
    write, leave, known = os.write, os._exit, sys.stdlib_module_names

    def say(kind: str, value: str) -> NoReturn:
        data = token + f'["{kind}",{value}]'.encode()
        while data:
            data = data[write(out, data) :]
        leave(0)

    sys.path[0] = "/work"
    sys.dont_write_bytecode = True
    try:
        function = getattr(load(path), name)
    except BaseException as error:  # whatever the code raises is its own result
        say("missing", text(type(error).__name__))
    try:
        value = function(*arguments)
    except BaseException as error:  # whatever the code raises is its own result
        say("raises", text(type(error).__name__))
    try:
        plain = text(value)
    except BaseException as error:  # a value that is not plain, or that fights back
        kind: Any = error.args[0] if type(error) is TypeError and error.args and isinstance(error.args[0], type) else type(error)
        say("odd", text(("" if kind.__module__ in known else "its own ") + kind.__name__))
    say("value", plain)


def load(path: str) -> Any:
    """The module `path`. One at the top of the workspace is not searched for, which saves a third of a whole call."""
    if "." in path:
        return __import__(path, None, None, ["_"])
    name = f"/work/{path}.py"
    file = os.open(name, os.O_RDONLY)
    source = os.read(file, os.fstat(file).st_size)
    os.close(file)
    module = sys.modules[path] = type(sys)(path)
    module.__file__, module.__package__ = name, ""
    exec(compile(source, name, "exec"), module.__dict__)
    return module


def text(value: Any) -> str:
    """JSON, without the `json` module, which is slow to import. Raises `TypeError` with the type that is not plain."""
    kind = _type(value)
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value is True else "false"
    if kind is int or (kind is float and value - value == 0):
        return repr(value)
    if kind is str:
        if value.isascii() and value.isprintable() and '"' not in value and "\\" not in value:
            return f'"{value}"'
        units = value.encode("utf-16-be", "surrogatepass")
        return '"' + "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2)) + '"'
    if kind is list:
        return "[" + ",".join([text(each) for each in value]) + "]"
    if kind is dict:
        entries: list[tuple[Any, Any]] = list(value.items())
        for key, _ in entries:
            if type(key) is not str:
                raise TypeError(_type(key))
        return "{" + ",".join([f"{text(key)}:{text(each)}" for key, each in entries]) + "}"
    raise TypeError(kind)
