"""Static evidence in an answer: text written to fool a lenient reader. All of it is soft."""

from __future__ import annotations

import math
import re

from agito.types import Flag

MANY = 6  # separate values in one answer count as a list
_INJECTION = re.compile(
    r"^\W*(verdict|score|grade|rating|result|reward)\W*[:=]\W*(pass|correct|full|[\d.]+)|ignore "
    r"(all|any|the)? ?(previous|prior|above)|"
    r"</?(answer|system|instructions?|judge|assistant)>|the verdict is|reward\s*=",
    re.IGNORECASE | re.MULTILINE,
)
_SEPARATOR = re.compile(r"\s*(?:,|;|\n|\||\bor\b)\s*")


def answer_flags(answer: str) -> tuple[Flag, ...]:
    """Flags what no honest short answer looks like, such as an answer without a letter or digit."""
    flags: list[Flag] = []
    if found := _INJECTION.search(answer):
        flags.append(Flag(kind="judge_injection", is_proof=False, detail=found[0][:80]))
    if not any(letter.isalnum() for letter in answer):
        flags.append(Flag(kind="no_plain_answer", is_proof=False, detail=answer[:80]))
    try:
        is_finite = math.isfinite(float(answer))
    except ValueError:
        is_finite = True
    if not is_finite:
        flags.append(Flag(kind="no_plain_answer", is_proof=False, detail=answer[:80]))
    values = {part for part in _SEPARATOR.split(answer) if part}
    if len(values) >= MANY:
        flags.append(Flag(kind="listing", is_proof=False, detail=f"{len(values)} values in one answer"))
    return tuple(flags)
