"""Search leaks: the answer appeared verbatim in something that the agent read outside the intended places.

Not guaranteed: that a paraphrased leak is seen, or that the agent used what it read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agito.types import Event, Flag

MIN_LENGTH = 6  # shorter answers occur by chance
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """`answer` was read in event `index`."""

    index: int
    answer: str
    is_used: bool  # it was submitted afterwards


def leaks(
    events: Sequence[Event],
    answers: Iterable[str],
    *,
    submitted: str | None = None,
    intended: Sequence[str] = (),
    min_length: int = MIN_LENGTH,
) -> tuple[Leak, ...]:
    """Where each answer was first read, ignoring case and spacing. `intended` are parts of calls whose
    results may hold it, such as a file name.

    Text that the agent itself has written so far does not count: an echo is no leak.
    """
    wanted = {answer: plain for answer in answers if len(plain := _plain(answer)) >= min_length}
    found: dict[str, Leak] = {}
    said = ""
    for event in events:
        saying = _plain(" ".join(str(value) for value in event.call.arguments.values()))
        said += "\n" + saying  # everything it has said so far, and may read again
        if any(part in saying for part in map(_plain, intended)):
            continue
        read = _plain(event.text)
        for answer, plain in wanted.items():
            if answer not in found and plain in read and plain not in said:
                is_used = submitted is not None and plain in _plain(submitted)
                found[answer] = Leak(index=event.index, answer=answer, is_used=is_used)
    return tuple(found.values())


def leak_flags(found: Iterable[Leak]) -> tuple[Flag, ...]:
    """Soft flags: reading a leak says more about the environment than about the agent."""
    return tuple(
        Flag(
            kind="search_leak",
            is_proof=False,
            detail=f"event {leak.index} shows an answer{', which was submitted' if leak.is_used else ''}",
        )
        for leak in found
    )


def _plain(text: str) -> str:
    return _SPACE.sub(" ", text).strip().casefold()
