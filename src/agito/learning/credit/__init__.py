"""Credit assignment: a group of attempts to per-token advantages. Without torch; one estimator a file, chosen
by name."""

from collections.abc import Mapping

from agito.learning.credit.demonstrations import demonstrations
from agito.learning.credit.group_mean import group_mean
from agito.learning.credit.leave_one_out import leave_one_out
from agito.learning.credit.running_mean import RunningMeans
from agito.protocols import Credit

CREDITS: Mapping[str, Credit] = {"leave_one_out": leave_one_out, "group_mean": group_mean}

__all__ = ["CREDITS", "RunningMeans", "demonstrations", "group_mean", "leave_one_out"]
