"""Which files of a finished workspace are carried into the grader's box, and which are only evidence."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass

# What changes how an interpreter or a test runner starts, what is compiled already, and the tests, which the grader brings itself.
HOOKS = (
    "conftest.py", "sitecustomize.py", "usercustomize.py", "*.pth", "*.ini", "*.cfg", "*.toml", "*.pyc", "*.so", "*.egg-link",
    "test_*.py", "*_test.py",
)  # fmt: skip
HIDDEN_FOLDERS = ("tests", "test", "__pycache__", "*.egg-info", "*.dist-info", ".*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefacts:
    """Globs of paths. A path is carried if `wanted` has it and neither its name is in `names` nor a folder of it in `folders`."""

    wanted: tuple[str, ...] = ("*.py",)  # `*` matches `/` too
    names: tuple[str, ...] = HOOKS
    folders: tuple[str, ...] = HIDDEN_FOLDERS
    limit_bytes: int = 1 << 18  # of all that is carried

    def split(self, files: Mapping[str, bytes]) -> tuple[dict[str, bytes], tuple[str, ...]]:
        """What is carried, and what was stripped: paths, or the folder that is stripped whole. Raises `ValueError` past `limit_bytes`."""
        carried: dict[str, bytes] = {}
        stripped: dict[str, None] = {}
        for path in sorted(files):
            if self._carries(path):
                carried[path] = files[path]
            else:
                stripped[self._folder(path) or path] = None
        size = sum(map(len, carried.values()))
        if size > self.limit_bytes:
            raise ValueError(f"the solution has {size} bytes; at most {self.limit_bytes} are graded")
        return carried, tuple(stripped)

    def _folder(self, path: str) -> str:
        *folders, _ = path.split("/")
        at = next((at for at, folder in enumerate(folders) if _any(folder, self.folders)), None)
        return "" if at is None else "/".join(folders[: at + 1]) + "/"

    def _carries(self, path: str) -> bool:
        name = path.rpartition("/")[2]
        return _any(path, self.wanted) and not name.startswith(".") and not _any(name, self.names) and not self._folder(path)


def _any(text: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns)
