"""A git repository as files, written without git: one pack with its index, one branch, and the index of the
working tree.

Deterministic and cheap (a millisecond for a small tree). So every episode can have its own history, and a
scrubbed workspace gets a new object store with a single orphan commit.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_AUTHOR = "dev <dev@example.org>"
_TYPES = {"commit": 1, "tree": 2, "blob": 3}
_CONFIG = (
    b"[core]\n\trepositoryformatversion = 0\n\tfilemode = false\n\tbare = false\n[user]\n\tname = "
    b"dev\n\temail = dev@example.org\n"
)
_START = 1_700_000_000  # Unix time of the first commit; each next one is a day later


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A whole tree at one moment. Regular files only."""

    message: str
    tree: Mapping[str, bytes]


def repository(commits: Sequence[Commit]) -> dict[str, bytes]:
    """The files of `.git` after `commits`, with the last one checked out. Raises `ValueError` if there is
    none.
    """
    if not commits:
        raise ValueError("a repository needs at least one commit")
    objects: dict[bytes, tuple[str, bytes]] = {}
    head = parent = ""
    for number, commit in enumerate(commits):
        tree = _tree(objects, commit.tree).hex()
        stamp = f"{_AUTHOR} {_START + 86_400 * number} +0000"
        body = f"tree {tree}\n{parent}author {stamp}\ncommitter {stamp}\n\n{commit.message}\n"
        head = _put(objects, "commit", body.encode()).hex()
        parent = f"parent {head}\n"
    pack, index = _pack(objects)
    name = pack[-20:].hex()
    return {
        ".git/HEAD": b"ref: refs/heads/main\n",
        ".git/config": _CONFIG,
        ".git/refs/heads/main": f"{head}\n".encode(),
        f".git/objects/pack/pack-{name}.pack": pack,
        f".git/objects/pack/pack-{name}.idx": index,
        ".git/index": _index(objects, commits[-1].tree),
    }


def _put(objects: dict[bytes, tuple[str, bytes]], kind: str, body: bytes) -> bytes:
    name = hashlib.sha1(f"{kind} {len(body)}\0".encode() + body, usedforsecurity=False).digest()
    objects[name] = (kind, body)
    return name


def _tree(objects: dict[bytes, tuple[str, bytes]], files: Mapping[str, bytes]) -> bytes:
    folders: dict[str, dict[str, bytes]] = {}
    entries: list[tuple[str, bytes]] = []  # sorted by name, folders as if they ended with a slash
    for path, data in files.items():
        folder, slash, rest = path.partition("/")
        if slash:
            folders.setdefault(folder, {})[rest] = data
        else:
            entries.append((path, b"100644 " + path.encode() + b"\0" + _put(objects, "blob", data)))
    for folder, inner in folders.items():
        entries.append((f"{folder}/", b"40000 " + folder.encode() + b"\0" + _tree(objects, inner)))
    return _put(objects, "tree", b"".join(entry for _, entry in sorted(entries)))


def _pack(objects: Mapping[bytes, tuple[str, bytes]]) -> tuple[bytes, bytes]:
    parts, at = [b"PACK" + struct.pack(">II", 2, len(objects))], 12
    placed: list[tuple[bytes, int, int]] = []  # name, crc, offset
    for name, (kind, body) in objects.items():
        size, first = len(body) >> 4, _TYPES[kind] << 4 | len(body) & 15
        header = bytearray()
        while size:
            header.append(first | 128)
            first, size = size & 127, size >> 7
        header.append(first)
        entry = bytes(header) + zlib.compress(body, 1)
        placed.append((name, zlib.crc32(entry), at))
        parts.append(entry)
        at += len(entry)
    content = b"".join(parts)
    pack = content + hashlib.sha1(content, usedforsecurity=False).digest()
    placed.sort()
    fanout = [sum(name[0] <= first for name, _, _ in placed) for first in range(256)]
    index = b"\377tOc" + struct.pack(">I256I", 2, *fanout) + b"".join(name for name, _, _ in placed)
    index += b"".join(struct.pack(">I", crc) for _, crc, _ in placed) + b"".join(
        struct.pack(">I", offset) for *_, offset in placed
    )
    index += pack[-20:]
    return pack, index + hashlib.sha1(index, usedforsecurity=False).digest()


def _index(objects: dict[bytes, tuple[str, bytes]], files: Mapping[str, bytes]) -> bytes:
    """Index version 2, without times: git checks the contents once and fills them in."""
    parts = [b"DIRC" + struct.pack(">II", 2, len(files))]
    for path in sorted(files):
        name = _put(objects, "blob", files[path])
        entry = struct.pack(">10I", 0, 0, 0, 0, 0, 0, 0o100644, 0, 0, len(files[path])) + name
        entry += struct.pack(">H", min(len(path.encode()), 0xFFF)) + path.encode()
        parts.append(entry + b"\0" * (8 - len(entry) % 8))
    content = b"".join(parts)
    return content + hashlib.sha1(content, usedforsecurity=False).digest()
