"""Trackers: a process each, which reads the run's event log and passes its numbers on.

The log on disk is the queue: the run never waits for a tracker, and nothing is lost when one is slow. Numbers
and the recipe are all that a tracker gets.
"""

from __future__ import annotations

from agito.record.tracking.attach import tracked
from agito.record.tracking.registry import bundled, load, require

__all__ = ["bundled", "load", "require", "tracked"]
