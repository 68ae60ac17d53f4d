"""The words of the desk tasks: short, pronounceable, one token each, with a single role each."""

from __future__ import annotations

_FIRST, _VOWELS, _LAST = "bdfgklnrsv", "aeiou", "dgkmnprtvx"
_AVOIDED = frozenset(
    {
        "bad",
        "bed",
        "dad",
        "dig",
        "dog",
        "fad",
        "fag",
        "fat",
        "gag",
        "god",
        "gun",
        "kid",
        "nag",
        "red",
        "sad",
        "sin",
    }
)


def _words(count: int) -> tuple[str, ...]:
    every = [a + v + b for a in _FIRST for v in _VOWELS for b in _LAST if a + v + b not in _AVOIDED]
    stride = 103  # coprime to the number of words: neighbours get different roles
    return tuple(every[(at * stride) % len(every)] for at in range(count))


_ALL = _words(64)
CUSTOMERS, ITEMS, PLACES = _ALL[:24], _ALL[24:48], _ALL[48:]
