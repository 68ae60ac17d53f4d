"""What a verdict is made of, as metrics: the means of its named components."""

from __future__ import annotations

import re
from collections.abc import Iterable

from agito.types import Attempt, mean


def score_metrics(attempts: Iterable[Attempt]) -> dict[str, float]:
    """`score/NAME_mean` over the scored attempts that have it. Success has metrics of its own."""
    found: dict[str, list[float]] = {}
    for attempt in attempts:
        for name, score in attempt.verdict.scores.items() if attempt.is_scored else ():
            if name != "success":
                found.setdefault(f"score/{_slug(name)}_mean", []).append(score)
    return {name: mean(scores) for name, scores in found.items()}


def _slug(name: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return words if words[:1].isalpha() else f"n-{words}".rstrip("-")
