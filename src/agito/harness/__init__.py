"""Drives agents through a world."""

from __future__ import annotations

from agito.harness.granted import session_of
from agito.harness.registry import bundled, load
from agito.harness.scripted import ScriptedAgent
from agito.harness.solo import SOLO, SoloHarness, solo

__all__ = ["SOLO", "ScriptedAgent", "SoloHarness", "bundled", "load", "session_of", "solo"]
