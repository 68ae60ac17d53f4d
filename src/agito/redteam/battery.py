"""Runs the exploits and the honest work against the weak graders and against ours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio

from agito.protocols import Sandbox
from agito.redteam.boxes import AttackBoxes
from agito.redteam.exploit import MAIN, Class, Exploit, Moves, Twin
from agito.redteam.exploits import all_exploits
from agito.redteam.exploits.answers import VALUES
from agito.redteam.honest import Honest
from agito.redteam.ours import Judged, answered, judged
from agito.redteam.targets import BY_NAME, SECRETS, Secret
from agito.redteam.weak import answer_is_taken, weakly_graded
from agito.types import Verdict

_ANSWERED = (Twin.CONTAINS, Twin.CONTAINED, Twin.PATTERN, Twin.TOLERANCE, Twin.JUDGE)
_WANTED = VALUES[17]
_ACT_S = 5.0
_LIVE = 4  # at once
_RACES = 3  # how often a race is run before it counts as lost


@dataclass(slots=True)
class Tried:
    """One exploit on one target: the weak graders that it was tried on, and what ours said."""

    exploit: Exploit
    secret: Secret
    passed: dict[Twin, bool] = field(default_factory=dict[Twin, bool])
    ours: Judged | None = None

    @property
    def has_fired(self) -> bool:
        """It got past a grader that has the hole it goes for. What has not fired proves nothing about
        anybody.
        """
        return any(self.passed.values())

    @property
    def is_answer(self) -> bool:
        return bool(set(self.exploit.twins) & set(_ANSWERED))

    @property
    def moves(self) -> Moves:
        return self.exploit.moves(self.secret.target)


@dataclass(slots=True)
class Worked:
    """One piece of honest work, and what the graders said."""

    honest: Honest
    passed: dict[Twin, bool] = field(default_factory=dict[Twin, bool])
    ours: Judged | None = None


def plan(only: Sequence[str] = ()) -> list[Tried]:
    """Every exploit with its target; those for any target take turns. Raises `ValueError` for a name that is
    no exploit's.
    """
    known = {each.name: each for each in all_exploits()}
    if unknown := [name for name in only if name not in known]:
        raise ValueError(f"exploit {unknown[0]!r}: there is no such one; there are {', '.join(known)}")
    chosen = [known[name] for name in only] if only else list(known.values())
    return [
        Tried(exploit=each, secret=BY_NAME[each.target] if each.target else SECRETS[at % len(SECRETS)])
        for at, each in enumerate(chosen)
    ]


def twins(exploit: Exploit) -> tuple[Twin, ...]:
    """Where it is tried: a clock matters to who reads one, an answer to who reads answers, a death to who
    takes it for success.
    """
    is_special = exploit.kind is Class.RESOURCES or set(exploit.twins) & {*_ANSWERED, Twin.TIMED}
    return exploit.twins if is_special else (*MAIN, *exploit.twins)


async def act(box: Sandbox, moves: Moves) -> None:
    """What an agent does: it gets no further where the box does not let it."""
    if moves.files:
        await box.write(moves.files)
    for command in moves.commands:
        await box.sh(command, timeout_s=_ACT_S)


async def fire(boxes: AttackBoxes, tried: Sequence[Tried]) -> None:
    """Tries each exploit on each of its weak graders, in a box of its own every time."""

    async def one(each: Tried, twin: Twin) -> None:
        is_leaky = each.exploit.kind is Class.MINING
        for _ in range(_RACES if each.exploit.kind is Class.DAEMON else 1):
            each.passed[twin] = await _weakly(boxes, each.secret, each.moves, twin, is_leaky=is_leaky)
            if each.passed[twin]:
                break

    for each in tried:
        if each.is_answer:
            each.passed = {
                twin: answer_is_taken(each.moves.answer, twin, _WANTED) for twin in twins(each.exploit)
            }
    await _all(
        [_bound(one, each, twin) for each in tried if not each.is_answer for twin in twins(each.exploit)]
    )


async def judge(boxes: AttackBoxes, tried: Sequence[Tried], ask: Callable[[str], Awaitable[Verdict]]) -> None:
    """Puts each exploit before our graders; `ask` is an environment's own grader of answers."""

    async def one(each: Tried) -> None:
        if each.is_answer:
            each.ours = await answered(each.moves, ask)
        else:
            each.ours = await judged(boxes, each.secret, each.moves, act, episode=each.exploit.name)

    await _all([_bound(one, each) for each in tried])


async def employ(boxes: AttackBoxes, work: Sequence[Worked], *, weak_every: int = 2) -> None:
    """Puts honest work before our graders, and each `weak_every`-th right one before the three common weak
    ones.
    """

    async def ours(each: Worked) -> None:
        honest = each.honest
        each.ours = await judged(
            boxes, honest.secret, honest.moves, act, episode=honest.name, wants_gold=False
        )

    async def weak(each: Worked, twin: Twin) -> None:
        each.passed[twin] = await _weakly(boxes, each.honest.secret, each.honest.moves, twin, is_leaky=False)

    right = [each for each in work if each.honest.is_right]
    await _all(
        [
            *(_bound(ours, each) for each in work),
            *(_bound(weak, each, twin) for each in right[::weak_every] for twin in MAIN),
        ]
    )


def counts(passed: Sequence[Mapping[Twin, bool]]) -> dict[Twin, int]:
    return {twin: sum(each.get(twin, False) for each in passed) for twin in Twin}


async def _weakly(boxes: AttackBoxes, secret: Secret, moves: Moves, twin: Twin, *, is_leaky: bool) -> bool:
    box = await boxes.agent(secret, is_leaky=is_leaky)
    try:
        await act(box, moves)
        return await weakly_graded(boxes, box, secret, twin)
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
