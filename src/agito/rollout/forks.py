"""Forks of attempts: a recorded attempt, repeated up to a turn and then gone on with, to its own verdict.

The world is opened again with the attempt's own noise and comes to the same state by the same calls, which
works wherever an environment is deterministic. Where one is not, the fork is void. A turn is drawn afresh
whole, thinking and action, also where a budget closed its thinking. In a team, forks begin at turns of the
agent that begins: while it acts, nobody else does.
"""

from __future__ import annotations

import math
import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from agito.harness import TeamHarness
from agito.protocols import Engine, Harness
from agito.rollout.attempt import AttemptRunner, Plan
from agito.rollout.deadline_log import DeadlineLog, RecordedAttempt
from agito.sampling.forked import ForkedEngine
from agito.types import Attempt, AttemptId, Group, Lineage, Tokens, TokenSource, Trajectory, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkPoint:
    """The state of an attempt before one of its turns."""

    parent: Trajectory
    turn: int  # number of the turn's first stretch
    without: str = ""  # the agent that is not there: the turn before has spawned it

    @property
    def event(self) -> int:
        """The first call that is answered live."""
        if self.without:
            spawned = (each.spawned_by for each in self.parent.segments if each.agent == self.without)
            return next(at for at in spawned if at is not None)
        turns = self.parent.turns[self.turn :]
        return next(turn.calls[0] for turn in turns if turn.calls)

    @property
    def over(self) -> frozenset[int]:
        """Segments of agents whose spawning was answered before."""
        answered = self.parent.turns[: self.turn - 1 if self.without else self.turn]
        calls = {at for turn in answered for at in turn.calls}
        return frozenset(each.id for each in self.parent.segments if each.spawned_by in calls)


def fork_points(groups: Iterable[Group], *, ratio: float, seed: int) -> list[ForkPoint]:
    """The states before and after every turn that is drawn; for every agent that is drawn, the state before
    its work, where it is left out, and the one behind it. Each is drawn with probability `ratio`,
    independently of how its attempt went on, which would bias what is learned from it.
    """

    def is_drawn(was: Trajectory, what: object) -> bool:
        return random.Random(f"fork/{seed}/{was.attempt}/{what}").random() < ratio

    points: list[ForkPoint] = []
    for attempt in (attempt for group in groups for attempt in group.trusted):
        was = attempt.trajectory
        if not was.segments:
            continue
        places = _places(was)
        drawn = {at for at in places if is_drawn(was, at)}
        spawned = {name: at for name, at in turns_of_spawning(was).items() if is_drawn(was, name)}
        points += [
            ForkPoint(parent=was, turn=at)
            for before, at in pairwise(places)
            if {before, at} & drawn or any(before <= turn < at for turn in spawned.values())
        ]
        points += [ForkPoint(parent=was, turn=at + 1, without=name) for name, at in spawned.items()]
    return points


def turns_of_spawning(was: Trajectory) -> dict[str, int]:
    """By agent that the first one spawned and that took a turn, the turn that spawned it."""
    spoke = {turn.segment for turn in was.turns}
    makers = {
        call: at
        for at, turn in enumerate(was.turns)
        if turn.segment == was.segments[0].id
        for call in turn.calls
    }
    return {
        segment.agent: makers[segment.spawned_by]
        for segment in was.segments
        if segment.spawned_by in makers and segment.id in spoke
    }


def _places(was: Trajectory) -> list[int]:
    """Where turns of the first agent begin that made calls."""
    own = was.segments[0].id
    return [was.begin_of(at) for at, turn in enumerate(was.turns) if turn.segment == own and turn.calls]


class ForkRunner:
    """Runs forks as attempts: `group` is the number of the point, `slot` that of the fork. `runner_of`: what
    runs attempts of a harness. `observed`: where forks note the deadlines that they meet themselves; what
    they repeat is late where it was late in their parent.
    """

    def __init__(
        self,
        harness: Harness,
        points: Sequence[ForkPoint],
        runner_of: Callable[[Harness], AttemptRunner],
        *,
        observed: DeadlineLog | None = None,
    ) -> None:
        self._points, self._observed = points, observed or DeadlineLog()
        self._runners = {"": runner_of(harness)}
        for name in {point.without for point in points} - {""}:
            assert isinstance(harness, TeamHarness), "only a team spawns agents"
            self._runners[name] = runner_of(harness.without(name))

    async def run(self, plan: Plan, attempt: AttemptId, engines: Mapping[str, Engine] | None) -> Attempt:
        """As `AttemptRunner.run`, of the parent's task."""
        point = self._points[attempt.group]
        was, repeated = point.parent, Counter(turn.segment for turn in point.parent.turns[: point.turn])
        assert engines is not None, "a fork goes on live"
        forked = {
            policy: ForkedEngine(
                engine,
                was,
                repeated,
                policy,
                seed=attempt.slot + 1,
                reads_on=not point.without,
                over=point.over,
            )
            for policy, engine in engines.items()
        }
        own = self._observed.part(f"fork {attempt.slot} before {point.turn} {point.without}")
        before = RecordedAttempt(replace(was, events=was.events[: point.event]), otherwise=own)
        found = await self._runners[point.without].run(plan, was.attempt, forked, observed=before)
        found = replace(found, trajectory=_as_fork(found.trajectory, point, attempt))
        if found.is_scored and not (found.trajectory.turns or point.without):
            return replace(found, verdict=Verdict.void("infra: it ended before it was live"))
        return found


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
    lineage = Lineage(parent=point.parent.attempt, event=point.event, snapshot="", without=point.without)
    stops: dict[int, int] = {}
    for turn in point.parent.turns[: point.turn]:
        stops[turn.segment] = max(turn.stop, stops.get(turn.segment, 0))
    segments = tuple(
        replace(segment, tokens=_observed(segment.tokens, stops.get(segment.id, 0)))
        for segment in trajectory.segments
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
