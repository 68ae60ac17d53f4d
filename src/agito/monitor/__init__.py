"""Watches for reward hacking during training: evidence, a held-out validator (gold), a change detector. No
I/O: state in, decisions out.
"""

from __future__ import annotations

from agito.monitor.config import MonitorConfig
from agito.monitor.detector import HackRate
from agito.monitor.evidence import (
    REPORT_FLAW,
    WATCHED_ONLY,
    is_report,
    is_suspect,
    located,
    proof_of,
    proofs,
    shapes,
)
from agito.monitor.monitor import Monitor

__all__ = [
    "HackRate",
    "Monitor",
    "MonitorConfig",
    "REPORT_FLAW",
    "WATCHED_ONLY",
    "is_report",
    "is_suspect",
    "located",
    "proof_of",
    "proofs",
    "shapes",
]
