"""Bit-for-bit comparison of learning: losses, final weights and summaries of every bundled recipe, shortened.

    python benchmarks/identical.py [--against COMMIT] [--only NAME]... [--short] [--runs DIR]
    python benchmarks/identical.py --record COMMIT

Each recipe is trained twice, on-policy and decoupled, with a few hundred demonstrations and three RL steps.
Decoupled runs have staleness 0 here: a batch then depends only on content, and the native forward pass makes
rows independent of their neighbours, so everything repeats. Digests of one commit, for each kind of machine
recorded with `--record`, are in `identical.json`; bits are comparable only for one kind of processor, one
torch and one compiler. With `--against`, or on another kind of machine, the other commit is trained too, in a
temporary worktree; then this tree also repeats the learning of a decoupled run with staleness 2 of that
commit from its recorded tokens. The last line gives the number of recipes, how many are equal, and what
differs. Exit code 1 if anything does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

from harness import Json

ROOT = Path(__file__).parents[1]
DIGESTS = Path(__file__).with_name("identical.json")
SIZES = (
    "sft.demos=320",
    "sft.tokenizer_episodes=60",
    "rl.steps=3",
    "rl.groups=8",
    "rl.group_size=4",
    "rl.checkpoint_every=2",
    "eval.tasks=24",
    "eval.structural_tasks=12",
    "eval.baseline_tasks=4",
)
MODES = {"on_policy": (), "decoupled": ("pipeline.mode=decoupled", "pipeline.max_staleness=0")}
STALE = ("pipeline.mode=decoupled", "pipeline.max_staleness=2", "rl.steps=5")
LOSSES = (
    "sft/loss_nats",
    "policy/loss",
    "train/grad_norm",
    "reward/mean",
    "tokens/sampled_num",
    "tokens/trained_num",
)
OF_THE_MACHINE = frozenset(  # entries of a summary that depend on the machine or the source
    {
        "schema_version",
        "commit",
        "admission",
        "isolation_tier",
        "wall_s",
        "cpu_s",
        "load",
        "stolen_ratio",
        "phase_wall_s",
        "phase_cpu_s",
        "tool_cpu_ms_p50",
    }
)
# renamed metrics and summary keys: old name → new name
RENAMES: Mapping[str, str] = {}
# keys of recipes by what they were called before
FORMER_RECIPES = {"shell-full": "shell"}  # former name → name
FORMER_KEYS = {"sft.tokenizer_episodes": "sft.survey"}
_SHORT = ("smoke", "desk")
_DEADLINE_S = 300.0  # per run

Digest: TypeAlias = dict[str, str]  # `losses`, `weights` and, by name, each entry of the summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A checkout whose `agito` is run."""

    root: Path

    def recipes(self) -> list[str]:
        recipes = (self.root / "src/agito/recipes").glob("*.toml")
        return sorted(
            path.stem for path in recipes if "path" not in tomllib.loads(path.read_text()).get("model", {})
        )

    def agito(self, *words: str) -> str:
        """The command's output. Raises `RuntimeError` with the end of its error output if it fails."""
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment = {**kept, "PYTHONPATH": str(self.root / "src"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "agito.cli", *words]
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_DEADLINE_S,
        )
        if done.returncode:
            raise RuntimeError(f"agito {' '.join(words[:2])}: {(done.stderr or done.stdout).strip()[-400:]}")
        return done.stdout

    def key(self, name: str) -> str:
        """What this tree calls a key."""
        former, said = FORMER_KEYS.get(name), (self.root / "src/agito/recipe.py").read_text()
        return former if former and f"    {name.rpartition('.')[2]}: " not in said else name

    def train(self, recipe: str, out: Path, overrides: Sequence[str]) -> Digest:
        pairs = [override.partition("=") for override in overrides]
        self.agito(
            "train",
            recipe if recipe in self.recipes() else FORMER_RECIPES.get(recipe, recipe),
            "--out",
            str(out),
            *(word for name, _, value in pairs for word in ("--set", f"{self.key(name)}={value}")),
        )
        return digest(out)


