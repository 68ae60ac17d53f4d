"""Search leaks: the answer stood, word for word, in something that the agent read where the task did not mean
it to.

Not guaranteed: that a leak in other words is seen, or that the agent used what it read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agito.types import Event, Flag

MIN_LENGTH = 6  # shorter answers turn up by chance
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """`answer` was read in event `index`."""

    index: int
    answer: str
    is_used: bool  # it was then submitted


def leaks(
    events: Sequence[Event],
    answers: Iterable[str],
    *,
    submitted: str | None = None,
    intended: Sequence[str] = (),
    min_length: int = MIN_LENGTH,
) -> tuple[Leak, ...]:
    """Where an answer was first read, case and space apart. `intended` are parts of calls whose results may
    hold it, such as a file's name.

    What the agent itself wrote, in this call or before, does not count: an echo is no leak.
    """
    wanted = {answer: plain for answer in answers if len(plain := _plain(answer)) >= min_length}
    found: dict[str, Leak] = {}
    said = ""
    for event in events:
        saying = _plain(" ".join(str(value) for value in event.call.arguments.values()))
        said += "\n" + saying  # also what it said before and reads again
        if any(part in saying for part in map(_plain, intended)):
            continue
        read = _plain(event.text)
        for answer, plain in wanted.items():
            if answer not in found and plain in read and plain not in said:
                is_used = submitted is not None and plain in _plain(submitted)
                found[answer] = Leak(index=event.index, answer=answer, is_used=is_used)
    return tuple(found.values())


def leak_flags(found: Iterable[Leak]) -> tuple[Flag, ...]:
    """Soft: that it was read says something about the environment first, and about the agent only if it was
    used.
    """
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
