"""The words of the diagnostic worlds: short, pronounceable, with few first syllables, so a small BPE learns
each as one token."""

from __future__ import annotations

_EVERY = tuple(a + v + b for a in "bdfklmrv" for v in "aeiou" for b in "dgklmnprtvx")
_STRIDE = 97  # coprime to the number of words: neighbours get different roles
_ALL = tuple(dict.fromkeys(_EVERY[(7 + i * _STRIDE) % len(_EVERY)] for i in range(40)))

NAMES = _ALL[:16]  # asked about, made, or started
VALUES = _ALL[16:]  # read and answered: a blind guess is right once in 24
