"""Tasks on which thinking pays by a known amount."""

from __future__ import annotations

from agito.envs.thinking.env import RealisticThinkingEnvironment, ThinkingEnvironment

__all__ = ["RealisticThinkingEnvironment", "ThinkingEnvironment"]
