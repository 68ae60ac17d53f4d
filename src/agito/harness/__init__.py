"""Drives agents through a world."""

from __future__ import annotations

from agito.harness.registry import bundled, load
from agito.harness.role_tools import session_of
from agito.harness.scripted import ScriptedAgent
from agito.harness.solo import SOLO, SoloHarness, asked, solo
from agito.harness.team import TeamHarness

__all__ = [
    "SOLO",
    "ScriptedAgent",
    "SoloHarness",
    "TeamHarness",
    "asked",
    "bundled",
    "load",
    "session_of",
    "solo",
]
