"""Tests whether an environment behaves the same in other processes, under other hash seeds and clocks.

Two subprocesses (see `other_process_main.py`) replay and regrade what this process did. There the
environment's modules read a shifted clock: by every second of a minute, by hours, days, months and years, and
by ten minutes more between the last call and the verdict.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anyio

from agito.audit import limits
from agito.audit.card import Case, Gate
from agito.audit.episode import Drawn, Episode
from agito.audit.episode_runner import GRADE_SEED, EpisodeRunner
from agito.audit.other_process_main import canonical, essence
from agito.plugins import is_made_here
from agito.protocols import Environment
from agito.types import EpisodeArtifacts

_AWAY = Path(__file__).with_name("other_process_main.py")
_YEAR_S = 365.25 * 86_400
_PROCESSES: Sequence[tuple[int, float, str]] = (
    (1, 1.37 * _YEAR_S, "Pacific/Kiritimati"),
    (4_242, -2.61 * _YEAR_S, "Etc/GMT+12"),
)
_CAPTURES, _TIMED, _LEAST = 400, 4, 6
_START_S = 20.0  # to start a process and make the environment there


@dataclass(slots=True)
class Compared:
    """How many comparisons were made, and how many differed."""

    num: int = 0
    differs: int = 0
    problem: str = ""

    def note(self, is_equal: bool, case: Case, cases: list[Case]) -> None:
        self.num += 1
        self.differs += not is_equal
        if not is_equal and self.differs <= 3:
            cases.append(case)


async def run_elsewhere(
    runner: EpisodeRunner, acted: Sequence[Episode], episodes: Sequence[Episode], cases: list[Case]
) -> Gate:
    """The captures of `episodes` are graded again; `acted` are replayed."""
    compared = Compared()
    where = _where(type(runner.environment))
    if where is None:
        return _gate(
            compared,
            "no other process can make it: that takes a class at the top of a module, without arguments; not "
            "measured",
        )
    acted = [episode for episode in acted if not episode.is_void]
    captures = [
        episode
        for episode in episodes
        if episode.sealed is not None and not episode.problem and not episode.is_void
    ][: runner.depth.of(_CAPTURES, least=_LEAST)]
    drawn = list(
        {episode.task.id: (episode.task, episode.target) for episode in (*captures, *acted)}.values()
    )
    arguments = [runner.arguments[task.id] for task, _ in drawn]
    at = {task.id: number for number, (task, _) in enumerate(drawn)}
    request: dict[str, Any] = {
        **where,
        "tasks": arguments,
        "seconds": runner.seconds_left,
        "grade_seed": GRADE_SEED,
        "timed": _TIMED,
        "least": _LEAST,
        "shifts": _shifts(runner.seed),
        "traces": [_asked(each, at) for each in acted],
        "captures": [
            {"task": at[episode.task.id], **_packed(episode.sealed)} for episode in captures if episode.sealed
        ],
    }
    found: dict[int, Mapping[str, Any]] = {}

    async def one_process(number: int, hash_seed: int, shift_s: float, zone: str) -> None:
        found[number] = await _ask({**request, "shift_s": shift_s, "zone": zone}, hash_seed)

    async with anyio.create_task_group() as processes:
        for number, (hash_seed, shift_s, zone) in enumerate(_PROCESSES):
            processes.start_soon(one_process, number, hash_seed, shift_s, zone)
    for number in sorted(found):
        _compare(found[number], drawn, acted, captures, compared, cases)
    return _gate(compared, "")


def _compare(
    answer: Mapping[str, Any],
    drawn: Sequence[Drawn],
    acted: Sequence[Episode],
    captures: Sequence[Episode],
    compared: Compared,
    cases: list[Case],
) -> None:
    if answer.get("problem"):
        compared.problem = f"{answer['problem']}"
        cases.append(
            Case(what=f"in another process: {answer['problem']}", where=str(answer.get("place", ""))[-200:])
        )
        compared.differs += 1
        return
    for (task, key), said in zip(drawn, answer["tasks"], strict=True):
        case = Case(
            what="in another process, at another time, the same arguments give another task", where=task.id
        )
        compared.note(said == canonical([task, key]), case, cases)
    traces: list[dict[str, Any]] = answer["traces"]
    for number, said in enumerate(traces):
        episode = acted[number]
        ours, theirs = [essence(event) for event in episode.events], said["events"]
        place = next((at for at, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
        what = (
            f"call {place} is answered {theirs[place][:80]}, here {ours[place][:80]}"
            if place is not None
            else "the number of events"
        )
        compared.note(
            ours == theirs,
            Case(what=f"acted in another process, at another time: {what}", where=episode.task.id),
            cases,
        )
        what = (
            f"the verdict ten minutes after the last call is {said['verdict'][:120]}, here "
            f"{episode.verdict!r}"
        )[:260]
        compared.note(
            ours != theirs or said["verdict"] == repr(episode.verdict),
            Case(what=what, where=episode.task.id),
            cases,
        )
    for number, shift_s, said in answer["verdicts"]:
        episode = captures[int(number)]
        what = (
            f"one capture, graded in another process {shift_s / 86_400:+.2f} days from now: "
            f"{said[:120]}, here {episode.verdict!r}"
        )[:260]
        compared.note(said == repr(episode.verdict), Case(what=what, where=episode.task.id), cases)


def _gate(compared: Compared, skipped: str) -> Gate:
    found = (
        skipped
        or (f"in another process: {compared.problem}" if compared.problem else "")
        or f"{compared.differs} of {compared.num} tasks, episodes and verdicts come out differently in "
        "another process, at another time"
    )
    return Gate(
        name="clock",
        value=None if skipped else float(compared.differs),
        limit=limits.ELSEWHERE,
        holds=not compared.differs,
        found=found,
        remedy="let tasks, worlds and verdicts depend on their arguments alone: no clock, no hash(), no "
        "id(), no memory of the process",
    )


def _where(cls: type[Environment]) -> dict[str, str] | None:
    """How another process makes an instance; None if it cannot."""
    if is_made_here(cls):
        return None
    module = sys.modules.get(cls.__module__)
    path = getattr(module, "__file__", None)
    if path is None or not isinstance(getattr(module, cls.__qualname__, None), type):
        return None
    try:
        spec = importlib.util.find_spec(cls.__module__)
    except (ImportError, ValueError):
        spec = None
    is_importable = (
        spec is not None and spec.origin is not None and Path(spec.origin).resolve() == Path(path).resolve()
    )
    target = cls.__module__ if is_importable else str(Path(path).resolve())
    where = Path(path).resolve()
    root = where.parents[cls.__module__.count(".")] if is_importable else where.parent
    return {"target": f"{target}:{cls.__qualname__}", "folder": str(where.parent), "root": str(root)}


def _shifts(seed: int) -> list[float]:
    """Shifts from seconds to years, each with a fraction of a second, ordered so that every scale comes
    early.
    """
    rng = random.Random(seed)
    scales = [
        (1.0, 60),
        (61.0, 60),
        (3_600.0, 24),
        (86_400.0, 31),
        (30.44 * 86_400, 12),
        (_YEAR_S, 20),
        (-_YEAR_S, 6),
    ]
    found = [
        (number + 1, unit * (number + 1) + rng.random()) for unit, most in scales for number in range(most)
    ]
    return [shift for _, shift in sorted(found)]


def _asked(episode: Episode, at: Mapping[str, int]) -> dict[str, Any]:
    calls = [asdict(call) for call in episode.calls]
    return {
        "task": at[episode.task.id],
        "calls": calls,
        "attempt": asdict(episode.attempt),
        "noise": episode.noise,
        "grade_seed": GRADE_SEED,
    }


def _packed(sealed: EpisodeArtifacts) -> dict[str, Any]:
    plain = {"task_id": sealed.task_id, "submitted": sealed.submitted, "digest": sealed.digest}
    return {
        "sealed": plain,
        "files": {path: base64.b64encode(data).decode() for path, data in sealed.files.items()},
    }


async def _ask(request: Mapping[str, Any], hash_seed: int) -> Mapping[str, Any]:
    paths = os.pathsep.join([*(path or str(Path.cwd()) for path in sys.path), str(request["root"])])
    environ = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as errors:
        try:
            with anyio.fail_after(request["seconds"] + _START_S):
                done = await anyio.run_process(
                    [sys.executable, "-P", str(_AWAY)],
                    input=json.dumps(request).encode(),
                    stderr=errors,
                    env=environ,
                    check=False,
                )
        except TimeoutError:
            return {"problem": f"no answer within {request['seconds'] + _START_S:.0f} s"}
        if done.returncode:
            errors.seek(0)
            return {
                "problem": errors.read().decode("utf-8", "replace").strip().splitlines()[-1:]
                or f"it ended with {done.returncode}"
            }
    return json.loads(done.stdout)
