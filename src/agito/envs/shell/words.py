"""The words of the shell tasks: short, pronounceable, one token each, with a single role each."""

from __future__ import annotations

_FIRST, _VOWELS, _LAST = "bdfklmrv", "aeiou", "bdgklmnprtvx"
_AVOIDED = {
    "bad",
    "bin",
    "dig",
    "del",
    "dik",
    "fag",
    "fap",
    "fuk",
    "kok",
    "kum",
    "let",
    "log",
    "man",
    "mod",
    "red",
    "rev",
    "rub",
    "run",
    "dud",
}


def _words(count: int) -> tuple[str, ...]:
    """A fixed walk over consonant-vowel-consonant words with few first syllables, so a small BPE learns every
    word whole."""
    every = [a + v + b for a in _FIRST for v in _VOWELS for b in _LAST if a + v + b not in _AVOIDED]
    stride = 97  # coprime to the number of words: neighbours get different roles
    return tuple(every[(i * stride) % len(every)] for i in range(count))


_ALL = _words(120)
NAMES = _ALL[:16]  # of directories and files
KEYS = _ALL[16:52]
# In training, each of these keys plays its part in this family only.
ONLY = {"find": KEYS[-12:-6], "repair": KEYS[-6:]}
VALUES = _ALL[52:]  # 68: a blind guess is right about once in seventy
