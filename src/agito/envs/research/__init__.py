"""Multi-hop questions over generated worlds: search, read, weigh dates and rumors, and answer with
evidence."""

from __future__ import annotations

from agito.envs.research.env import ResearchEnvironment

__all__ = ["ResearchEnvironment"]
