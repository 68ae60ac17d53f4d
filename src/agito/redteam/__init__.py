"""A red team against graders: exploits, honest work, and weak graders to prove that the exploits work. See
docs/redteam.md.
"""

from __future__ import annotations

from agito.redteam.agents import attacks_for

__all__ = ["attacks_for"]
