"""Credit from an agent's own score together with its team's outcome."""

from __future__ import annotations

import math
from collections.abc import Sequence

from agito.learning.credit.leave_one_out import leave_one_out_advantages, penalised
from agito.learning.credit.per_role import Roles, require_peers, weighed
from agito.types import Attempt, Fault, Group, Sample, Segment, mean

OWN_SHARE = 0.2  # of an agent's own score, beside the team's outcome


def own_and_team(group: Group, *, running_mean: float = math.nan) -> tuple[Sample, ...]:
    """A = weight (u_i - mean of the others + `OWN_SHARE` (s - mean of s of the role in the others)), where s
    is the agent's own score and the weight is that of `per_role`.

    It is the exact gradient of what the team earns plus a share of the agent's own score, as if no other
    agent had a part in that score: biased for the outcome alone, by as much as the two differ. Where the role
    acted in no other attempt, the own score counts for nothing. Raises `ValueError` for a void group.
    """
    require_peers(group)
    trusted = group.trusted if len(group.trusted) > 1 else ()
    roles = Roles.of(trusted)
    team = leave_one_out_advantages(list(roles.utilities)) if trusted else []
    own = [own_scores(attempt) for attempt in trusted]
    samples: list[Sample] = []
    for at, attempt in enumerate(trusted):

        def advantage(segment: Segment, at: int = at) -> float:
            others = [scores for number, scores in enumerate(own) if number != at]
            against = _mean_of_role(others, segment.role)
            gain = 0.0 if against is None else own[at][segment.role, segment.agent] - against
            return roles.weight(at, segment.role) * (team[at] + OWN_SHARE * gain)

        samples += weighed(attempt, advantage)
    rewards = [attempt.utility for attempt in group.trusted]
    return (*samples, *penalised(group.penalised, mean(rewards) if rewards else running_mean))


def own_scores(attempt: Attempt) -> dict[tuple[str, str], float]:
    """By role and agent that took a turn, the share of its calls that were carried out: not refused for what
    the agent itself wrote. 0 for an agent that made none.
    """
    trajectory, spoke = attempt.trajectory, {turn.segment for turn in attempt.trajectory.turns}
    agents = {
        segment.id: (segment.role, segment.agent) for segment in trajectory.segments if segment.id in spoke
    }
    carried_out: dict[tuple[str, str], list[float]] = {agent: [] for agent in agents.values()}
    for turn in trajectory.turns:
        carried_out[agents[turn.segment]] += [
            float(trajectory.events[index].fault is not Fault.POLICY) for index in turn.calls
        ]
    return {agent: mean(calls) if calls else 0.0 for agent, calls in carried_out.items()}


def _mean_of_role(attempts: Sequence[dict[tuple[str, str], float]], role: str) -> float | None:
    """Of the agents in this role; every attempt in which there are some counts once."""
    means = [
        math.fsum(found) / len(found)
        for scores in attempts
        if (found := [score for (each, _), score in scores.items() if each == role])
    ]
    return mean(means) if means else None