def digest(run: Path, renames: Mapping[str, str] = RENAMES) -> Digest:
    """A hash of a finished run's results, without anything that depends on clock or machine."""
    steps = [renamed(json.loads(line), renames) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [[step["phase"], step["step"], *(step.get(name) for name in LOSSES)] for step in steps]
    summary = renamed(json.loads((run / "summary.json").read_text()), renames)
    weights = json.loads((run / "checkpoints/final/manifest.json").read_text())["tensors"]
    assert any(step.get("sft/loss_nats") is not None for step in steps), (
        f"{run}: no loss of imitation is in metrics.jsonl"
    )
    found = {"losses": _hash(losses), "weights": _hash(weights)}
    return found | {
        f"summary.{name}": _hash(value) for name, value in summary.items() if not _is_of_the_machine(name)
    }


def _is_of_the_machine(name: str) -> bool:
    return name in OF_THE_MACHINE or name.endswith(("_low", "_high"))  # an interval follows from its rate


def renamed(values: Mapping[str, Json], renames: Mapping[str, str]) -> dict[str, Json]:
    return {renames.get(name, name): value for name, value in values.items()}


def differences(before: Digest, now: Digest, renames: Mapping[str, str] = RENAMES) -> list[str]:
    """Entries of `before` that `now` lacks or contradicts. New summary entries do not count."""
    expected = {_renamed_entry(name, renames): value for name, value in before.items()}
    return [name for name, value in expected.items() if now.get(name) != value]


def _renamed_entry(name: str, renames: Mapping[str, str]) -> str:
    plain = name.removeprefix("summary.")
    return name if plain == name else f"summary.{renames.get(plain, plain)}"


def _hash(value: object) -> str:
    """Every digit of a number counts."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def machine_kind() -> str:
    """Everything that the bits depend on."""
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = hashlib.sha256(fields.get("flags", fields.get("Features", "")).encode()).hexdigest()[:8]
    cpu = " ".join(fields.get(name, "") for name in ("model name", "cpu family", "model", "stepping"))
    try:
        compiler = subprocess.run(
            ["cc", "--version"], capture_output=True, text=True, timeout=10, check=False
        ).stdout.splitlines()[0]
    except (OSError, IndexError):
        compiler = "no cc"
    return f"{cpu} flags {flags}; torch {version('torch')}; tokenizers {version('tokenizers')}; {compiler}"


@contextmanager
def checkout(commit: str) -> Iterator[Tree]:
    with tempfile.TemporaryDirectory(prefix="agito-identical-") as directory:
        root = Path(directory) / "tree"
        subprocess.run(
            ["git", "-C", str(ROOT), "worktree", "add", "--detach", str(root), commit],
            check=True,
            capture_output=True,
        )
        try:
            yield Tree(root=root)
        finally:
            subprocess.run(
                ["git", "-C", str(ROOT), "worktree", "remove", "--force", str(root)],
                check=True,
                capture_output=True,
            )


def trained(tree: Tree, name: str, runs: Path) -> dict[str, Digest]:
    """By mode."""
    return {
        mode: tree.train(name, runs / f"{name}-{mode}", (*SIZES, *overrides))
        for mode, overrides in MODES.items()
    }


def relearned(before: Tree, now: Tree, runs: Path) -> list[str]:
    """Whether `now` learns the same from the recorded tokens of a run of `before`."""
    before.train("smoke", runs / "stale", (*SIZES, *STALE))
    try:
        said = now.agito("replay", str(runs / "stale"), "--updates")
    except RuntimeError as error:
        return [f"stale: {error}"]
    return [] if re.match(r"identical  weights of .*final", said) else [f"stale: {said}"]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--against", metavar="COMMIT", help="train this commit too, instead of reading digests"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="a recipe; again for more"
    )
    parser.add_argument("--short", action="store_true", help=f"only {' and '.join(_SHORT)}")
    parser.add_argument("--runs", type=Path, help="where the runs are kept; otherwise they are removed")
    parser.add_argument(
        "--record", metavar="COMMIT", help="keep the digests of this commit, to compare with from now on"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="agito-identical-") as directory:
        runs = options.runs or Path(directory)
        if options.record:
            return record(options.record, runs)
        return compare(runs, options.only or list(_SHORT if options.short else ()), options.against)


def record(commit: str, runs: Path) -> int:
    stored, kind = _stored(), machine_kind()
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", commit], capture_output=True, text=True, check=True
    ).stdout.strip()
    with checkout(commit) as tree:
        found = {name: trained(tree, name, runs) for name in tree.recipes()}
    others = stored["machines"] if stored["commit"] == commit else {}
    DIGESTS.write_text(
        json.dumps({"commit": commit, "machines": {**others, kind: found}}, indent=1, sort_keys=True) + "\n"
    )
    print(json.dumps({"recipes": len(found), "recorded": commit}))
    return 0


def _stored() -> dict[str, Any]:
    return json.loads(DIGESTS.read_text()) if DIGESTS.exists() else {"commit": "", "machines": {}}


def compare(runs: Path, only: Sequence[str], against: str | None) -> int:
    here, kind, stored = Tree(root=ROOT), machine_kind(), _stored()
    known: dict[str, dict[str, Digest]] = stored["machines"].get(kind, {})
    if against is None and not known:
        against = str(stored["commit"])
        print(
            f"no digests for this kind of machine ({kind}): comparing with {against[:12]}, which is "
            "trained too",
            flush=True,
        )
    if against is None:
        found = {name: compared(name, known.get(name, {}), here, runs) for name in only or sorted(known)}
    else:
        with checkout(against) as before:
            found = {
                name: compared(name, trained(before, name, runs / "before"), here, runs / "now")
                for name in only or before.recipes()
            }
            if former := [name for name in FORMER_KEYS if before.key(name) != name]:
                print(f"not learned again: runs of before {', '.join(former)} cannot be read")
            else:
                found["smoke"] = found.get("smoke", []) + relearned(before, here, runs)
    if new := sorted(set(here.recipes()) - set(found)) if not only else []:
        print(f"not compared, for they are new: {', '.join(new)}")
    figures = {
        "recipes": len(found),
        "equal": sum(not each for each in found.values()),
        "differences": [f"{name}/{each}" for name, all_of_it in found.items() for each in all_of_it],
    }
    print(f"machine: {kind}\n{json.dumps(figures)}")
    return 1 if figures["differences"] else 0


def compared(name: str, before: Mapping[str, Digest], here: Tree, runs: Path) -> list[str]:
    """Differences by mode. A recipe that is gone, or no longer runs, differs."""
    found: list[str] = []
    for mode, overrides in MODES.items():
        if mode not in before:
            found.append(f"{mode}: nothing to compare with")
            continue
        try:
            now = here.train(name, runs / f"{name}-{mode}", (*SIZES, *overrides))
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            found.append(f"{mode}: {error}")
            continue
        found += [f"{mode}: {each}" for each in differences(before[mode], now)]
    print(f"{name}: {'; '.join(found) or 'equal'}", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
