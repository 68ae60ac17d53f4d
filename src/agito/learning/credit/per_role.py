"""Credit per role: every role of a team has a baseline and a spread of its own, and the same weight."""

from __future__ import annotations

import math
import statistics
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from agito.learning.credit.leave_one_out import penalised
from agito.learning.credit.segments import samples_of
from agito.types import Attempt, Group, Sample, Segment, mean


def per_role(group: Group, *, running_mean: float = math.nan) -> tuple[Sample, ...]:
    """A = weight (u_i - mean of u_j), over the others j in which the role acted; where it acted in none of
    them, over all others. The weight makes the tokens of every role count as much as those of any other in
    this group's other attempts, so that who talks much is not who is heard.

    Neither depends on attempt i: for each role the gradient is the exact one, times a positive number (cf.
    Dr. MAS). Raises `ValueError` for a void group.
    """
    return _by_role(group, running_mean, lambda roles, at, role: roles.advantage(at, role))


def per_role_spread(group: Group, *, running_mean: float = math.nan) -> tuple[Sample, ...]:
    """As `per_role`, divided by the standard deviation of u over the attempts in which the role acted.

    That is biased, as it is in `group_mean`: it depends on attempt i.
    """

    def divided(roles: Roles, at: int, role: str) -> float:
        return roles.advantage(at, role) / (roles.spread(role) or 1.0)

    return _by_role(group, running_mean, divided)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Who acted in the trusted attempts of a group, and how much."""

    utilities: Sequence[float]
    tokens: Sequence[Mapping[str, int]]  # trainable ones of each role, by attempt

    @classmethod
    def of(cls, trusted: Sequence[Attempt]) -> Roles:
        return cls(
            utilities=[attempt.utility for attempt in trusted],
            tokens=[tokens_of(attempt) for attempt in trusted],
        )

    def others(self, at: int, role: str) -> list[int]:
        """The other attempts in which the role acted; all others, if it acted in none."""
        others = [number for number in range(len(self.utilities)) if number != at]
        return [number for number in others if role in self.tokens[number]] or others

    def advantage(self, at: int, role: str) -> float:
        """Exactly zero when all utilities are equal."""
        own = self.utilities[at]
        return mean(own - self.utilities[number] for number in self.others(at, role))

    def spread(self, role: str) -> float:
        return statistics.pstdev(
            utility for utility, tokens in zip(self.utilities, self.tokens, strict=True) if role in tokens
        )

    def weight(self, at: int, role: str) -> float:
        """With it, each role would have the same share of the tokens of the other attempts together; 1 where
        the role acted in none of them.
        """
        total = Counter[str]()
        for number, tokens in enumerate(self.tokens):
            total.update(tokens if number != at else {})
        return total.total() / (len(total) * total[role]) if total[role] else 1.0


def tokens_of(attempt: Attempt) -> Counter[str]:
    """Trainable tokens by role, however an agent's tokens are split into segments."""
    found = Counter[str]()
    for sample in samples_of(attempt.trajectory, 0.0):
        found[sample.role] += sample.num_trainable
    return found


def weighed(attempt: Attempt, advantage: Callable[[Segment], float]) -> list[Sample]:
    """The attempt's samples, with an advantage for each segment."""
    segments = {segment.id: segment for segment in attempt.trajectory.segments}
    found: list[Sample] = []
    for sample in samples_of(attempt.trajectory, 0.0):
        value = advantage(segments[sample.segment])
        found.append(
            replace(sample, advantages=array("f", [value if is_on else 0.0 for is_on in sample.trainable]))
        )
    return found


def _by_role(
    group: Group, running_mean: float, advantage: Callable[[Roles, int, str], float]
) -> tuple[Sample, ...]:
    require_peers(group)
    roles = Roles.of(group.trusted)
    samples: list[Sample] = []
    for at, attempt in enumerate(group.trusted if len(group.trusted) > 1 else ()):
        samples += weighed(
            attempt, lambda of, at=at: roles.weight(at, of.role) * advantage(roles, at, of.role)
        )
    return (*samples, *penalised(group.penalised, mean(roles.utilities) if roles.utilities else running_mean))


def require_peers(group: Group) -> None:
    if group.is_void:
        raise ValueError(
            f"group {group.id}: {len(group.trusted)} scored attempts: need at least 2 to form a baseline"
        )
