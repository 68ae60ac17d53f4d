"""How a team works: how often it hands out work, how long its longest line of work is, and leaks."""

from __future__ import annotations

from collections.abc import Iterable

from agito.harness.team import LEAKED
from agito.types import Attempt, Segment, Trajectory, mean


def team_metrics(attempts: Iterable[Attempt]) -> dict[str, float]:
    """Nothing where every attempt has one agent of a solo harness."""
    listed = [attempt.trajectory for attempt in attempts]
    if not any(_is_of_team(trajectory) for trajectory in listed):
        return {}
    spoken = [trajectory for trajectory in listed if trajectory.segments]
    spawned = [sum(_is_spawned(segment) for segment in trajectory.segments) for trajectory in spoken]
    return {
        "team/spawn_ratio": mean(float(number > 0) for number in spawned),
        "team/spawned_mean": mean(map(float, spawned)),
        "team/critical_tokens_mean": mean(float(trajectory.num_critical) for trajectory in spoken),
        "team/leaks_num": float(sum(trajectory.detail.startswith(LEAKED) for trajectory in listed)),
    }


def _is_of_team(trajectory: Trajectory) -> bool:
    return trajectory.detail.startswith(LEAKED) or any(map(_is_spawned, trajectory.segments))


def _is_spawned(segment: Segment) -> bool:
    return segment.spawned_by is not None
