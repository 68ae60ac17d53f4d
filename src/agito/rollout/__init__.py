"""Issue attempts, run them, seal, grade, retry voids, complete groups; torch-free."""

from __future__ import annotations

from agito.rollout.attempt import AttemptRunner, Plan
from agito.rollout.collect import Collected, collect, outcome

__all__ = ["AttemptRunner", "Collected", "Plan", "collect", "outcome"]
