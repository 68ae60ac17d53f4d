"""Somebody else's agent as a harness: a process of its own, with a gateway to policy and tools. See
docs/gateway.md.
"""

from __future__ import annotations

from agito.harness.foreign.command import CommandHarness

__all__ = ["CommandHarness"]
