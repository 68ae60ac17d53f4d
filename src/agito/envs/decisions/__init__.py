"""Five diagnostic worlds with a known optimum, one for each decision of an agent: chain, probe, tooldag,
ledger, fanout."""

from __future__ import annotations

from agito.envs.decisions.env import DecisionsEnvironment

__all__ = ["DecisionsEnvironment"]
