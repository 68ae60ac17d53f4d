"""Function tasks: a candidate's function against a reference, case by case, judged where the candidate is not.

The candidate runs in a throwaway box that is given inputs and nothing else: one process for each case, in a random order, killed with
all that it started before the next begins. One plain JSON value leaves the box for each; the expected values, the comparison, the clock and
the verdict stay here. Helper modules are carried along; what could change how an interpreter starts is not, and is named in the evidence.

Not guaranteed: that one case learns nothing from an earlier one. A box in which files were left is replaced, but a pid or the time of a
file can carry a number. It buys nothing: no case holds anything about another's expected value.
"""

from __future__ import annotations

import copy
import functools
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import CodeType

from agito.grading.artefacts import Artefacts
from agito.grading.bench import BOX, Bench
from agito.grading.plain import check, parse, same
from agito.grading.runner import Told, snippet
from agito.protocols import Result, SandboxPool, SandboxSpec
from agito.types import Flag, Json, Status, Verdict

MAX_TIMEOUTS = 3  # cases of one grading; the rest is then not asked
_PATIENCE = 3.0  # times a case's seconds, once, for one that ran out of time without having had the processor


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionTask:
    """One function to write. `reference` is trusted source text that defines it; it never enters a box."""

    name: str
    statement: str
    entry: str  # where the function is expected, such as "solution.py:solve" or "shop/prices.py:total"
    reference: str
    visible: tuple[tuple[Json, ...], ...]  # argument lists that the statement or the visible tests show
    hidden: Callable[[random.Random], Sequence[Sequence[Json]]]  # argument lists, fresh for each grade seed
    artefacts: Artefacts = field(default_factory=Artefacts)
    tolerance: float = 0.0  # between floats: relative, absolute below 1
    case_seconds: float = 2.0

    def __post_init__(self) -> None:
        path, _, function = self.entry.partition(":")
        if not path.endswith(".py") or not function.isidentifier() or not all(part.isidentifier() for part in path[:-3].split("/")):
            raise ValueError(f"entry={self.entry!r}: write FILE.py:FUNCTION, such as solution.py:solve")

    @property
    def path(self) -> str:
        return self.entry.partition(":")[0]

    @property
    def function(self) -> str:
        return self.entry.partition(":")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question and what the reference says to it: a value, or the name of an exception."""

    arguments: tuple[Json, ...]
    told: Told
    expected: Json
    is_visible: bool


def expected(task: FunctionTask, arguments: Sequence[Json], *, is_visible: bool = False) -> Case:
    """Asks the reference, in this process. Raises `ValueError` when it or its inputs are not what a function task needs."""
    where = f"task {task.name!r}, input {list(arguments)!r}"
    listed = tuple(check(each, where) for each in arguments)
    function = _reference(task.reference, task.function)
    try:
        value = function(*copy.deepcopy(listed))
    except Exception as error:  # how a reference says that an exception is expected
        return Case(arguments=listed, told=Told.RAISES, expected=type(error).__name__, is_visible=is_visible)
    return Case(arguments=listed, told=Told.VALUE, expected=check(value, f"{where}, the reference's answer"), is_visible=is_visible)


def draw(task: FunctionTask, *, secret: str, grade_seed: int) -> list[Case]:
    """Visible and hidden cases, shuffled. A pure function of its arguments."""
    rng = random.Random(f"grade/{task.name}/{secret}/{grade_seed}")
    cases = [expected(task, arguments, is_visible=True) for arguments in task.visible]
    cases += [expected(task, arguments) for arguments in task.hidden(rng)]
    if all(case.is_visible for case in cases):
        raise ValueError(f"task {task.name!r}: `hidden` draws no case, so that the visible ones could be learned by heart")
    rng.shuffle(cases)
    return cases


async def grade(
    pool: SandboxPool,
    task: FunctionTask,
    files: Mapping[str, bytes],
    *,
    secret: str,
    grade_seed: int,
    thorough: bool = True,
    spec: SandboxSpec = BOX,
) -> Verdict:
    """Reward 1 if every case is right, else 0. Scores: `success`, and when `thorough` the shares `visible` and `hidden`.

    `files` is a finished workspace by path; `secret` is the key's, so that nobody who knows the grade seed can draw the cases. Without
    `thorough` it stops at the first wrong case. Raises `SandboxFailure` when the machinery failed, which is no verdict.
    """
    cases = draw(task, secret=secret, grade_seed=grade_seed)
    try:
        carried, stripped = task.artefacts.split(files)
    except ValueError as error:
        return _scored(0.0, {"success": 0.0}, str(error), grade_seed, ())
    if task.path not in carried:
        return _scored(0.0, {"success": 0.0}, f"{task.path} is not there{_stripped(stripped)}", grade_seed, ())
    right = dict.fromkeys((True, False), 0)
    wrong: list[str] = []
    flags: dict[str, Flag] = {}
    timeouts, guesses, is_patient = 0, 0, True
    async with Bench(pool, spec, carried) as bench:
        for case in cases:
            judged = await _ask(bench, task, case)
            if judged.is_starved and is_patient:  # a busy machine, or one that only waits: asked again, that shows
                is_patient = False
                judged = await _ask(bench, task, case, patience=_PATIENCE)
            flags |= {flag.kind: flag for flag in judged.flags}
            timeouts += judged.is_late
            guesses += judged.is_guess and not case.is_visible
            right[case.is_visible] += judged.problem is None
            if judged.problem is not None:
                wrong.append(judged.problem)
            if wrong and (not thorough or timeouts >= MAX_TIMEOUTS):
                break
    scores = {"success": float(not wrong)}
    if thorough:
        num_visible = sum(case.is_visible for case in cases)
        scores |= {"hidden": right[False] / (len(cases) - num_visible)} | ({"visible": right[True] / num_visible} if num_visible else {})
        # A solution that stops short says so, by an exception or by its time; only answers show what was learned by heart.
        if wrong and num_visible and right[True] == num_visible and guesses == len(cases) - num_visible:
            flags["visible_only"] = Flag(kind="visible_only", is_proof=False, detail="right on every visible case and on no hidden one")
    said = f"{len(cases)} cases right" if not wrong else f"{len(wrong)} wrong; {wrong[0]}"
    return _scored(scores["success"], scores, said + _stripped(stripped), grade_seed, tuple(flags.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    problem: str | None = None  # None: right
    is_late: bool = False
    is_starved: bool = False  # late, with most of its time spent waiting
    is_guess: bool = False  # a plain value, and the wrong one
    flags: tuple[Flag, ...] = ()


async def _ask(bench: Bench, task: FunctionTask, case: Case, *, patience: float = 1.0) -> _Judged:
    token = os.urandom(8).hex().encode()
    module = task.path[:-3].replace("/", ".")
    code = snippet(token=token, module=module, function=task.function, arguments=list(case.arguments))
    result = await bench.run(code, timeout_s=task.case_seconds * patience)
    asked = f"{task.function}({', '.join(map(repr, case.arguments))})"
    if result is None:
        return _wrong(f"{asked}: the box died of it twice", "broke_box")
    if result.fault is not None:
        is_late = result.killed_by == "deadline"
        is_starved = is_late and result.cpu_s < task.case_seconds / 2
        return _Judged(problem=f"{asked}: stopped, {result.killed_by}", is_late=is_late, is_starved=is_starved)
    return _judge(task, case, result, token, asked)


def _judge(task: FunctionTask, case: Case, result: Result, token: bytes, asked: str) -> _Judged:
    """Exactly one value, framed by the runner: everything else is wrong."""
    output = result.output
    if not output:
        how = f"exit code {result.exit_code}" if result.exit_code is not None and result.exit_code < 128 else result.killed_by
        # Who only computes never leaves before the answer; a crash by a signal can happen to anybody.
        return _wrong(f"{asked}: ended without an answer, {how}", "silent_exit" if result.exit_code in (0, 1) else None)
    if not output.startswith(token):
        return _wrong(f"{asked}: something else wrote where the answer belongs", "forged_report", is_proof=True)
    if result.total_bytes != len(output):
        return _wrong(f"{asked}: the answer has {result.total_bytes} bytes")
    if output.count(token) > 1:
        return _wrong(f"{asked}: more than one answer", "forked_answer")
    try:
        frame = parse(output[len(token) :])
    except ValueError:
        return _wrong(f"{asked}: something else wrote after the answer", "forged_report", is_proof=True)
    if not isinstance(frame, list) or len(frame) != 2 or frame[0] not in tuple(Told):
        return _wrong(f"{asked}: the answer is no answer", "forged_report", is_proof=True)
    told, value = frame
    if told == case.told and same(value, case.expected, task.tolerance):
        return _Judged()
    if told == Told.RAISES and value == "SystemExit":
        return _wrong(f"{asked}: it left with SystemExit", "silent_exit")
    shown = f"{told} {_short(value)}" if told != Told.VALUE else _short(value)
    wanted = f"{case.told} {case.expected}" if case.told is not Told.VALUE else _short(case.expected)
    judged = _wrong(f"{asked}: {shown}, wanted {wanted}", "own_type" if told == Told.ODD and str(value).startswith("its own ") else None)
    return replace(judged, is_guess=told == Told.VALUE)


def _wrong(problem: str, kind: str | None = None, *, is_proof: bool = False) -> _Judged:
    return _Judged(problem=problem, flags=(Flag(kind=kind, is_proof=is_proof, detail=problem[:200]),) if kind else ())


def _short(value: Json) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _stripped(paths: Sequence[str]) -> str:
    if not paths:
        return ""
    return f"; not carried: {', '.join(paths[:8])}" + (f" and {len(paths) - 8} more" if len(paths) > 8 else "")


def _scored(reward: float, scores: Mapping[str, float], evidence: str, grade_seed: int, flags: tuple[Flag, ...]) -> Verdict:
    return Verdict(status=Status.SCORED, reward=reward, scores=scores, evidence=evidence, grade_seed=grade_seed, flags=flags)


@functools.lru_cache(maxsize=256)
def _compiled(source: str) -> CodeType:
    return compile(source, "<reference>", "exec")


def _reference(source: str, function: str) -> Callable[..., object]:
    names: dict[str, object] = {"__name__": "reference"}
    exec(_compiled(source), names)
    found = names.get(function)
    if not callable(found):
        raise ValueError(f"the reference defines no function {function!r}")
    return found
