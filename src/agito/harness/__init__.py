"""Drives a policy through a world."""

from __future__ import annotations

from agito.harness.scripted import ScriptedAgent
from agito.harness.solo import SoloHarness

__all__ = ["ScriptedAgent", "SoloHarness"]
