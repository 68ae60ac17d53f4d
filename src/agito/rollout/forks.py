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
    without: str = ""  # the agent whose report is withheld

    @property
    def event(self) -> int:
        """The first call that is made live."""
        turns = self.parent.turns[self.turn :]
        return next(turn.calls[0] for turn in turns if turn.calls)


def fork_points(groups: Iterable[Group], *, ratio: float, seed: int) -> list[ForkPoint]:
    """The states before and after every turn that is drawn, and after every agent's work that is drawn the
    state with and without its report. Each is drawn with probability `ratio`, independently of how its
    attempt went on, which would bias what is learned from it.
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
        ends = {name: at for name, at in ends_of_work(was).items() if is_drawn(was, name)}
        points += [
            ForkPoint(parent=was, turn=at)
            for before, at in pairwise(places)
            if {before, at} & drawn or at in ends.values()
        ]
        points += [ForkPoint(parent=was, turn=at, without=name) for name, at in ends.items()]
    return points


def ends_of_work(was: Trajectory) -> dict[str, int]:
    """By agent that the first one spawned, the first one's turn that follows; none where it took no more."""
    found: dict[str, int] = {}
    for before, after in pairwise(_places(was)):
        own = [turn for turn in was.turns[before:after] if turn.segment == was.segments[0].id]
        calls = {at for turn in own for at in turn.calls}
        found |= {segment.agent: after for segment in was.segments if segment.spawned_by in calls}
    return found


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
            assert isinstance(harness, TeamHarness), "only a team has reports"
            self._runners[name] = runner_of(harness.without(name))

    async def run(self, plan: Plan, attempt: AttemptId, engines: Mapping[str, Engine] | None) -> Attempt:
        """As `AttemptRunner.run`, of the parent's task."""
        point = self._points[attempt.group]
        was, repeated = point.parent, Counter(turn.segment for turn in point.parent.turns[: point.turn])
        assert engines is not None, "a fork goes on live"
        forked = {
            policy: ForkedEngine(
                engine, was, repeated, policy, seed=attempt.slot + 1, reads_on=not point.without
            )
            for policy, engine in engines.items()
        }

        def cost(whole: Attempt) -> float:
            return plan.cost(_charged(whole, point.without))

        own = self._observed.part(f"fork {attempt.slot} before {point.turn} {point.without}")
        before = RecordedAttempt(replace(was, events=was.events[: point.event]), otherwise=own)
        found = await self._runners[point.without].run(
            replace(plan, cost=cost), was.attempt, forked, observed=before
        )
        found = replace(found, trajectory=_as_fork(found.trajectory, point, attempt))
        if found.is_scored and not found.trajectory.turns:
            return replace(found, verdict=Verdict.void("infra: it ended before it was live"))
        return found


def _charged(attempt: Attempt, without: str) -> Attempt:
    """What a fork pays for: not for the work of the agent whose report it withholds, since that agent is
    compared with it.
    """
    return replace(attempt, trajectory=attempt.trajectory.without(without)) if without else attempt


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
