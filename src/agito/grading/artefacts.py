"""Which files of a finished workspace are carried into the grader's box; the rest is only evidence."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass

from agito.grading.imports import imported

# Files that change how an interpreter or a test runner starts, and compiled files.
HOOKS = (
    "conftest.py",
    "sitecustomize.py",
    "usercustomize.py",
    "*.pth",
    "*.ini",
    "*.cfg",
    "*.toml",
    "*.pyc",
    "*.so",
    "*.egg-link",
)
HIDDEN_FOLDERS = ("tests", "test", "__pycache__", "*.egg-info", "*.dist-info", ".*")
MOST_BESIDE = 64  # data files carried at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefacts:
    """Globs that decide which files are carried: those with neither their name in `names` nor a parent in
    `folders`.

    Files that the solution imports must fit into `limit_bytes`. Then `wanted` and all others follow, smallest
    first, as long as there is room; so a stray copy or log costs nobody a verdict.
    """

    wanted: tuple[str, ...] = ("*.py",)  # `*` matches `/` too
    names: tuple[str, ...] = HOOKS
    folders: tuple[str, ...] = HIDDEN_FOLDERS
    limit_bytes: int = 1 << 18  # of all carried files together

    def split(self, files: Mapping[str, bytes], entry: str = "") -> tuple[dict[str, bytes], tuple[str, ...]]:
        """The carried files, and the stripped paths (a folder that is stripped whole appears once).

        With `entry`, the files that it imports must fit; without, all `wanted` files. Raises `ValueError` if
        they exceed `limit_bytes`.
        """
        allowed = {path: data for path, data in files.items() if self._is_allowed(path)}
        sources = {path for path in allowed if _any(path, self.wanted)}
        needed = imported(allowed, entry) if entry else sources
        size = sum(len(allowed[path]) for path in needed)
        if size > self.limit_bytes:
            raise ValueError(f"the solution has {size} bytes; at most {self.limit_bytes} are graded")
        chosen = set(needed)
        beside = 0
        for path in sorted(
            allowed.keys() - needed, key=lambda path: (path not in sources, len(allowed[path]), path)
        ):
            beside += path not in sources
            if size + len(allowed[path]) <= self.limit_bytes and (path in sources or beside <= MOST_BESIDE):
                chosen.add(path)
                size += len(allowed[path])
        stripped = {self._folder(path) or path: None for path in sorted(files.keys() - chosen)}
        return {path: files[path] for path in sorted(chosen)}, tuple(stripped)

    def _folder(self, path: str) -> str:
        *folders, _ = path.split("/")
        at = next((at for at, folder in enumerate(folders) if _any(folder, self.folders)), None)
        return "" if at is None else "/".join(folders[: at + 1]) + "/"

    def _is_allowed(self, path: str) -> bool:
        name = path.rpartition("/")[2]
        return not name.startswith(".") and not _any(name, self.names) and not self._folder(path)


def _any(text: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns)
