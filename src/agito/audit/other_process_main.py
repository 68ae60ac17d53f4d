"""The subprocess of an audit: remakes the environment under another hash seed and a shifted clock, and
repeats the work.

A program: JSON request on standard input, JSON answer on standard output. `other_process.py` defines what is
asked and compared. It is run by path and imports nothing of the audit but the clock, so that it starts fast.
"""

from __future__ import annotations

import base64
import importlib
import importlib.util
import json
import os
import random
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import anyio

from agito.grading.judge import ask
from agito.plugins import reads_file
from agito.protocols import Script
from agito.rollout import EpisodeDriver, scripted
from agito.types import AttemptId, Call, EpisodeArtifacts, Event, Target, Task

_ANY = random.Random(7)  # not the global generator, which an environment may use
_JUMP_S = 600.0  # between the last call and the verdict


def main() -> None:
    # an environment's own prints must not mix with the answer
    request, answers, sys.stdout = json.load(sys.stdin), sys.stdout, sys.stderr
    os.environ["TZ"] = request["zone"]
    time.tzset()
    clock = _clocks().Clock(Path(request["folder"]))
    clock.shift_s = request["shift_s"]
    clock.install()
    try:
        answer = anyio.run(_work, request, clock)
    except Exception as error:  # the boundary: failing to make the environment here is a finding
        answer = {"problem": f"{type(error).__name__}: {error}", "place": traceback.format_exc(limit=-3)}
    json.dump(answer, answers)


def _clocks() -> ModuleType:
    """Loaded by path: importing the package would import the whole audit."""
    spec = importlib.util.spec_from_file_location("audit_clocks", Path(__file__).with_name("clocks.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _load(target: str) -> Any:
    """Loads `module:Class` or `path.py:Class`."""
    where, _, name = target.rpartition(":")
    if not where.endswith(".py"):
        return getattr(importlib.import_module(where), name)()
    module = ModuleType("agito_env_elsewhere")
    module.__file__ = where
    sys.modules[module.__name__] = module
    reads_file.set(where)  # a script that trains when it is read must not train here
    exec(compile(Path(where).read_bytes(), where, "exec"), module.__dict__)
    return getattr(module, name)()


async def _work(request: dict[str, Any], clock: Any) -> dict[str, Any]:
    environment = _load(request["target"])
    ends_at = time.monotonic() + request["seconds"]
    base = clock.shift_s
    try:
        answer: dict[str, Any] = {"tasks": [], "traces": [], "verdicts": []}
        drawn: list[tuple[Task, Target]] = []
        traces: list[dict[str, Any]] = []
        for asked in request["tasks"]:
            clock.shift_s = base + _ANY.uniform(0, 1e5)
            drawn.append(environment.task(**asked))
            answer["tasks"].append(canonical([drawn[-1][0], drawn[-1][1]]))
        for asked in request["traces"]:
            if time.monotonic() > ends_at:
                break
            clock.shift_s = base + _ANY.uniform(0, 1e5)
            traces.append(await _trace(environment, drawn[int(asked["task"])], asked, clock))
        answer["traces"] = traces
        answer["verdicts"] = await _verdicts(environment, request, drawn, clock, ends_at)
        return answer
    finally:
        with anyio.CancelScope(shield=True):
            await environment.aclose()


async def _trace(
    environment: Any, drawn: tuple[Task, Target], asked: dict[str, Any], clock: Any
) -> dict[str, Any]:
    task, target = drawn
    attempt = AttemptId(**asked["attempt"])
    driver = EpisodeDriver(environment, noise_seed=asked["noise"], grade_seed=asked["grade_seed"])

    def script() -> Script:
        for call in asked["calls"]:
            yield Call(**call)

    finished = await driver.run(task, target, attempt, scripted(script, task, attempt), is_graded=False)
    clock.shift_s += _JUMP_S
    verdict = (
        finished.verdict if finished.sealed is None else await driver.grade(finished.sealed, task, target)
    )
    return {"events": [essence(event) for event in finished.trajectory.events], "verdict": repr(verdict)}


async def _verdicts(
    environment: Any, request: dict[str, Any], drawn: list[tuple[Task, Target]], clock: Any, ends_at: float
) -> list[tuple[int, float, str]]:
    """Grades every capture once; then grades the first few at every requested time shift."""
    captures = request["captures"]
    jobs = [(at, _ANY.uniform(0, 1e7)) for at in range(len(captures))]
    jobs += [(at, shift) for shift in request["shifts"] for at in range(min(request["timed"], len(captures)))]
    found: list[tuple[int, float, str]] = []
    for at, shift in jobs:
        if time.monotonic() > ends_at and len(found) >= request["least"]:
            break
        asked = captures[at]
        files = {path: base64.b64decode(data) for path, data in asked["files"].items()}
        sealed = EpisodeArtifacts(files=files, **asked["sealed"])
        clock.shift_s = request["shift_s"] + shift
        verdict = await ask(environment.grade, sealed, drawn[int(asked["task"])][1], request["grade_seed"])
        found.append((at, clock.shift_s, repr(verdict)))
    return found


def essence(event: Event) -> str:
    """What must be equal wherever an episode is replayed: everything but the measured times."""
    return canonical(
        [event.index, event.text, event.exit_code, event.fault, event.ended, event.truncated_bytes]
    )


def canonical(value: object) -> str:
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    """JSON-ready form of any value; sets, which have no order, are sorted."""
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in cast("dict[object, object]", value).items()}
    if isinstance(value, set | frozenset):
        return sorted(map(canonical, cast("set[object]", value)))
    if isinstance(value, list | tuple):
        return [_plain(each) for each in cast("list[object]", value)]
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value if value is None or isinstance(value, str | int | float | bool) else repr(value)


if __name__ == "__main__":
    main()
