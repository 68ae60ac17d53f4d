"""Sandboxes for everything that an agent does: one per episode, cloned from a clean zygote. See
docs/sandbox.md.
"""

from __future__ import annotations

from agito.worlds.sandbox.doctor import layers, probe
from agito.worlds.sandbox.pool import Pool

__all__ = ["Pool", "layers", "probe"]
