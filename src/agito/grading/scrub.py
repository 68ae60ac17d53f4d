"""A workspace without history: removes what may hold the answer, and replaces the git history by one orphan
commit in a new object store.

A list of removals is never complete. So the answer is then searched for from inside the sandbox
(`agito.grading.probe`); if anything is still reachable, no episode begins.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agito.errors import AnswerReachable
from agito.grading.gitstore import Commit, repository
from agito.grading.probe import probe
from agito.protocols import Sandbox

FOLDERS = (
    ".git",
    ".hg",
    ".svn",
    ".jj",
    "__pycache__",
    ".*_cache",
    ".cache",
    ".tox",
    ".nox",
    ".venv",
    "venv",
    "site-packages",
    "dist",
    "build",
    "*.egg-info",
    "*.dist-info",
    ".eggs",
    ".idea",
    ".vscode",
    ".ipynb_checkpoints",
    "htmlcov",
    ".agito",
    ".claude",
    ".aider*",
)
FILES = (
    "*.py[cod]",
    "*.whl",
    "*.egg",
    "*.tar",
    "*.tar.*",
    "*.tgz",
    "*.gz",
    "*.log",
    "*.out",
    "*.sw[op]",
    "*~",
    "#*#",
    "*.orig",
    "*.rej",
    "*.bak",
    "*.patch",
    "*.diff",
    ".coverage*",
    ".DS_Store",
    ".*_history",
    "core",
    "core.[0-9]*",
    "reward*",
    "verdict*",
    "trajectory*",
    ".gitmodules",
    ".git",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrubbed:
    """A clean workspace for an episode, and what was removed from it."""

    files: dict[str, bytes]
    removed: tuple[str, ...]


def scrub(files: Mapping[str, bytes], *, keep: Sequence[str] = (), message: str = "start") -> Scrubbed:
    """`keep` are globs of paths that stay whatever they look like. Links are never part of `files`."""
    kept = {path: data for path, data in files.items() if _any(path, keep) or not _is_remains(path)}
    removed = tuple(path for path in sorted(files) if path not in kept)
    return Scrubbed(files=kept | repository([Commit(message=message, tree=kept)]), removed=removed)


async def prove(
    sandbox: Sandbox, answers: Sequence[str | bytes], *, one_commit: bool = True, libraries: bool = True
) -> None:
    """Searches every surface that an episode in `sandbox` can reach for each answer. Raises `AnswerReachable`
    naming the places.

    Answers shorter than 8 bytes occur by chance and are refused with `ValueError`: give the lines around
    them. The options are those of `probe`.
    """
    needles = [answer.encode() if isinstance(answer, str) else answer for answer in answers]
    if not needles or min(map(len, needles)) < 8:
        raise ValueError(
            "answers: give at least one, each of 8 bytes or more, such as the whole body of the reference"
        )
    found = await probe(sandbox, needles, one_commit=one_commit, libraries=libraries)
    if found:
        raise AnswerReachable(
            f"the hidden answer can be reached: {'; '.join(found[:8])}; remove it before an episode begins"
        )


def _is_remains(path: str) -> bool:
    *folders, name = path.split("/")
    return any(_any(folder, FOLDERS) for folder in folders) or _any(name, FILES)


def _any(text: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns)
