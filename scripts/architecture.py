"""Draws the rooms of `src/agito/` and their imports into `docs/architecture.md`; `--check` only compares.

Rooms are placed in the layers of `.importlinter`, entry points at the top. An arrow implied by a longer path
is left out.
"""

from __future__ import annotations

import argparse
import configparser
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/architecture.md"
BEGIN, END = "<!-- drawn by scripts/architecture.py -->", "<!-- end of the drawing -->"


def layers() -> list[list[str]]:
    """Rooms by layer, highest first."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / ".importlinter")
    lines = settings["importlinter:contract:layers"]["layers"].split("\n")
    return [[room.strip(" ()") for room in line.split("|")] for line in lines if line.strip()]


def imports() -> dict[str, set[str]]:
    """For each room, the rooms that its modules import."""
    graph = grimp.build_graph("agito", cache_dir=None)
    found: dict[str, set[str]] = defaultdict(set)
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            ours, theirs = _room(module), _room(imported)
            if ours and theirs and ours != theirs:
                found[ours].add(theirs)
    return found


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def reduced(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Without the edges that a longer path implies."""

    def reached(room: str) -> set[str]:
        return set().union(*({each} | reached(each) for each in graph.get(room, ())))

    return {
        room: {each for each in direct if not any(each in reached(other) for other in direct - {each})}
        for room, direct in graph.items()
    }


def drawing() -> str:
    rows = layers()
    lines = ["```mermaid", "flowchart TD"]
    for number, row in enumerate(rows):
        lines.append(f'  subgraph L{number}[" "]')
        lines += [f"    {room}" for room in row]
        lines.append("  end")
    edges = reduced(imports())
    order = [room for row in rows for room in row]
    lines += [
        f"  {room} --> {each}" for room in order for each in sorted(edges.get(room, ()), key=order.index)
    ]
    return "\n".join([BEGIN, *lines, "```", END])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="say whether the page shows the code as it is")
    options = parser.parse_args()
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    wanted = before + drawing() + rest.partition(END)[2]
    if options.check:
        if text != wanted:
            print(
                "docs/architecture.md: the drawing is not of this code; run python scripts/architecture.py",
                file=sys.stderr,
            )
        return int(text != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
