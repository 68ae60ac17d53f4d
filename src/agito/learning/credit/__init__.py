"""Credit assignment: a group of attempts to per-token advantages. Without torch; one estimator a file, chosen
by name."""

from agito.learning.credit.by_replay import agent_credits, by_replay, turn_credits
from agito.learning.credit.demonstrations import demonstrations
from agito.learning.credit.group_mean import group_mean
from agito.learning.credit.leave_one_out import leave_one_out
from agito.learning.credit.own_and_team import own_and_team, own_scores
from agito.learning.credit.per_role import per_role, per_role_spread
from agito.learning.credit.registry import CREDITS, load
from agito.learning.credit.running_mean import RunningMeans

__all__ = [
    "CREDITS",
    "RunningMeans",
    "agent_credits",
    "by_replay",
    "demonstrations",
    "group_mean",
    "leave_one_out",
    "load",
    "own_and_team",
    "own_scores",
    "per_role",
    "per_role_spread",
    "turn_credits",
]
