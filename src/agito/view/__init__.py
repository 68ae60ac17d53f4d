"""Pages for people, made from a run directory or a card alone."""

from __future__ import annotations

from agito.view.card import write_card
from agito.view.report import write_report

__all__ = ["write_card", "write_report"]
