"""A verdict in spite of the work: a grader that fails is asked again beside a reference, so that only what
the work did counts against it.

One mechanism for every environment. A grader has failed when it raises, runs out of its deadline or of
memory, or answers with a void verdict. Not guaranteed: anything against a grader that never gives the event
loop back; what can take long belongs into a sandbox.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

import anyio

from agito.errors import EndpointFailed, NoIsolation, SandboxExhausted, SandboxFailure, WorkerDied
from agito.types import EpisodeArtifacts, Flag, Status, Target, Verdict

Grade: TypeAlias = Callable[[EpisodeArtifacts, Target, int], Awaitable[Verdict]]
Reference: TypeAlias = Callable[[], Awaitable[EpisodeArtifacts]]

MORE = 2  # times that a failed grader is asked again
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
    """What `grade` says about `sealed`; where it fails, it is asked up to twice more, each time with a
    reference judged right after.

    Any completion is the verdict. If all three fail, the work is to blame if the reference was judged every
    time: it gets `lowest`, the environment's lowest reward. If the reference fails too, the grader is to
    blame, and the verdict is void.

    `reference` gives the capture of a solved episode of the same task (act out `environment.solutions(task,
    key)[0]`, then seal); it is called once, after a first failure, within `deadline_s`. None, or one that
    fails, stands for an empty capture. That one may never reach the machinery, so failures of a sandbox are
    then nobody's and stay void. Raises `WorkerDied` and `NoIsolation` alone: neither is about one grading.
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
    """One grading, for what is no reward: a second look, a validator. Void when it fails."""
    told = await _ask(grade, sealed, target, grade_seed, deadline_s)
    return told if isinstance(told, Verdict) else Verdict.void(f"{told.kind}: the grader failed ({told})")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    kind: str  # who it looks like: "infra" or "env"
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
    except (Exception, SystemExit) as error:  # the boundary: whatever a grader raises is no verdict
        return _Failure(kind="env", detail=_told(error))
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
    except Exception:  # the boundary: whatever keeps an environment from being solved is looked at elsewhere
        return None


def _told(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
