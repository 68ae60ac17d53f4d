"""Customer service over a stateful API: a policy to follow, and a user who omits things and changes their
mind."""

from __future__ import annotations

from agito.envs.desk.env import DeskEnvironment, RealisticDeskEnvironment

__all__ = ["DeskEnvironment", "RealisticDeskEnvironment"]
