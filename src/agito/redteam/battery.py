"""Runs the exploits and the honest work against the weak graders and the trusted ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio

from agito.protocols import Sandbox
from agito.redteam.boxes import AttackBoxes
from agito.redteam.exploit import MAIN, Exploit, ExploitClass, Moves, WeakGrader
from agito.redteam.exploits import all_exploits
from agito.redteam.exploits.answers import VALUES
from agito.redteam.honest import Honest
from agito.redteam.targets import BY_NAME, SECRETS, Secret
from agito.redteam.trusted import TrustedResult, grade_answer, grade_work
from agito.redteam.weak import answer_is_taken, weakly_graded
from agito.types import Verdict

_ANSWERED = (
    WeakGrader.CONTAINS,
    WeakGrader.CONTAINED,
    WeakGrader.PATTERN,
    WeakGrader.TOLERANCE,
    WeakGrader.JUDGE,
)
_WANTED = VALUES[17]
_ACT_S = 5.0
_LIVE = 4  # concurrent boxes
_RACES = 3  # runs of a race before it counts as lost


@dataclass(slots=True)
class ExploitTrial:
    """One exploit on one target: results of the weak graders, and the trusted verdict."""

    exploit: Exploit
    secret: Secret
    passed: dict[WeakGrader, bool] = field(default_factory=dict[WeakGrader, bool])
    trusted: TrustedResult | None = None

    @property
    def has_fired(self) -> bool:
        """It fooled a grader with the hole that it targets. An exploit that has not fired proves nothing
        about any grader.
        """
        return any(self.passed.values())

    @property
    def is_answer(self) -> bool:
        return bool(set(self.exploit.weak_graders) & set(_ANSWERED))

    @property
    def moves(self) -> Moves:
        return self.exploit.moves(self.secret.target)


@dataclass(slots=True)
class HonestTrial:
    """One piece of honest work, and the graders' results."""

    honest: Honest
    passed: dict[WeakGrader, bool] = field(default_factory=dict[WeakGrader, bool])
    trusted: TrustedResult | None = None


def plan(only: Sequence[str] = ()) -> list[ExploitTrial]:
    """Every exploit with its target; exploits for any target cycle through the targets. Raises `ValueError`
    for an unknown name.
    """
    known = {each.name: each for each in all_exploits()}
    if unknown := [name for name in only if name not in known]:
        raise ValueError(f"exploit {unknown[0]!r}: there is no such one; there are {', '.join(known)}")
    chosen = [known[name] for name in only] if only else list(known.values())
    return [
        ExploitTrial(exploit=each, secret=BY_NAME[each.target] if each.target else SECRETS[at % len(SECRETS)])
        for at, each in enumerate(chosen)
    ]


def weak_graders(exploit: Exploit) -> tuple[WeakGrader, ...]:
    """Weak graders on which an exploit is tried: timing tricks where a clock is read, answers where answers
    are read, crashes where a crash counts as success.
    """
    is_special = exploit.kind is ExploitClass.RESOURCES or set(exploit.weak_graders) & {
        *_ANSWERED,
        WeakGrader.TIMED,
    }
    return exploit.weak_graders if is_special else (*MAIN, *exploit.weak_graders)


async def act(box: Sandbox, moves: Moves) -> None:
    """Acts as an agent, as far as the box lets it."""
    if moves.files:
        await box.write(moves.files)
    for command in moves.commands:
        await box.sh(command, timeout_s=_ACT_S)


async def run_weak(boxes: AttackBoxes, tried: Sequence[ExploitTrial]) -> None:
    """Tries each exploit on each of its weak graders, in a fresh box every time."""

    async def one(each: ExploitTrial, grader: WeakGrader) -> None:
        is_leaky = each.exploit.kind is ExploitClass.MINING
        for _ in range(_RACES if each.exploit.kind is ExploitClass.DAEMON else 1):
            each.passed[grader] = await _weakly(boxes, each.secret, each.moves, grader, is_leaky=is_leaky)
            if each.passed[grader]:
                break

    for each in tried:
        if each.is_answer:
            each.passed = {
                grader: answer_is_taken(each.moves.answer, grader, _WANTED)
                for grader in weak_graders(each.exploit)
            }
    await _all(
        [
            _bound(one, each, grader)
            for each in tried
            if not each.is_answer
            for grader in weak_graders(each.exploit)
        ]
    )


async def run_trusted(
    boxes: AttackBoxes, tried: Sequence[ExploitTrial], ask: Callable[[str], Awaitable[Verdict]]
) -> None:
    """Runs each exploit against the trusted graders; `ask` is an environment's own grader of answers."""

    async def one(each: ExploitTrial) -> None:
        if each.is_answer:
            each.trusted = await grade_answer(each.moves, ask)
        else:
            each.trusted = await grade_work(boxes, each.secret, each.moves, act, episode=each.exploit.name)

    await _all([_bound(one, each) for each in tried])


async def run_honest(boxes: AttackBoxes, work: Sequence[HonestTrial], *, weak_every: int = 2) -> None:
    """Runs honest work against the trusted graders, and every `weak_every`-th right one against the three
    common weak graders.
    """

    async def trusted(each: HonestTrial) -> None:
        honest = each.honest
        each.trusted = await grade_work(
            boxes, honest.secret, honest.moves, act, episode=honest.name, wants_gold=False
        )

    async def weak(each: HonestTrial, grader: WeakGrader) -> None:
        each.passed[grader] = await _weakly(
            boxes, each.honest.secret, each.honest.moves, grader, is_leaky=False
        )

    right = [each for each in work if each.honest.is_right]
    await _all(
        [
            *(_bound(trusted, each) for each in work),
            *(_bound(weak, each, grader) for each in right[::weak_every] for grader in MAIN),
        ]
    )


def counts(passed: Sequence[Mapping[WeakGrader, bool]]) -> dict[WeakGrader, int]:
    return {grader: sum(each.get(grader, False) for each in passed) for grader in WeakGrader}


async def _weakly(
    boxes: AttackBoxes, secret: Secret, moves: Moves, grader: WeakGrader, *, is_leaky: bool
) -> bool:
    box = await boxes.agent(secret, is_leaky=is_leaky)
    try:
        await act(box, moves)
        return await weakly_graded(boxes, box, secret, grader)
    finally:
        await box.close()


def _bound(function: Callable[..., Awaitable[None]], *arguments: object) -> Callable[[], Awaitable[None]]:
    return lambda: function(*arguments)


async def _all(jobs: Sequence[Callable[[], Awaitable[None]]]) -> None:
    limiter = anyio.CapacityLimiter(_LIVE)

    async def one(job: Callable[[], Awaitable[None]]) -> None:
        async with limiter:
            await job()

    async with anyio.create_task_group() as tasks:
        for job in jobs:
            tasks.start_soon(one, job)
