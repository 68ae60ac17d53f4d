"""The two modes of effort `auto`, act at once or think first, and the gradient of the choice between them.

The choice is an attempt's first token. With U(m) the mean utility of the attempts in mode m, and p(m) the
policy's own probability of it, the gradient of sum_m p(m) U(m) is sum_m p(m) A(m) grad log p(m), with
A(m) = U(m) - sum_m' p(m') U(m'). It goes to that token alone; all others are compared within their mode, so
that nobody is punished for a mode that was chosen for him. Plain group-relative credit on every token
collapses to one mode (Thinkless, arXiv:2505.13379; HGPO, arXiv:2505.14631).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from agito.learning.credit.segments import samples_of
from agito.protocols import Credit
from agito.types import Attempt, Effort, Group, Mode, Sample, Trajectory, mean


def effort_of(trajectory: Trajectory) -> Effort:
    return trajectory.turns[0].effort if trajectory.turns else Effort.NONE


def mode_of(trajectory: Trajectory) -> Mode | None:
    """None at any effort but `auto`, and where the first turn was begun with a call that was forced."""
    return trajectory.turns[0].mode if trajectory.turns else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Modes:
    """Trusted attempts at one task at `auto`, by mode, and the policy's probability of acting at once: known
    where any attempt did, as its first token's."""

    attempts: Mapping[Mode, tuple[Attempt, ...]]
    act: float | None

    @classmethod
    def of(cls, group: Group) -> Modes:
        attempts = {
            mode: tuple(each for each in group.trusted if mode_of(each.trajectory) is mode) for mode in Mode
        }
        chances = [math.exp(at) for each in attempts[Mode.ACT] if math.isfinite(at := _logprob(each))]
        return cls(attempts=attempts, act=mean(chances) if chances else None)

    def chance(self, mode: Mode) -> float:
        """p(m); where nobody acted at once, or by force, as often as it was done."""
        if self.act is None:
            total = sum(map(len, self.attempts.values()))
            return len(self.attempts[mode]) / total if total else math.nan
        return self.act if mode is Mode.ACT else 1.0 - self.act

    def mean(self, value: Callable[[Attempt], float]) -> float:
        """Under the policy's own choice, whatever was chosen for it; of one mode where there is one. NaN
        where nobody chose."""
        parts = [
            (self.chance(mode), [value(each) for each in own]) for mode, own in self.attempts.items() if own
        ]
        total = sum(chance for chance, _ in parts)
        if not parts:
            return math.nan
        if total <= 0:
            return mean(each for _, values in parts for each in values)
        return sum(chance * mean(values) for chance, values in parts) / total

    def advantages(self, *, least: float) -> dict[Mode, float]:
        """Of the first token, in each mode: n p(m) / n(m) A(m), over n attempts of which n(m) are in it. So
        the gradient is that of the policy's own choice, however many attempts each mode was given. The better
        mode counts as no rarer than `least`: one that the policy has all but given up can come back, and the
        other is not pushed further. Empty where one mode is missing: there is nothing to compare."""
        if self.act is None or not all(self.attempts.values()):
            return {}
        num = sum(map(len, self.attempts.values()))
        utilities = {mode: mean(each.utility for each in own) for mode, own in self.attempts.items()}
        better, worse = sorted(Mode, key=lambda mode: utilities[mode], reverse=True)
        chance = max(self.chance(better), least)
        # A(m) = U(m) - sum p U = (1 - p(m)) (U(m) - U(other)): exactly zero where both are equal
        gain = num * chance * (1.0 - chance) * (utilities[better] - utilities[worse])
        return {better: gain / len(self.attempts[better]), worse: -gain / len(self.attempts[worse])}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeCredit:
    """`credit` within each mode of a group at `auto`, and the mode's own advantage, times `weight`, on its
    token. Other groups are credited as ever."""

    credit: Credit
    weight: float
    least: float

    def __call__(self, group: Group, *, running_mean: float = math.nan) -> tuple[Sample, ...]:
        if not any(mode_of(attempt.trajectory) for attempt in group.attempts):
            return self.credit(group, running_mean=running_mean)
        chosen = Modes.of(group).advantages(least=self.least)
        samples: list[Sample] = []
        for mode in (*Mode, None):  # None: of those whose first turn was begun for them
            own = tuple(each for each in group.attempts if mode_of(each.trajectory) is mode)
            advantage = 0.0 if mode is None else chosen.get(mode, 0.0)
            samples += self._within(replace(group, attempts=own), running_mean, advantage) if own else []
        return tuple(samples)

    def _within(self, part: Group, running_mean: float, chosen: float) -> list[Sample]:
        if part.is_void:  # too few to compare; the choice alone is learned
            samples = [each for own in part.trusted for each in samples_of(own.trajectory, 0.0)]
        else:
            samples = [*self.credit(part, running_mean=running_mean)]
            credited = {sample.attempt for sample in samples}
            left_out = [each.trajectory for each in part.trusted if each.trajectory.attempt not in credited]
            samples += [each for trajectory in left_out for each in samples_of(trajectory, 0.0)]
        trusted = {each.trajectory.attempt: each.trajectory for each in part.trusted}
        others = {each.trajectory.attempt: each.trajectory for each in part.attempts}
        return [
            _with_choice(sample, trusted[sample.attempt], self.weight * chosen)
            if sample.attempt in trusted
            else _without_choice(sample, others[sample.attempt])
            for sample in samples
        ]


def _with_choice(sample: Sample, trajectory: Trajectory, advantage: float) -> Sample:
    """A thought's first token is both a choice and a part of the thought; a close is a choice alone."""
    first = trajectory.turns[0]
    if sample.segment != first.segment or not sample.trainable[first.start]:
        return sample
    advantages = array("f", sample.advantages)
    within = advantages[first.start] if first.mode is Mode.THINK else 0.0
    advantages[first.start] = within + advantage
    return replace(sample, advantages=advantages)


def _without_choice(sample: Sample, trajectory: Trajectory) -> Sample:
    """Of a penalised attempt: an action that was chosen for it is not its own fault."""
    first = trajectory.turns[0]
    if not first.is_steered or first.mode is not Mode.ACT or sample.segment != first.segment:
        return sample
    advantages = array("f", sample.advantages)
    advantages[first.start] = 0.0
    return replace(sample, advantages=advantages)


def _logprob(attempt: Attempt) -> float:
    """Of the first token; NaN where it was forced."""
    first = attempt.trajectory.turns[0]
    tokens = next(each.tokens for each in attempt.trajectory.segments if each.id == first.segment)
    return tokens.logprobs[first.start]


def modes_of(groups: Sequence[Group]) -> list[Modes]:
    """Of the groups at `auto`."""
    found = [Modes.of(group) for group in groups if any(mode_of(each.trajectory) for each in group.trusted)]
    return [each for each in found if any(each.attempts.values())]
