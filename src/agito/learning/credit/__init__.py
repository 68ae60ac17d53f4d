"""Credit assignment: a group of attempts to per-token advantages. Without torch; one estimator a file, chosen
by name."""

from collections.abc import Mapping
from typing import cast

from agito import plugins
from agito.errors import BadRecipe
from agito.learning.credit.by_replay import agent_credits, by_replay, turn_credits
from agito.learning.credit.demonstrations import demonstrations
from agito.learning.credit.group_mean import group_mean
from agito.learning.credit.leave_one_out import leave_one_out
from agito.learning.credit.running_mean import RunningMeans
from agito.protocols import Credit

CREDITS: Mapping[str, Credit] = {
    "leave_one_out": leave_one_out,
    "group_mean": group_mean,
    "by_replay": by_replay,
}

__all__ = [
    "CREDITS",
    "RunningMeans",
    "agent_credits",
    "by_replay",
    "demonstrations",
    "group_mean",
    "leave_one_out",
    "load",
    "turn_credits",
]


def load(name: str) -> Credit:
    """The estimator of this name, or an instance of the class at `path.py:Class`.

    Raises `NotFound` for an unknown name, a missing file or class; `BadRecipe` for one that fails.
    """
    if name in CREDITS:
        return CREDITS[name]
    bundled = dict.fromkeys(CREDITS, "")
    return cast("Credit", plugins.make("credit", name, bundled, ("__call__",), BadRecipe))
