"""Verdicts when a grader fails: it is asked again beside a reference, so that only failures caused by the
work count against it.

One mechanism for every environment. A grader has failed if it raises, exceeds its deadline or memory, or
returns a void verdict. Not guaranteed: anything against a grader that blocks the event loop; slow work
belongs into a sandbox.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

import anyio

from agito.errors import EndpointFailed, NoIsolation, SandboxExhausted, SandboxFailure, WorkerDied
from agito.plugins import line_of
from agito.types import EpisodeArtifacts, Flag, Status, Target, Verdict

Grade: TypeAlias = Callable[[EpisodeArtifacts, Target, int], Awaitable[Verdict]]
Reference: TypeAlias = Callable[[], Awaitable[EpisodeArtifacts]]

MORE = 2  # retries of a failed grader
DEADLINE_S = 120.0


async def judge(
    grade: Grade,
    sealed: EpisodeArtifacts,
    target: Target,
    grade_seed: int,
    reference: Reference | None = None,
    *,
    deadline_s: float = DEADLINE_S,
    lowest: float = 0.0,
) -> Verdict:
    """The verdict of `grade` on `sealed`; if it fails, up to two retries, each followed by a grading of a
    reference.

    The first verdict counts. If all three fail and the reference was graded every time, the work is to blame
    and gets `lowest`, the environment's lowest reward. If the reference fails too, the grader is to blame,
    and the verdict is void.

    `reference` returns the capture of a solved episode of the same task (run `environment.solutions(task,
    key)[0]`, then seal); it is called once, after the first failure, within `deadline_s`. If it is None or
    fails, an empty capture stands in. That may never reach the machinery, so sandbox failures are then
    nobody's fault and stay void. Raises only `WorkerDied` and `NoIsolation`, which are not about one grading.
    """
    first = await _ask(grade, sealed, target, grade_seed, deadline_s)
    if isinstance(first, Verdict):
        return first
    beside = await _capture(reference, deadline_s)
    twin = beside or EpisodeArtifacts(task_id=sealed.task_id, submitted=None, files={}, digest="")
    failures, broken = [first], list[_Failure]()
    for _ in range(MORE):
        again = await _ask(grade, sealed, target, grade_seed, deadline_s)
        if isinstance(again, Verdict):
            return again
        failures.append(again)
        told = await _ask(grade, twin, target, grade_seed, deadline_s)
        if isinstance(told, _Failure):
            broken.append(told)
    said = "; ".join(dict.fromkeys(str(failure) for failure in failures))
    if elsewhere := [failure for failure in failures if failure.is_elsewhere]:
        return Verdict.void(f"infra: the grader failed {len(failures)} times ({elsewhere[0]})")
    if broken:
        return Verdict.void(
            f"{first.kind}: the grader failed {len(failures)} times ({said}), and on a reference too "
            f"({broken[0]})"
        )
    if beside is None and any(failure.is_machinery for failure in failures):
        return Verdict.void(
            f"{first.kind}: the grader failed {len(failures)} times ({said}); no reference shows that the "
            "machinery works"
        )
    evidence = f"the grader failed on this {len(failures)} times ({said}), and never on a reference beside it"
    flag = Flag(kind="broke_grader", is_proof=False, detail=said[:200])
    return Verdict(
        status=Status.SCORED,
        reward=lowest,
        scores={"success": 0.0},
        evidence=evidence,
        grade_seed=grade_seed,
        flags=(flag,),
    )


async def ask(
    grade: Grade, sealed: EpisodeArtifacts, target: Target, grade_seed: int, *, deadline_s: float = DEADLINE_S
) -> Verdict:
    """A single grading that is not a reward: a second look, or a validator. Void if it fails."""
    told = await _ask(grade, sealed, target, grade_seed, deadline_s)
    return told if isinstance(told, Verdict) else Verdict.void(f"{told.kind}: the grader failed ({told})")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    kind: str  # apparent cause: "infra" or "env"
    detail: str
    is_machinery: bool = False
    is_elsewhere: bool = (
        False  # of somebody else's service, which is nobody's fault here whatever becomes of the reference
    )

    def __str__(self) -> str:
        return self.detail


async def _ask(
    grade: Grade, sealed: EpisodeArtifacts, target: Target, grade_seed: int, deadline_s: float
) -> Verdict | _Failure:
    try:
        with anyio.fail_after(deadline_s):
            verdict = await grade(sealed, target, grade_seed)
    except (NoIsolation, WorkerDied):
        raise
    except EndpointFailed as error:
        return _Failure(kind="infra", detail=_told(error), is_elsewhere=True)
    except SandboxFailure as error:
        is_machinery = not isinstance(error, SandboxExhausted)
        return _Failure(kind="infra", detail=_told(error), is_machinery=is_machinery)
    except TimeoutError as error:
        return _Failure(kind="infra", detail=str(error) or f"it did not answer within {deadline_s:g} s")
    except (Exception, SystemExit) as error:  # the boundary: a grader that raises gives no verdict
        return _Failure(kind="env", detail=_told(error))
    if not isinstance(verdict, Verdict):  # pyright: ignore[reportUnnecessaryIsInstance] (anybody's code)
        return _Failure(kind="env", detail=f"`grade` returned {type(verdict).__name__}, not a Verdict")
    return (
        verdict
        if verdict.status is Status.SCORED
        else _Failure(kind="env", detail=f"void: {verdict.evidence}")
    )


async def _capture(reference: Reference | None, deadline_s: float) -> EpisodeArtifacts | None:
    if reference is None:
        return None
    try:
        with anyio.fail_after(deadline_s):
            return await reference()
    except (NoIsolation, WorkerDied):
        raise
    except Exception:  # the boundary: why the environment cannot be solved is found elsewhere
        return None


def _told(error: BaseException) -> str:
    """What was raised, and the line of somebody else's code that led to it."""
    lines, at = str(error).strip().splitlines(), line_of(error)
    told = f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
    return f"{told} ({at})" if at else told
