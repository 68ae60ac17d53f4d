"""SIGKILL to rollout, engine, trainer or all of them at random moments: is anything lost or repeated?

    python benchmarks/kill.py [--kills 200] [--short] [--guest]

`--guest`: every attempt is that of an agent in a process of its own. Its gateway lives in the rollout
process, so the kinds of kill are `guest`, one agent's process; `gateway`, the rollout process while it serves
an agent; `rollout`, the same process at any moment; and, more rarely, the others. An agent's process that
outlives its rollout process is left over.

A decoupled run recovers by itself from losing its engine or trainer; without its rollout process it is
resumed; when it has ended, another one starts. In an ended run every RL step must exist once. A group in two
steps is duplicated; a group that was in flight at the checkpoint of a resume and is in no step is lost. The
moments are uniform over the rest of a typical run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from agito.errors import WorkerDied
from agito.record import RunDir, RunState, read_trajectories
from agito.record.events import Recovered, read_events
from harness import Json, report, spread

_STEPS, _GROUPS = 12, 2
_AGENT = Path(__file__).parents[1] / "tests" / "gateway" / "peers" / "plain.py"
_OVERRIDES = (
    "env.name=agito.testing:FakeEnvironment",
    "env.levels=[1]",
    "compute.ranks=2",
    "compute.max_num_seqs=16",
    "compute.context=192",
    "model.hidden_size=32",
    "model.intermediate_size=64",
    "model.num_layers=1",
    "sft.demos=200",
    "sft.tokenizer_episodes=24",
    "sft.epochs=1",
    f"rl.steps={_STEPS}",
    f"rl.groups={_GROUPS}",
    "rl.group_size=4",
    "rl.checkpoint_every=1",
    "eval.tasks=8",
    "eval.structural_tasks=0",
    "eval.baseline_tasks=0",
    'pipeline.mode="decoupled"',
    "pipeline.max_staleness=2",
)
_GUEST_OVERRIDES = (
    'env.dialect="natural"',
    "compute.context=1024",
    "model.vocab_size=400",
    "sft.demos=16",
    "monitor.void_limit=0.24",  # a guest killed before it asks anything is void, and here that is our doing
    f'harness.command="/usr/bin/python3 {_AGENT.name}"',
    f'harness.folder="{_AGENT.parent}"',
)
_ROLES = ("rollout", "trainer", "engine", "all")
_GUEST_ROLES = (*(("guest", "gateway", "rollout") * 3), "trainer", "engine", "all")
_GUEST_S, _LOOK_S = 5.0, 0.005  # for a guest to begin, or to end with its run
_DEADLINE_S = 300.0


def start(run: Path, more: Sequence[str]) -> subprocess.Popen[bytes]:
    words = ["--resume", str(run)] if (run / "run.json").exists() else ["quickstart", "--out", str(run)]
    said = [] if words[0] == "--resume" else [*_OVERRIDES, *more]
    sets = [word for override in said for word in ("--set", override)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (run.parent / "said").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "agito.cli", "train", *words, *sets],
            env=environment,
            stdout=said,
            stderr=said,
        )


def workers(owner: int) -> list[int]:
    """The trainer's process, then the engines'; empty before they are up."""
    ranks, parents = dict[int, int](), dict[int, int]()
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            head, _, tail = (directory / "stat").read_text().rpartition(")")
        except OSError:
            continue
        parents[int(directory.name)] = int(tail.split()[1])
        name = head.partition("(")[2]
        if name.startswith("agito-worker-"):
            ranks[int(directory.name)] = int(name.rpartition("-")[2])
    ours = {rank: pid for pid, rank in ranks.items() if parents.get(parents[pid]) == owner}
    return [ours[rank] for rank in sorted(ours)]


def guests() -> list[int]:
    """Processes of agents, wherever they run."""
    found = list[int]()
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0] == b"/usr/bin/python3" and _AGENT.name.encode() in words:
            found.append(int(directory.name))
    return found


def await_guests(holds: Callable[[list[int]], bool]) -> list[int]:
    """Those there are once it holds, or has not held for long."""
    ends = time.monotonic() + _GUEST_S
    while not holds(found := guests()) and time.monotonic() < ends:
        time.sleep(_LOOK_S)
    return found


def strike(process: subprocess.Popen[bytes], role: str) -> bool:
    """Whether the run goes on by itself."""
    found = workers(process.pid)
    if role == "guest":
        for pid in guests()[:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return True
    victims = {
        "rollout": [process.pid],
        "gateway": [process.pid],
        "trainer": found[:1],
        "engine": found[1:],
        "all": [*found, process.pid],
    }[role]
    for pid in victims or [process.pid]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    if process.pid not in (victims or [process.pid]):
        return True
    process.wait(timeout=_DEADLINE_S)
    return False


def check(run: Path) -> tuple[int, int]:
    """(lost, duplicated) of an ended run."""
    steps = [read_trajectories(path) for path in sorted((run / "trajectories").glob("rl-*.parquet"))]
    looked_at = Counter(
        group for step in steps for group in {each.attempt.trajectory.attempt.group for each in step}
    )
    missing = _STEPS * _GROUPS - len(looked_at)
    reissued: set[int] = set()
    for line in (run / "schedule.jsonl").read_text().splitlines():
        _, name, value = json.loads(line)
        if name == "flow":
            reissued |= set(value["reissued"])
    with sqlite3.connect(run / "ledger.sqlite") as ledger:
        twice = ledger.execute(
            "SELECT count(*) FROM (SELECT 1 FROM attempts WHERE consumed_in IS NOT NULL GROUP BY grp, slot "
            "HAVING count(*) > 1)"
        )
        num_twice = int(twice.fetchone()[0])
    return max(missing, 0) + len(reissued - looked_at.keys()), sum(
        count - 1 for count in looked_at.values()
    ) + num_twice


def undisturbed(run: Path, overrides: tuple[str, ...]) -> tuple[float, int, int]:
    """Seconds of a run that nobody kills, and what `check` finds of it."""
    began = time.monotonic()
    ended = start(run, overrides).wait(timeout=_DEADLINE_S)
    assert ended == 0, (run.parent / "said").read_text()[-2000:]
    usual_s, found = time.monotonic() - began, check(run)
    shutil.rmtree(run)
    return usual_s, *found


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--short", action="store_true", help="8 kills")
    parser.add_argument("--guest", action="store_true", help="through an agent's own process")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    wanted, rng = 8 if options.short else options.kills, random.Random(0)
    home = Path(tempfile.mkdtemp(prefix="agito-kill-"))
    run = home / "run"
    overrides, roles = (_GUEST_OVERRIDES, _GUEST_ROLES) if options.guest else ((), _ROLES)
    usual_s, lost, duplicated = undisturbed(run, overrides)
    kills, runs, recovered, given_up, last_s = Counter[str](), 1, 0, 0, list[float]()
    left_over, is_served = 0, Counter[str]()
    process: subprocess.Popen[bytes] | None = None
    while kills.total() < wanted or run.exists():
        process, began = process or start(run, overrides), time.monotonic()
        try:
            status = process.wait(
                timeout=rng.uniform(0.1, 0.9) * usual_s if kills.total() < wanted else _DEADLINE_S
            )
        except subprocess.TimeoutExpired:
            assert kills.total() < wanted, (
                f"nothing has happened for {_DEADLINE_S:.0f} s: {(home / 'said').read_text()[-2000:]}"
            )
            role = rng.choice(roles)
            kills[role] += 1
            if role in ("guest", "gateway"):
                await_guests(lambda found: bool(found))
            is_served[role] += bool(guests())
            process = process if strike(process, role) else None
            if process is None:
                left_over += len(await_guests(lambda found: not found))
            continue
        process = None
        if status == WorkerDied.exit_code:  # killed at the same place again and again
            said = (home / "said").read_text()
            assert "SIGKILL" in said.splitlines()[-1], said[-2000:]
            given_up += 1
            continue
        # perhaps killed after finishing, and then not resumed
        is_finished = RunDir.state(run) is RunState.FINISHED
        assert status == 0 or is_finished, (home / "said").read_text()[-2000:]
        last_s.append(time.monotonic() - began)
        recovered += sum(isinstance(event, Recovered) for event in read_events(run / "events.jsonl"))
        more = check(run)
        lost, duplicated, runs = lost + more[0], duplicated + more[1], runs + 1
        shutil.rmtree(run)
        print(f"{kills.total()} kills, {runs} runs, {lost} lost, {duplicated} duplicated", flush=True)
    shutil.rmtree(home)
    figures = {"kills": kills.total(), "lost": lost, "duplicated": duplicated}
    if options.guest:
        figures["left_over"] = left_over
    detail: dict[str, Json] = {
        "by_role": dict(kills),
        **({"while_a_guest_was_alive": dict(is_served)} if options.guest else {}),
        "runs": runs,
        "went_on_by_itself": recovered,
        "given_up": given_up,
        "usual_s": round(usual_s, 1),
        "last_stretch_s": spread(last_s),
    }
    report("kill_guest" if options.guest else "kill", figures, detail)


if __name__ == "__main__":
    main()
