"""The card of an environment: eight qualities, measured, and the gates that training insists on. Start at `run.audit`."""

from __future__ import annotations

from agito.grading.audit.card import Card, Case, Gate, Mark, Measure, Quality, read_card
from agito.grading.audit.digest import digest_of
from agito.grading.audit.pool import SPLITS
from agito.grading.audit.run import audit
from agito.grading.audit.stage import FULL, SHORT, Depth, Watcher

__all__ = [
    "FULL",
    "SHORT",
    "SPLITS",
    "Card",
    "Case",
    "Depth",
    "Gate",
    "Mark",
    "Measure",
    "Quality",
    "Watcher",
    "audit",
    "digest_of",
    "read_card",
]
