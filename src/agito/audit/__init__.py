"""An environment's audit card: eight measured qualities and the gates that training insists on. Start at
`run.audit`.
"""

from __future__ import annotations

from agito.audit.card import Card, Case, Gate, Mark, Measure, Quality, read_card
from agito.audit.env_hash import digest_of
from agito.audit.episode_runner import FULL, SHORT, Depth
from agito.audit.run import audit
from agito.audit.task_pool import SPLITS, needed_splits

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
    "audit",
    "digest_of",
    "needed_splits",
    "read_card",
]
