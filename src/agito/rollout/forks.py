"""Forks of attempts: a recorded attempt, repeated up to a turn and then gone on with, to its own verdict.

The world is opened again with the attempt's own noise and comes to the same state by the same calls, which
works wherever an environment is deterministic. Where one is not, the fork is void. Only attempts of one agent
are forked.
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from agito.protocols import Engine
from agito.rollout.attempt import AttemptRunner, Plan
from agito.sampling.forked import ForkedEngine
from agito.types import Attempt, AttemptId, Group, Lineage, Tokens, TokenSource, Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkPoint:
    """The state of an attempt before its turn number `turn`."""

    parent: Trajectory
    turn: int

    @property
    def event(self) -> int:
        """The first call that is made live."""
        return self.parent.turns[self.turn].calls[0]


def fork_points(groups: Iterable[Group], *, ratio: float, seed: int) -> list[ForkPoint]:
    """The states before and after every turn that is drawn. Each is drawn with probability `ratio`,
    independently of how its attempt went on, which would bias what is learned from it.
    """
    points: list[ForkPoint] = []
    for attempt in (attempt for group in groups for attempt in group.trusted):
        was = attempt.trajectory
        if len(was.segments) != 1 or not all(turn.calls for turn in was.turns):
            continue
        drawn = [
            random.Random(f"fork/{seed}/{was.attempt}/{turn}").random() < ratio
            for turn in range(len(was.turns))
        ]
        points += [
            ForkPoint(parent=was, turn=turn)
            for turn in range(1, len(was.turns))
            if drawn[turn] or drawn[turn - 1]
        ]
    return points


class ForkRunner:
    """Runs forks as attempts: `group` is the number of the point, `slot` that of the fork."""

    def __init__(self, runner: AttemptRunner, points: Sequence[ForkPoint]) -> None:
        self._runner, self._points = runner, points

    async def run(self, plan: Plan, attempt: AttemptId, engines: Mapping[str, Engine] | None) -> Attempt:
        """As `AttemptRunner.run`, of the parent's task."""
        point = self._points[attempt.group]
        was, (segment,) = point.parent, point.parent.segments
        assert engines is not None, "a fork goes on live"
        forked = {
            policy: ForkedEngine(engine, was, {segment.id: point.turn}, policy, seed=attempt.slot + 1)
            for policy, engine in engines.items()
        }
        found = await self._runner.run(plan, was.attempt, forked)
        return replace(found, trajectory=_as_fork(found.trajectory, point, attempt))


def numbered(forks: Sequence[Attempt], groups: Sequence[Group]) -> tuple[Group, ...]:
    """The groups with their forks, which take the slots behind the group's own."""
    found: dict[int, list[Attempt]] = {}
    for fork in forks:
        lineage = fork.trajectory.lineage
        if lineage is not None:
            found.setdefault(lineage.parent.group, []).append(fork)
    return tuple(
        replace(
            group, forks=tuple(_in_slot(fork, group, at) for at, fork in enumerate(found.get(group.id, ())))
        )
        for group in groups
    )


def _in_slot(fork: Attempt, group: Group, at: int) -> Attempt:
    slot = AttemptId(group=group.id, slot=len(group.attempts) + at)
    return replace(fork, trajectory=replace(fork.trajectory, attempt=slot))


def _as_fork(trajectory: Trajectory, point: ForkPoint, attempt: AttemptId) -> Trajectory:
    """Its own turns only; what it repeated it has read, not said."""
    lineage = Lineage(parent=point.parent.attempt, event=point.event, snapshot="")
    start = point.parent.turns[point.turn - 1].stop
    segments = tuple(
        replace(segment, tokens=_observed(segment.tokens, start)) for segment in trajectory.segments
    )
    return replace(
        trajectory, attempt=attempt, lineage=lineage, segments=segments, turns=trajectory.turns[point.turn :]
    )


def _observed(tokens: Tokens, stop: int) -> Tokens:
    """The same, with everything before `stop` observed."""
    stop = min(stop, len(tokens))
    return replace(
        tokens,
        kinds=bytes([TokenSource.OBSERVED]) * stop + tokens.kinds[stop:],
        logprobs=array("f", [math.nan]) * stop + tokens.logprobs[stop:],
    )
