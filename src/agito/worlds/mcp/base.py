"""Separates a tool server's own files from those of its base folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

Fingerprints: TypeAlias = "Mapping[str, tuple[int, bytes]]"


@lru_cache(maxsize=32)
def fingerprints(base: str, under: str) -> Fingerprints:
    """Size and hash of every regular file of `base` beneath `under`, by path. Cached: a base is never written
    to.
    """
    found: dict[str, tuple[int, bytes]] = {}
    for folder, _, names in os.walk(Path(base) / under):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                found[str(path.relative_to(base))] = _fingerprint(path.read_bytes())
    return found


def differing(files: Mapping[str, bytes], known: Fingerprints) -> dict[str, bytes]:
    """Files that are not in `known` with the same content."""
    return {
        path: data
        for path, data in files.items()
        if path not in known or known[path][0] != len(data) or known[path] != _fingerprint(data)
    }


def _fingerprint(data: bytes) -> tuple[int, bytes]:
    return len(data), hashlib.blake2b(data, digest_size=16).digest()
