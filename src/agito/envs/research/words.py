"""The words of the research tasks: short, pronounceable, one token each, with a single role each."""

from __future__ import annotations

_FIRST, _VOWELS, _LAST = "dgklmprtvz", "aeiou", "bdklmnrstv"
_AVOIDED = frozenset(
    {
        "dad",
        "dim",
        "dud",
        "god",
        "gas",
        "kid",
        "lab",
        "lid",
        "mad",
        "man",
        "mat",
        "mud",
        "pat",
        "pet",
        "rat",
        "red",
        "rib",
    }
)


def _words(count: int) -> tuple[str, ...]:
    every = [a + v + b for a in _FIRST for v in _VOWELS for b in _LAST if a + v + b not in _AVOIDED]
    stride = 101  # coprime to the number of words: neighbours get different roles
    return tuple(every[(at * stride) % len(every)] for at in range(count))


_ALL = _words(72)
NAMES = {"person": _ALL[:28], "place": _ALL[28:52], "work": _ALL[52:]}
RELATIONS = {
    "work": {"by": "person", "in": "place"},
    "person": {"home": "place", "boss": "person"},
    "place": {"lord": "person", "near": "place"},
}
# Adjacent in a question of the structural split only.
HELD_OUT = {("by", "home"), ("near", "lord"), ("boss", "boss")}
