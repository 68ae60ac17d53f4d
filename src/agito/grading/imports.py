"""The files of a workspace that a module runs: its imports, and theirs.

Read from the text, line by line, so that no source is too deep or broken to parse. Imports by computed names
are not seen.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

_IMPORT = re.compile(
    rb"^[ \t]*(?:import[ \t]+([^\n#;]+)|from[ \t]+([.\w]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n#;]+))",
    re.MULTILINE,
)
_NAME = re.compile(rb"[\w.]+")


def imported(files: Mapping[str, bytes], entry: str) -> frozenset[str]:
    """Paths of `files`: `entry`, its imports, and the `__init__.py` of every package on the way."""
    found: set[str] = set()
    pending = [entry, *_packages(entry, files)]
    while pending:
        path = pending.pop()
        if path in files and path not in found:
            found.add(path)
            pending += _named(files[path], path.split("/")[:-1], files)
    return frozenset(found)


def _named(source: bytes, folder: list[str], files: Collection[str]) -> Iterator[str]:
    for plain, origin, names in _IMPORT.findall(source):
        if plain:
            for name in plain.split(b","):
                yield from _paths(name.split()[:1], [], files)
        else:
            dots = len(origin) - len(origin.lstrip(b"."))
            base = folder[: len(folder) - dots + 1] if dots else []
            start = [origin.lstrip(b".")] if origin.lstrip(b".") else []
            yield from _paths(start, base, files)
            for name in _NAME.findall(names):
                yield from _paths([*start, name], base, files)


def _paths(dotted: list[bytes], base: list[str], files: Collection[str]) -> Iterator[str]:
    parts = [*base, *b".".join(dotted).decode(errors="replace").split(".")]
    path = "/".join(part for part in parts if part)
    for each in (f"{path}.py", f"{path}/__init__.py"):
        if each in files:
            yield each
            yield from _packages(each, files)


def _packages(path: str, files: Collection[str]) -> Iterator[str]:
    folders = path.split("/")[:-1]
    for at in range(len(folders)):
        inside = "/".join([*folders[: at + 1], "__init__.py"])
        if inside in files:
            yield inside
