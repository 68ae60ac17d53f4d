"""Group to token advantages, without torch; one estimator a file."""

from agito.credit.demonstrations import demonstrations
from agito.credit.leave_one_out import leave_one_out

__all__ = ["demonstrations", "leave_one_out"]
