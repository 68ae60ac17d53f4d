"""Pages for people, made from a run directory and nothing else."""

from __future__ import annotations

from agito.view.report import write_report

__all__ = ["write_report"]
