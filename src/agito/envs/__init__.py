"""Task distributions: one file or folder per environment."""

from __future__ import annotations

from agito.envs.mixture import Mixture
from agito.envs.registry import bundled, isolation_of, load

__all__ = ["Mixture", "bundled", "isolation_of", "load"]
