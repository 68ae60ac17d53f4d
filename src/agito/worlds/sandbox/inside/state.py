"""What a shell leaves for the next one: its directory and exported variables, as reported by the episode.

All of it is the episode's own text. So it is parsed in one pass, within limits, and unexpected input is
dropped as a whole.
"""

from __future__ import annotations

import errno
import os

from agito.worlds.sandbox.inside import kernel

MAX_STATE = 1 << 18  # bytes
MAX_VARIABLES = 1024
MAX_VARIABLE = (1 << 17) - 1  # bytes of NAME=VALUE: Linux's limit for one string of a new program
_LONGEST = 1000  # characters of a path in one call: at most 4,000 bytes
_DROPPED = frozenset(("_", "SHLVL", "BASH_ENV", "BASHOPTS", "SHELLOPTS"))
_ESCAPES = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "v": "\v",
    "e": "\x1b",
    "E": "\x1b",
}
_ODD = "it is not as bash writes it"


class NotKept(Exception):
    """Why a state is not adopted."""


def parse(dumped: bytes) -> tuple[str, dict[str, str]]:
    """Working directory and exported variables from `$PWD NUL export -p NUL`. Raises `NotKept`."""
    if len(dumped) > MAX_STATE:
        raise NotKept(f"over {MAX_STATE >> 10} KiB")
    if dumped.count(b"\0") != 2 or not dumped.endswith(b"\0") or not dumped.startswith(b"/"):
        raise NotKept(_ODD)
    cwd, text = os.fsdecode(dumped[:-1]).split("\0")
    env: dict[str, str] = {}
    at = 0
    while at < len(text):
        line_end = text.find("\n", at)
        line_end = len(text) if line_end < 0 else line_end
        equals = text.find("=", at, line_end)
        if equals < 0:  # exported but never set
            at = line_end + 1
            continue
        name = text[at:equals].rpartition(" ")[2]
        value, at = _quoted(text, equals + 1)
        if name.isidentifier() and name.isascii() and name not in _DROPPED:
            _check(name, value)
            env[name] = value
            if len(env) > MAX_VARIABLES:
                raise NotKept(f"over {MAX_VARIABLES} variables")
        if not text.startswith("\n", at):
            raise NotKept(_ODD)
        at += 1
    return cwd, env


def _check(name: str, value: str) -> None:
    """No program could be given such a variable."""
    if "\0" in value:
        raise NotKept(f"{name} holds a NUL")
    if (
        len(name) + len(value) >= MAX_VARIABLE // 4
        and len(os.fsencode(value)) + len(name) + 1 >= MAX_VARIABLE
    ):
        raise NotKept(f"{name} is over {(MAX_VARIABLE + 1) >> 10} KiB")


def _quoted(text: str, at: int) -> tuple[str, int]:
    """One value as bash quotes it, "..." or $'...', and the position after it. Raises `NotKept`."""
    is_ansi = text.startswith("$'", at)
    if not is_ansi and not text.startswith('"', at):
        raise NotKept(_ODD)
    closing = "'" if is_ansi else '"'
    at += 2 if is_ansi else 1
    parts: list[str] = []
    quote = text.find(closing, at)
    while quote >= 0:
        backslash = text.find("\\", at, quote)
        if backslash < 0:
            parts.append(text[at:quote])
            return "".join(parts), quote + 1
        parts.append(text[at:backslash])
        escaped = text[backslash + 1 : backslash + 2]
        at = backslash + 2
        if not is_ansi:
            parts.append(escaped if escaped in '"\\$`' else "\\" + escaped)
        elif escaped in _ESCAPES:
            parts.append(_ESCAPES[escaped])
        elif escaped in "01234567" and escaped:
            digits = escaped
            while len(digits) < 3 and text[at : at + 1] in tuple("01234567"):
                digits += text[at]
                at += 1
            parts.append(os.fsdecode(bytes((int(digits, 8) & 0xFF,))))
        else:
            parts.append(escaped)
        if quote < at:
            quote = text.find(closing, at)
    raise NotKept(_ODD)


def enter(cwd: str) -> None:
    """Makes `cwd` this process's directory, whatever the length of its path. Raises `OSError`, keeping the
    old directory.

    This process follows a command, so it must go nowhere that the command could not: not through a magic
    link, and not into /proc entries of the reading process.
    """
    directory = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in _pieces(cwd):
            inner = kernel.open_beneath(
                directory, part, os.O_PATH | os.O_DIRECTORY, 0, kernel.RESOLVE_NO_MAGICLINKS
            )
            directory, outer = inner, directory
            os.close(outer)
        if os.fstat(directory).st_dev == os.stat("/proc").st_dev and _is_of_a_process(
            os.readlink(f"/proc/self/fd/{directory}")
        ):
            raise OSError(errno.ENOENT, cwd)
        os.fchdir(directory)
    finally:
        os.close(directory)


def _pieces(path: str) -> list[str]:
    """`path` in pieces short enough for one call each, later ones relative to earlier ones."""
    pieces: list[str] = []
    while len(path) > _LONGEST:
        end = path.rfind("/", 1, _LONGEST)
        if end < 0:
            raise OSError(errno.ENAMETOOLONG, path)
        pieces.append(path[:end])
        path = path[end:].lstrip("/") or "."
    return [*pieces, path]


def _is_of_a_process(path: str) -> bool:
    return path.count("/") >= 2 and path.split("/")[2].isdigit()
