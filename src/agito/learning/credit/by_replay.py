"""Credit by replay: how much better a turn did than a fresh draw of it, measured by going on from before and
from after it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from agito.learning.credit.leave_one_out import leave_one_out, leave_one_out_advantages, penalised
from agito.learning.credit.segments import samples_of
from agito.types import Attempt, Group, Sample, Trajectory, mean


def by_replay(group: Group, *, running_mean: float) -> tuple[Sample, ...]:
    """A_t = Q - V. Q: the mean utility of the attempt and of the forks from the first forked state behind
    turn t; where there is none, the attempt's utility. V: that of the forks from the last forked state before
    turn t, which draw t afresh; where there is none, the mean of the group's others, as in `leave_one_out`.
    With both next to t it is the credit of turn t alone (cf. VinePPO, arXiv:2410.01679).

    The tokens of an agent that some forks left out are compared with those: V is their mean (a difference
    reward). It fails there before it does anything, and its budget returns. So V does not depend on what it
    said, nor on what it did to the world or spent. Such forks count for nothing else and are not trained on,
    since the policy would not have come there.

    A fork from s_t is trained on from turn t on, against the mean of all others that go on from s_t. Where n
    ways lead on from a state, each counts 1/n from there on, so that turns that were gone on from often do
    not weigh more than others. The gradient is unbiased: neither V depends on turn t, nor the places of forks
    on what came after.

    A fork that cheats pays as an attempt does, against the others that go on from its state, and is in
    nobody's mean. Void forks count for nothing. Raises `ValueError` as `leave_one_out`, and for a group whose
    arms were sampled by more than one version of a policy's weights.
    """
    if len(group.trusted) < 2 or not any(fork.is_scored for fork in group.forks):
        return leave_one_out(group, running_mean=running_mean)
    _require_one_version(group)
    utilities = _utilities(group.trusted)
    samples: list[Sample] = []
    for attempt, advantage in zip(group.trusted, leave_one_out_advantages(utilities), strict=True):
        samples += _Replayed.of(attempt, group.forks, attempt.utility - advantage).samples()
    return (*samples, *penalised(group.penalised, mean(utilities)))


def turn_credits(attempt: Attempt, group: Group) -> dict[int, float]:
    """By turn, the difference of the mean outcomes after it and of fresh draws of it; of those turns that
    forks measure on both sides.
    """
    found, was = _Replayed.of(attempt, group.forks, 0.0), attempt.trajectory
    begins = [at for at, turn in enumerate(was.turns) if not turn.continues]
    after = dict(pairwise([*begins, None]))
    return {turn: found.advantage(turn) for turn in found.forks if after[turn] in (None, *found.forks)}


def agent_credits(attempt: Attempt, group: Group) -> dict[str, float]:
    """By agent, the difference of the mean outcomes with it and without it, of those that forks measure."""
    found = _Replayed.of(attempt, group.forks, 0.0)
    return {
        agent: found.outcome_with(agent) - mean(_utilities(forks)) for agent, forks in found.without.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Replayed:
    """An attempt and its forks, by the first turn that they drew afresh."""

    attempt: Attempt
    baseline: float  # of the first turn
    forks: Mapping[int, Sequence[Attempt]] = field(default_factory=dict[int, "Sequence[Attempt]"])
    without: Mapping[str, Sequence[Attempt]] = field(default_factory=dict[str, "Sequence[Attempt]"])
    cheats: Sequence[tuple[int, Attempt]] = ()  # penalised forks, with their turns

    @classmethod
    def of(cls, attempt: Attempt, forks: Sequence[Attempt], baseline: float) -> _Replayed:
        by_turn, by_agent = dict[int, list[Attempt]](), dict[str, list[Attempt]]()
        cheats: list[tuple[int, Attempt]] = []
        for fork in forks:
            lineage = fork.trajectory.lineage
            if lineage is None or lineage.parent != attempt.trajectory.attempt or not fork.is_scored:
                continue
            turn = _turn_at(attempt.trajectory, lineage.event)
            if lineage.without and fork.is_trusted:
                by_agent.setdefault(lineage.without, []).append(fork)
            elif fork.is_trusted:
                by_turn.setdefault(turn, []).append(fork)
            elif not lineage.without:
                cheats.append((turn, fork))
        return cls(attempt=attempt, baseline=baseline, forks=by_turn, without=by_agent, cheats=cheats)

    def advantage(self, turn: int) -> float:
        """Of a turn of the attempt itself."""
        if without := self.without.get(self._agent_of(turn)):
            return self.outcome_with(self._agent_of(turn)) - mean(_utilities(without))
        before = max((point for point in self.forks if point <= turn), default=None)
        value = self.baseline if before is None else mean(_utilities(self.forks[before]))
        return self._outcome_behind(turn) - value

    def outcome_with(self, agent: str) -> float:
        """The mean outcome from behind its work on."""
        (event,) = {fork.trajectory.lineage.event for fork in self.without[agent] if fork.trajectory.lineage}
        return self._outcome_behind(_turn_at(self.attempt.trajectory, event))

    def _outcome_behind(self, turn: int) -> float:
        after = min((point for point in self.forks if point > turn), default=None)
        return mean(_utilities([self.attempt, *(self.forks[after] if after is not None else ())]))

    def _agent_of(self, turn: int) -> str:
        trajectory = self.attempt.trajectory
        number = trajectory.turns[turn].segment
        return next(segment.agent for segment in trajectory.segments if segment.id == number)

    def share(self, turn: int) -> float:
        """What one way from this state on counts."""
        share = 1.0
        for point, forks in self.forks.items():
            share /= 1 + len(forks) if point <= turn else 1
        return share

    def samples(self) -> list[Sample]:
        found = _samples(self.attempt, lambda turn: self.share(turn) * self.advantage(turn))
        for point, forks in self.forks.items():
            ways = [self.attempt, *forks]
            advantages = leave_one_out_advantages(_utilities(ways))
            for fork, advantage in zip(forks, advantages[1:], strict=True):
                weighed = self.share(point) * advantage
                found += _samples(fork, lambda turn, weighed=weighed: weighed)
        for point, fork in self.cheats:
            value = mean(_utilities([self.attempt, *self.forks.get(point, ())]))
            found += penalised([fork], value, share=self.share(point))
        return found


def _samples(attempt: Attempt, advantage: Callable[[int], float]) -> list[Sample]:
    """The attempt's samples, with an advantage for each of its turns."""
    found: list[Sample] = []
    turns = attempt.trajectory.turns
    for sample in samples_of(attempt.trajectory, 0.0):
        column = array("f", sample.advantages)
        for number, turn in enumerate(turns):
            value = advantage(number) if turn.segment == sample.segment else 0.0
            for at in range(turn.start, turn.stop) if turn.segment == sample.segment else ():
                column[at] = value if sample.trainable[at] else 0.0
        found.append(replace(sample, advantages=column))
    return found


def _utilities(attempts: Sequence[Attempt]) -> list[float]:
    return [attempt.utility for attempt in attempts]


def _turn_at(trajectory: Trajectory, event: int) -> int:
    """Where the turn begins that made this call."""
    turns = enumerate(trajectory.turns)
    return trajectory.begin_of(next(number for number, turn in turns if event in turn.calls))


def _require_one_version(group: Group) -> None:
    forks = [fork for fork in group.forks if fork.is_scored]
    parents = {fork.trajectory.lineage.parent for fork in forks if fork.trajectory.lineage is not None}
    arms = [*forks, *(attempt for attempt in group.trusted if attempt.trajectory.attempt in parents)]
    versions: dict[str, set[int]] = {}
    for arm in arms:
        segments = {segment.id: segment for segment in arm.trajectory.segments}
        for turn in arm.trajectory.turns:
            segment = segments[turn.segment]
            versions.setdefault(segment.policy, set()).update(
                span.version
                for span in segment.tokens.versions
                if span.start < turn.stop and turn.start < span.stop
            )
    for policy, found in versions.items():
        if len(found) > 1:
            raise ValueError(
                f"group {group.id}: its forks and their parents were sampled by the versions {sorted(found)} "
                f"of {policy}"
            )
