"""Credit by replay: how much better a turn did than a fresh draw of it, measured by going on from before and
from after it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from agito.learning.credit.leave_one_out import leave_one_out, leave_one_out_advantages, penalised
from agito.learning.credit.segments import samples_of
from agito.types import Attempt, Group, Sample, Trajectory, mean


def by_replay(group: Group, *, running_mean: float) -> tuple[Sample, ...]:
    """A_t = Q(s_t, a_t) - V(s_t). Q: the mean reward of the attempt and of the forks from s_{t+1}. V: that of
    the forks from s_t, each of which draws turn t afresh. Where nothing was forked, Q is the attempt's
    reward and V the mean of the group's others, as in `leave_one_out` (cf. VinePPO, arXiv:2410.01679).

    A fork from s_t is trained on from turn t on, against the mean of all others that go on from s_t. Where n
    ways lead on from a state, each counts 1/n from there on, so that turns that were gone on from often do
    not weigh more than others. The gradient is unbiased: neither V depends on turn t, nor the places of forks
    on what came after.

    Void forks count for nothing. Raises `ValueError` as `leave_one_out`, and for a group whose arms were
    sampled by more than one version of the weights.
    """
    forks = [fork for fork in group.forks if fork.is_trusted]
    if len(group.trusted) < 2 or not forks:
        return leave_one_out(group, running_mean=running_mean)
    _require_one_version(group, forks)
    rewards = [attempt.verdict.reward for attempt in group.trusted]
    own = leave_one_out_advantages(rewards)
    samples: list[Sample] = []
    for attempt, advantage in zip(group.trusted, own, strict=True):
        baseline = attempt.verdict.reward - advantage
        samples += _Replayed.of(attempt, forks, baseline).samples()
    return (*samples, *penalised(group, mean(rewards)))


def turn_credits(attempt: Attempt, group: Group) -> dict[int, float]:
    """By turn, the difference of the mean outcomes after it and of fresh draws of it; of those turns that
    forks measure on both sides.
    """
    found = _Replayed.of(attempt, [fork for fork in group.forks if fork.is_trusted], 0.0)
    last = len(attempt.trajectory.turns) - 1
    return {turn: found.advantage(turn) for turn in found.forks if turn == last or turn + 1 in found.forks}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Replayed:
    """An attempt and its forks, by the first turn that they drew afresh."""

    attempt: Attempt
    baseline: float  # of the first turn
    forks: Mapping[int, Sequence[Attempt]] = field(default_factory=dict[int, "Sequence[Attempt]"])

    @classmethod
    def of(cls, attempt: Attempt, forks: Sequence[Attempt], baseline: float) -> _Replayed:
        by_turn: dict[int, list[Attempt]] = {}
        for fork in forks:
            lineage = fork.trajectory.lineage
            if lineage is not None and lineage.parent == attempt.trajectory.attempt:
                by_turn.setdefault(_turn_at(attempt.trajectory, lineage.event), []).append(fork)
        return cls(attempt=attempt, baseline=baseline, forks=by_turn)

    def advantage(self, turn: int) -> float:
        """Of a turn of the attempt itself."""
        after = [self.attempt, *self.forks.get(turn + 1, ())]
        before = self.forks.get(turn)
        value = mean(fork.verdict.reward for fork in before) if before else self.baseline
        return mean(each.verdict.reward for each in after) - value

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
            advantages = leave_one_out_advantages([way.verdict.reward for way in ways])
            for fork, advantage in zip(forks, advantages[1:], strict=True):
                weighed = self.share(point) * advantage
                found += _samples(fork, lambda turn, weighed=weighed: weighed)
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


def _turn_at(trajectory: Trajectory, event: int) -> int:
    """The turn that made this call."""
    return next(number for number, turn in enumerate(trajectory.turns) if event in turn.calls)


def _require_one_version(group: Group, forks: Sequence[Attempt]) -> None:
    parents = {fork.trajectory.lineage.parent for fork in forks if fork.trajectory.lineage is not None}
    arms = [*forks, *(attempt for attempt in group.trusted if attempt.trajectory.attempt in parents)]
    versions = {version for arm in arms for version in _sampled_by(arm.trajectory)}
    if len(versions) > 1:
        raise ValueError(
            f"group {group.id}: its forks and their parents were sampled by the versions {sorted(versions)}"
        )


def _sampled_by(trajectory: Trajectory) -> set[int]:
    tokens = {segment.id: segment.tokens for segment in trajectory.segments}
    return {
        span.version
        for turn in trajectory.turns
        for span in tokens[turn.segment].versions
        if span.start < turn.stop and turn.start < span.stop
    }
