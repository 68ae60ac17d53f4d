"""Planted faults of environments: which of them does the short audit refuse, and does it refuse a sound one?

    python benchmarks/audit_kinds.py [--short] [--seeds 5] [--only CLASS]...

Every environment of `benchmarks/planted/` (see the README there) is audited under every seed. A planted one counts as caught when the card
refuses it under that seed. The last line is a JSON object: `caught` of `planted` (environments times seeds), `false_alarms` (refusals of
sound ones), `missed` (names, with the seeds). Targets: caught at least 95 %, no false alarm.
"""

from __future__ import annotations

import argparse
import ast
from dataclasses import dataclass
from pathlib import Path

PLANTED = Path(__file__).parent / "planted"
SOUND = "sound"
KINDS = (
    "told", "encoded", "constant", "coin", "clock", "overlap", "serial", "levels", "file", "shared", "void", "unreachable", "open_loop",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One environment of the collection. `path` and `name` say how it is loaded."""

    folder: str
    path: Path
    name: str
    kind: str

    @property
    def target(self) -> str:
        return f"{self.path}:{self.name}"


def collection() -> list[Entry]:
    """Every class whose own body sets `KIND`, in a fixed order. Raises `ValueError` for an unknown kind, or one in the wrong folder."""
    found: list[Entry] = []
    for path in sorted(PLANTED.glob("*/*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            kind = _kind(node) if isinstance(node, ast.ClassDef) else None
            if not isinstance(node, ast.ClassDef) or kind is None:
                continue
            known = (SOUND,) if path.parent.name == SOUND else KINDS
            if kind not in known:
                raise ValueError(f"{path}:{node.name}: KIND={kind!r} is not among {', '.join(known)}")
            found.append(Entry(folder=path.parent.name, path=path, name=node.name, kind=kind))
    return found


def _kind(node: ast.ClassDef) -> str | None:
    for line in node.body:
        if isinstance(line, ast.Assign) and any(isinstance(target, ast.Name) and target.id == "KIND" for target in line.targets):
            return ast.literal_eval(line.value)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.parse_args()
    for entry in collection():
        print(f"{entry.folder}/{entry.kind}: {entry.target}")


if __name__ == "__main__":
    main()
