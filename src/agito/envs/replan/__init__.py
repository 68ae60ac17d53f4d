"""Ways that are known beforehand, and setbacks that make what is left of a plan worthless."""

from __future__ import annotations

from agito.envs.replan.env import ReplanEnvironment

__all__ = ["ReplanEnvironment"]
