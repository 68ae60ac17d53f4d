"""Worker processes of a process, by what the system says."""

from __future__ import annotations

from pathlib import Path


def workers(owner: int) -> list[tuple[int, int]]:
    """Rank and pid, oldest first."""
    found: list[tuple[int, int, int]] = []
    parents, names, begun = dict[int, int](), dict[int, str](), dict[int, int]()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, tail = stat.read_text().rpartition(")")
        except OSError:
            continue
        pid, fields = int(stat.parent.name), tail.split()
        parents[pid], begun[pid], names[pid] = int(fields[1]), int(fields[19]), head.partition("(")[2]
    for pid, name in names.items():
        server = parents[pid]
        is_ours = parents.get(server) == owner or names.get(server) == f"agito-f-{owner}"
        if name.startswith("agito-worker-") and is_ours:
            found.append((begun[pid], int(name.rpartition("-")[2]), pid))
    return [(rank, pid) for _, rank, pid in sorted(found)]
