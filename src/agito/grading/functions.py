"""Function tasks: a candidate's function is compared with a reference, case by case, outside the candidate's
process.

The candidate runs in a throwaway box that gets inputs and nothing else: one process per case, in random
order, killed with everything it started before the next case, always with the same files. One plain JSON
value per case leaves the box; expected values, comparison, time limit and verdict stay here. Helper modules
and data files are carried along; files that could change how an interpreter starts are not, and are named in
the evidence.

Each case has `case_seconds` of CPU time for everything that it starts, so a busy machine fails nobody. Hash
seed, locale and time zone are the same in every pool, so the verdict is too, unless the candidate reads the
clock or the kernel's random numbers.

Not guaranteed: that a case learns nothing from an earlier one. The kernel's counters for pid 1 (CPU time,
page faults) and the clock reveal the case number. No data of one case reaches another.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agito.errors import SandboxFailure
from agito.grading.candidate_box import BOX, ThrowawayBox
from agito.grading.case_snippet import CallEnd, snippet
from agito.grading.cases import Case, FunctionTask, draw, expected, is_expected
from agito.grading.plain_json import parse, same, shown, written_bytes
from agito.protocols import Result, SandboxPool, SandboxSpec
from agito.types import Flag, Status, Verdict

__all__ = ["MAX_TIMEOUTS", "Case", "FunctionTask", "draw", "expected", "grade"]

MAX_TIMEOUTS = 3  # timed-out cases of one grading, after which it stops asking
_FRAME_BYTES = 256  # overhead of an answer beyond its value


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
    """Reward 1 if every case is right, else 0. Scores: `success`; with `thorough` also the shares `visible`
    and `hidden`.

    `files` is a finished workspace by path. `secret` comes from the key, so knowing the grade seed does not
    reveal the cases. Without `thorough` it stops at the first wrong case. Raises `SandboxFailure` if the
    machinery failed: that is no verdict.
    """
    cases = draw(task, secret=secret, grade_seed=grade_seed)
    try:
        carried, stripped = task.artefacts.split(files, task.path)
    except ValueError as error:
        return _scored(0.0, {"success": 0.0}, str(error), grade_seed, ())
    if task.path not in carried:
        return _scored(
            0.0, {"success": 0.0}, f"{task.path} is not there{_stripped(stripped)}", grade_seed, ()
        )
    right = dict.fromkeys((True, False), 0)
    wrong: list[str] = []
    flags: dict[str, Flag] = {}
    timeouts, guesses = 0, 0
    async with ThrowawayBox(pool, _fitting(spec, task, cases), carried) as box:
        for case in cases:
            judged = await _ask(box, task, case)
            flags |= {flag.kind: replace(flag, where=task.path) for flag in judged.flags}
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
        scores |= {"hidden": right[False] / (len(cases) - num_visible)} | (
            {"visible": right[True] / num_visible} if num_visible else {}
        )
        # An unfinished solution shows itself by exceptions or timeouts; only answers show memorising.
        if wrong and num_visible and right[True] == num_visible and guesses == len(cases) - num_visible:
            flags["visible_only"] = Flag(
                kind="visible_only", is_proof=False, detail="right on every visible case and on no hidden one"
            )
    said = f"{len(cases)} cases right" if not wrong else f"{len(wrong)} wrong; {wrong[0]}"
    return _scored(scores["success"], scores, said + _stripped(stripped), grade_seed, tuple(flags.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    problem: str | None = None  # None: right
    is_late: bool = False
    is_guess: bool = False  # a plain but wrong value
    flags: tuple[Flag, ...] = ()


def _fitting(spec: SandboxSpec, task: FunctionTask, cases: Sequence[Case]) -> SandboxSpec:
    """A box that can return every right answer, and stops no process before its time is up."""
    output = max(spec.output_bytes, written_bytes([case.expected for case in cases]) + _FRAME_BYTES)
    return replace(spec, output_bytes=output, cpu_s=max(spec.cpu_s, math.ceil(task.case_seconds) + 1))


async def _ask(box: ThrowawayBox, task: FunctionTask, case: Case) -> _Judged:
    token = os.urandom(8).hex().encode()
    module = task.path[:-3].replace("/", ".")
    code = snippet(token=token, module=module, function=task.function, arguments=list(case.arguments))
    result = await box.run(code, timeout_s=task.case_seconds)
    asked = f"{task.function}({', '.join(map(shown, case.arguments))})"
    if result is None:
        return _wrong(f"{asked}: the box died of it twice", "broke_box")
    if result.killed_by == "deadline":
        raise SandboxFailure(
            f"{asked}: it got {result.cpu_s:.2f} s of the processor in {result.wall_s:.0f} s; the machine "
            "is too busy to judge"
        )
    if result.killed_by == "asleep":
        return _Judged(problem=f"{asked}: stopped, deadline: it sleeps", is_late=True)
    if result.killed_by == "cpu" or result.cpu_s > task.case_seconds:
        said = f"stopped, deadline: {result.cpu_s:.2f} s of the processor; a call has {task.case_seconds:g} s"
        return _Judged(problem=f"{asked}: {said}", is_late=True)
    if result.fault is not None:
        return _Judged(problem=f"{asked}: stopped, {result.killed_by}")
    return _judge(task, case, result, token, asked)


def _judge(task: FunctionTask, case: Case, result: Result, token: bytes, asked: str) -> _Judged:
    """Accepts exactly one value, framed by the runner; everything else is wrong."""
    output = result.output
    if not output:
        how = (
            f"exit code {result.exit_code}"
            if result.exit_code is not None and result.exit_code < 128
            else result.killed_by
        )
        # Pure computation never exits before its answer; a crash by a signal can happen to anybody.
        return _wrong(
            f"{asked}: ended without an answer, {how}", "silent_exit" if result.exit_code in (0, 1) else None
        )
    if result.exit_code != 0:  # it died while answering: a truncated answer is no forgery
        kind = "broken_answer" if result.exit_code is not None and result.exit_code < 128 else None
        return _wrong(f"{asked}: ended within its answer, exit code {result.exit_code}", kind)
    if not output.startswith(token):
        return _wrong(
            f"{asked}: something else wrote where the answer belongs", "forged_report", is_proof=True
        )
    if result.total_bytes != len(output):
        return _wrong(f"{asked}: the answer has {result.total_bytes} bytes")
    if output.count(token) > 1:
        return _wrong(f"{asked}: more than one answer", "forked_answer")
    try:
        frame = parse(output[len(token) :])
    except ValueError:
        return _wrong(f"{asked}: something else wrote after the answer", "forged_report", is_proof=True)
    if not isinstance(frame, list) or len(frame) != 2 or frame[0] not in tuple(CallEnd):
        return _wrong(f"{asked}: the answer is no answer", "forged_report", is_proof=True)
    told, value = frame
    if told == case.told and (
        same(value, case.expected, task.tolerance)
        if told != CallEnd.RAISES
        else is_expected(value, case.expected)
    ):
        return _Judged()
    if told == CallEnd.RAISES and value == "SystemExit":
        return _wrong(f"{asked}: it left with SystemExit", "silent_exit")
    got = f"{told} {shown(value)}" if told != CallEnd.VALUE else shown(value)
    wanted = f"{case.told} {case.expected}" if case.told is not CallEnd.VALUE else shown(case.expected)
    judged = _wrong(
        f"{asked}: {got}, wanted {wanted}",
        "own_type" if told == CallEnd.ODD and str(value).startswith("its own ") else None,
    )
    return replace(judged, is_guess=told == CallEnd.VALUE)


def _wrong(problem: str, kind: str | None = None, *, is_proof: bool = False) -> _Judged:
    return _Judged(
        problem=problem, flags=(Flag(kind=kind, is_proof=is_proof, detail=problem[:200]),) if kind else ()
    )


def _stripped(paths: Sequence[str]) -> str:
    if not paths:
        return ""
    return f"; not carried: {', '.join(paths[:8])}" + (
        f" and {len(paths) - 8} more" if len(paths) > 8 else ""
    )


def _scored(
    reward: float, scores: Mapping[str, float], evidence: str, grade_seed: int, flags: tuple[Flag, ...]
) -> Verdict:
    return Verdict(
        status=Status.SCORED,
        reward=reward,
        scores=scores,
        evidence=evidence,
        grade_seed=grade_seed,
        flags=flags,
    )
