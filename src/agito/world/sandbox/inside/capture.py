"""What a command printed, bounded; and what a shell says about itself when it ends."""

from __future__ import annotations

import os

_DROPPED = frozenset(("_", "SHLVL", "BASH_ENV", "BASHOPTS", "SHELLOPTS"))
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "e": "\x1b", "E": "\x1b"}
MAX_STATE = 1 << 18


class Capture:
    """Keeps the first and the last half of `limit` bytes and counts all of them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.head = b""
        self.tail = b""
        self.total = 0

    def add(self, data: bytes) -> None:
        self.total += len(data)
        if self.total <= self.limit:
            self.head += data
            return
        half = self.limit // 2
        if len(self.head) > half:  # the first overflow: until now everything was kept
            self.tail = self.head[half:]
            self.head = self.head[:half]
        elif len(self.head) < half:
            missing = half - len(self.head)
            self.head, data = self.head + data[:missing], data[missing:]
        self.tail = (self.tail + data)[-(self.limit - half) :]

    def value(self) -> bytes:
        if self.total <= self.limit:
            return self.head
        omitted = self.total - len(self.head) - len(self.tail)
        return self.head + b"\n[... %d bytes omitted ...]\n" % omitted + self.tail


def parse_state(dumped: bytes) -> tuple[str, dict[str, str]] | None:
    """Working directory and exported variables from `$PWD NUL export -p NUL`; None when it is not that.

    The text comes from the episode: anything unexpected makes all of it void.
    """
    if len(dumped) > MAX_STATE or dumped.count(b"\0") != 2 or not dumped.endswith(b"\0"):
        return None
    cwd, text = os.fsdecode(dumped[:-1]).split("\0")
    if not cwd.startswith("/"):
        return None
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
        if value is None:
            return None
        if name.isidentifier() and name.isascii() and name not in _DROPPED:
            env[name] = value
        at += 1  # the newline
    return cwd, env


def _quoted(text: str, at: int) -> tuple[str | None, int]:
    """One value as bash quotes it: "..." or $'...'. Returns it and the position after it."""
    is_ansi = text.startswith("$'", at)
    if not is_ansi and not text.startswith('"', at):
        return None, at
    closing = "'" if is_ansi else '"'
    at += 2 if is_ansi else 1
    parts: list[str] = []
    while at < len(text):
        backslash, quote = text.find("\\", at), text.find(closing, at)
        if quote < 0:
            return None, at
        if backslash < 0 or quote < backslash:
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
    return None, at
