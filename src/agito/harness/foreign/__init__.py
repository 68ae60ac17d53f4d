"""Somebody else's agent as a harness: a process of its own, which reaches the policy and the tools through a gateway. See docs/gateway.md."""

from __future__ import annotations

from agito.harness.foreign.command import CommandHarness

__all__ = ["CommandHarness"]
