"""Customer service over a stateful API: a policy to keep, a user who leaves things out and changes their
mind.
"""

from __future__ import annotations

from agito.envs.desk.env import DeskEnvironment

__all__ = ["DeskEnvironment"]
