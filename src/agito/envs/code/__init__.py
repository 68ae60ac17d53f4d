"""Repair or complete small Python code bases; hidden cases decide, in processes separate from the verdict."""

from __future__ import annotations

from agito.envs.code.env import CodeEnvironment, RealisticCodeEnvironment

__all__ = ["CodeEnvironment", "RealisticCodeEnvironment"]
