"""Pathname expansion as bash does it in the C locale, for words with `*` and `?` and nothing else that is special."""

from __future__ import annotations

import os
from collections.abc import Mapping

_CHANGES = ("GLOBIGNORE", "BASHOPTS", "SHELLOPTS")  # variables that change what bash would do


class Beyond(Exception):
    """A pattern whose meaning is left to bash."""


def expand(words: tuple[str, ...], globs: tuple[int, ...], env: Mapping[str, str]) -> tuple[str, ...]:
    """`words` with those at the positions `globs` replaced by the names that they match, if any. Raises `Beyond`."""
    if not globs:
        return words
    if env.get("LC_ALL") != "C" or any(name in env for name in _CHANGES):
        raise Beyond
    found: list[str] = []
    for index, word in enumerate(words):
        names = _names(os.fsencode(word)) if index in globs else []
        found.extend(names or (word,))
    if words[0] == "echo" and any(word.startswith("-") for word in found):
        raise Beyond
    return tuple(found)


def _names(pattern: bytes) -> list[str]:
    if pattern.startswith(b"/"):
        raise Beyond
    bases = [b""]
    for part in pattern.split(b"/"):
        if not bases:
            break
        if not part or (part.startswith(b".") and _is_pattern(part)):
            raise Beyond
        if _is_pattern(part):
            bases = [_join(base, name) for base in bases for name in _listed(base) if name[:1] != b"." and _matches(name, part)]
        else:
            bases = [path for base in bases if os.path.lexists(path := _join(base, part))]
    return [os.fsdecode(path) for path in sorted(bases)]


def _is_pattern(part: bytes) -> bool:
    return b"*" in part or b"?" in part


def _join(base: bytes, name: bytes) -> bytes:
    return base + b"/" + name if base else name


def _listed(base: bytes) -> list[bytes]:
    try:
        return os.listdir(base or b".")
    except OSError:
        return []


def _matches(name: bytes, pattern: bytes) -> bool:
    """Whether all of `name` fits: `*` is any run of bytes, `?` any one. Linear but for the product of the two lengths."""
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
