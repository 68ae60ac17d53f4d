"""Merging a fork of a workspace: what it changed, and where that clashes with what changed meanwhile.

A path is changed where a file's content is another than when the fork was made, or the file is new or gone.
Modes, links and empty folders are not looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

Files = Mapping[str, bytes]
Changes = Mapping[str, bytes | None]  # None: the file is gone


def changes(base: Files, now: Files) -> Changes:
    """By path, in order."""
    return {path: now.get(path) for path in sorted({*base, *now}) if now.get(path) != base.get(path)}


def conflicts(base: Files, ours: Files, theirs: Changes, *, overwrite: bool = False) -> tuple[str, ...]:
    """Our paths that clash with their changes: those that both sides changed, each otherwise; and files of
    one side where the other has a folder. `overwrite`: of the former, theirs are taken, so they do not clash.
    """
    both = [path for path, content in theirs.items() if ours.get(path) not in (base.get(path), content)]
    merged = {path for path in {*ours, *theirs} if theirs.get(path, ours.get(path)) is not None}
    misplaced = [path for path in merged if not {*_folders(path)}.isdisjoint(merged)]
    clashes = {ours_of for path in misplaced for ours_of in (path, *_folders(path)) if ours_of in ours}
    return tuple(sorted(clashes | (set() if overwrite else {*both})))


def _folders(path: str) -> Collection[str]:
    parts = path.split("/")
    return ["/".join(parts[:at]) for at in range(1, len(parts))]
