"""Pathname expansion as bash does it in the C locale, for words with `*` and `?` and no other special
characters.

The names are the episode's but this process does the work, so it inspects few of them, follows no links, and
lists nothing that only it may see. Anything beyond that is left to bash, which works under its command's
deadline.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from agito.worlds.sandbox.inside import kernel

_CHANGES = ("GLOBIGNORE", "BASHOPTS", "SHELLOPTS")  # variables that change bash's behaviour
_MOST_STEPS = 100_000  # of matching in total: some 20 ms
_LOOK = 50  # cost of one lookup, in steps
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK


class Beyond(Exception):
    """A pattern that is left to bash."""


class _Effort:
    """The remaining effort for a pattern."""

    def __init__(self) -> None:
        self.left = _MOST_STEPS

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise Beyond


def expand(words: tuple[str, ...], globs: tuple[int, ...], env: Mapping[str, str]) -> tuple[str, ...]:
    """`words`, with the words at indices `globs` replaced by the names that they match, if any. Raises
    `Beyond`.
    """
    if not globs:
        return words
    if env.get("LC_ALL") != "C" or any(name in env for name in _CHANGES):
        raise Beyond
    effort = _Effort()
    found: list[str] = []
    for index, word in enumerate(words):
        names = _names(os.fsencode(word), effort) if index in globs else []
        found.extend(names or (word,))
    if words[0] == "echo" and any(word.startswith("-") for word in found):
        raise Beyond
    return tuple(found)


def is_of_proc(descriptor: int) -> bool:
    """Whether it leads into /proc, which shows this process more than others."""
    return os.fstat(descriptor).st_dev == os.stat("/proc").st_dev


def _names(pattern: bytes, effort: _Effort) -> list[str]:
    if pattern.startswith(b"/"):
        raise Beyond
    bases = [b""]
    for part in pattern.split(b"/"):
        if not bases:
            break
        if not part or (part.startswith(b".") and _is_pattern(part)):
            raise Beyond
        if _is_pattern(part):
            bases = [_join(base, name) for base in bases for name in _matching(base, part, effort)]
        else:
            bases = [path for base in bases if _exists(path := _join(base, part), effort)]
    return [os.fsdecode(path) for path in sorted(bases)]


def _is_pattern(part: bytes) -> bool:
    return b"*" in part or b"?" in part


def _join(base: bytes, name: bytes) -> bytes:
    return base + b"/" + name if base else name


def _matching(base: bytes, pattern: bytes, effort: _Effort) -> list[bytes]:
    """The matching names in the directory `base`."""
    directory = _open(base or b".", _LIST, effort)
    if directory < 0:
        return []
    found: list[bytes] = []
    try:
        if is_of_proc(directory):
            raise Beyond
        with os.scandir(directory) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                effort.spend(_LOOK // 10 + len(name) * len(pattern))
                if name[:1] != b"." and _matches(name, pattern):
                    found.append(name)
    finally:
        os.close(directory)
    return found


def _exists(path: bytes, effort: _Effort) -> bool:
    handle = _open(path, os.O_PATH | os.O_NOFOLLOW, effort)
    if handle < 0:
        return False
    os.close(handle)
    return True


def _open(path: bytes, flags: int, effort: _Effort) -> int:
    """-1 if there is no such thing. Raises `Beyond` for a link on the way."""
    effort.spend(_LOOK + len(path))
    try:
        return kernel.open_beneath(kernel.AT_FDCWD, os.fsdecode(path), flags, 0, kernel.NO_LINKS)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
            return -1
        raise Beyond from None


def _matches(name: bytes, pattern: bytes) -> bool:
    """Whether the whole `name` matches: `*` is any run of bytes, `?` any one. Takes at most the product of
    the two lengths.
    """
    at = mark = 0
    star, here = -1, 0
    while at < len(name):
        if here < len(pattern) and pattern[here] in (name[at], 0x3F) and pattern[here] != 0x2A:
            at, here = at + 1, here + 1
        elif here < len(pattern) and pattern[here] == 0x2A:
            star, mark, here = here, at, here + 1
        elif star >= 0:
            mark += 1
            at, here = mark, star + 1
        else:
            return False
    return all(byte == 0x2A for byte in pattern[here:])
