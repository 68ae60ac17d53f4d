"""Repair or complete small Python code bases, judged by hidden cases that never share a process with the
verdict.
"""

from __future__ import annotations

from agito.envs.code.env import CodeEnvironment

__all__ = ["CodeEnvironment"]
