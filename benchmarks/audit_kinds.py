"""Planted faults: which faulty environments does the short audit refuse, and does it accept the sound ones?

    python benchmarks/audit_kinds.py [--short] [--seeds 5] [--seconds 25] [--only CLASS]...

Every environment of `benchmarks/planted/` (see the README there) is audited with every seed. A planted fault
counts as caught if the card refuses the environment with that seed. An audit takes fewer samples when its
time runs out; on a shared machine, raise `--seconds`. The last line is a JSON object: `caught` of `planted`
(environments times seeds), `false_alarms` (sound ones refused), `missed` (names, with seeds). Targets: at
least 95 % caught, no false alarm.
"""

from __future__ import annotations

import argparse
import ast
import json
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from agito.audit import SHORT, audit
from agito.audit.run import SEED
from agito.concurrency import run
from agito.envs import load
from agito.errors import AgitoError
from harness import Json, report, spread

PLANTED = Path(__file__).parent / "planted"
SOUND = "sound"
KINDS = (
    "told",
    "encoded",
    "constant",
    "coin",
    "clock",
    "overlap",
    "serial",
    "levels",
    "file",
    "shared",
    "void",
    "unreachable",
    "open_loop",
)


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
    """Every class whose own body sets `KIND`, in a fixed order. Raises `ValueError` for an unknown kind, or
    one in the wrong folder.
    """
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
        if isinstance(line, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "KIND" for target in line.targets
        ):
            return ast.literal_eval(line.value)
    return None


def judged(job: tuple[str, int, float]) -> tuple[float, int, dict[str, str]]:
    """Seconds, episodes, and the failing gates with their findings, from the short audit as `agito train`
    runs it.
    """
    target, seed, seconds = job
    began = time.perf_counter()
    try:
        card = run(lambda: audit(lambda: load(target), depth=replace(SHORT, seconds=seconds), seed=seed))
    except AgitoError as error:  # what cannot even be audited is refused
        return time.perf_counter() - began, 0, {type(error).__name__: str(error)}
    return time.perf_counter() - began, card.episodes, {gate.name: gate.found for gate in card.failed}


@dataclass(slots=True)
class Findings:
    """What the audits came to."""

    missed: dict[str, list[int]] = field(default_factory=dict[str, list[int]])  # seeds by environment
    alarms: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    seconds: list[float] = field(default_factory=list[float])
    gates: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter[str]))
    by_kind: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter[str]))

    def add(self, entry: Entry, seed: int, took_s: float, failed: dict[str, str]) -> None:
        self.seconds.append(took_s)
        self.gates[entry.kind].update(list(failed))
        self.by_kind[entry.kind]["audits"] += 1
        self.by_kind[entry.kind]["refused"] += bool(failed)
        if entry.kind == SOUND and failed:
            self.alarms[f"{entry.name}/{seed}"] = failed
        elif entry.kind != SOUND and not failed:
            self.missed.setdefault(f"{entry.folder}/{entry.name}", []).append(seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="one seed")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=SHORT.seconds, help="of one audit, at most")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", action="append", default=[], help="a class, a kind or a folder")
    options = parser.parse_args()
    entries = [
        each
        for each in collection()
        if not options.only or {each.name, each.kind, each.folder} & set(options.only)
    ]
    jobs = [
        (each, SEED + 101 * number)
        for number in range(1 if options.short else options.seeds)
        for each in entries
    ]
    found = Findings()
    with ProcessPoolExecutor(options.workers) as pool:
        for (entry, seed), (took, episodes, failed) in zip(
            jobs, pool.map(judged, [(each.target, seed, options.seconds) for each, seed in jobs]), strict=True
        ):
            found.add(entry, seed, took, failed)
            sign = "WRONG" if bool(failed) == (entry.kind == SOUND) else "     "
            print(
                f"{sign} {entry.kind:12} {entry.name:24} {took:5.1f} s {episodes:6} "
                f"{', '.join(failed) or 'fit'}",
                flush=True,
            )
    planted = sum(each.kind != SOUND for each, _ in jobs)
    figures: dict[str, Json] = {
        "caught": planted - sum(map(len, found.missed.values())),
        "planted": planted,
        "false_alarms": len(found.alarms),
        "missed": {name: list(seeds) for name, seeds in found.missed.items()},
    }
    detail: dict[str, Json] = {
        "environments": {
            folder: sum(each.folder == folder for each in entries) for folder in ("known", "blind", "sound")
        },
        "seconds of an audit": spread(found.seconds),
        "seconds that an audit may take": options.seconds,
        "by kind": {kind: dict(counts) for kind, counts in found.by_kind.items()},
        "gates that refused": {kind: dict(counts) for kind, counts in found.gates.items()},
        "alarms": found.alarms,
    }
    if options.only:
        print(json.dumps(figures))
    else:
        report("audit_kinds", figures, detail)


if __name__ == "__main__":
    main()
