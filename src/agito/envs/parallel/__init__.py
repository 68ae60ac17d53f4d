"""Work in parts, of which a declared share (phi) can be done side by side."""

from __future__ import annotations

from agito.envs.parallel.env import ParallelEnvironment

__all__ = ["ParallelEnvironment"]
