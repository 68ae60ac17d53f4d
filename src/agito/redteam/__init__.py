"""Exploits, honest work, weak graders to prove that the exploits fire, and the attacks as agents. See
docs/redteam.md.
"""

from __future__ import annotations

from agito.redteam.agents import attacks_for

__all__ = ["attacks_for"]
