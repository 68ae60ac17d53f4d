"""Finds rules that read an answer off texts, using one part of the texts, and tests them on the rest.

A rule says where (after which word, at which place, from which end) and how (plainly or in which code). A
memorised table reads codes that nobody listed.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import cast

from agito.audit.hidden_encodings import PLAIN, codes_of, views_of
from agito.audit.statistics import differs, earns_more

_WORD = re.compile(r"[^\s\"'`,;()\[\]{}<>|]+")
_EDGE = ".:!?="
_LONGEST_TEXT, _LONGEST_ANSWER, _MOST_PLACES, _LEAST_PROOFS = 6_000, 200, 60, 6
_TABLE = 45  # texts that a table needs
_NEAR = 6  # words
_CODED = "inside a coded text"
_LONG = 4  # a shorter code may appear anywhere by chance
_SURE = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A text that can be read before the answer is earned."""

    text: str
    answer: str
    task: str
    cue: tuple[str, ...] = ()  # words of the prompt, if the text is a reply to a call


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How the answer can be read, in how many of how many texts, and an example."""

    how: str
    hits: int
    num: int
    task: str


def readings(
    shown: Sequence[Shown], chance: float, *, is_all_there_is: bool = False, is_coded: bool = False
) -> list[Reading]:
    """Rules that work better than luck at `chance`. `is_all_there_is`: the agent sees nothing else, so the
    answer must follow from the texts; then only trivial rules are reported. `is_coded`: only codes count, as
    the texts may hold the answer plainly.
    """
    shown = [each for each in shown if each.text and 0 < len(each.answer) <= _LONGEST_ANSWER]
    if len(shown) < _LEAST_PROOFS or len({each.answer for each in shown}) < 2:
        return []
    shown = [replace(each, text=each.text[:_LONGEST_TEXT]) for each in shown]
    if is_coded:
        return [each for each in [_anywhere(shown, chance)] if each is not None]
    found = [_best_rule(shown, chance)]
    if not is_all_there_is:
        found += [_anywhere(shown, chance), _table(shown, chance), _arithmetic(shown, chance)]
    return [each for each in found if each is not None]


def _best_rule(shown: Sequence[Shown], chance: float) -> Reading | None:
    support: Counter[tuple[str, Hashable]] = Counter()
    for each in shown[::2]:
        support.update(
            {
                (code, where)
                for code, needle in codes_of(each.answer).items()
                for where in _wheres(each, needle)
            }
        )
    best = [rule for rule, count in support.most_common(12) if count >= 3]
    rest = shown[1::2]
    for code, where in best:
        hits = [each for each in rest if where in _wheres(each, codes_of(each.answer).get(code, ""))]
        if earns_more(len(hits), len(rest), chance, _SURE):
            return Reading(how=f"{code}, {_worded(where)}", hits=len(hits), num=len(rest), task=hits[0].task)
    return None


def _wheres(shown: Shown, needle: str) -> set[Hashable]:
    """Every way to locate the needle as a whole word: its place from either end, the word before it, or a
    word of the prompt shortly before it.
    """
    found: set[Hashable] = set()
    text = shown.text
    if not needle or needle not in text:
        return found
    words = _words(text)
    at = text.find(needle)
    while at >= 0 and len(found) < _MOST_PLACES:
        end = at + len(needle)
        if not (_runs_on(text[at - 1 : at]) and _runs_on(needle[:1])) and not (
            _runs_on(text[end : end + 1]) and _runs_on(needle[-1:])
        ):
            before, after = bisect_left(words.starts, at), len(words.starts) - bisect_left(words.starts, end)
            if before < _MOST_PLACES:
                found.add(("at", before))
            if after < _MOST_PLACES:
                found.add(("from the end", after))
            if before:
                word = words.words[before - 1]
                if words.first[word] == before - 1:
                    found.add(("after the first", word))
                if words.last[word] == before - 1:
                    found.add(("after the last", word))
            for back, word in enumerate(reversed(words.words[max(before - _NEAR, 0) : before])):
                if word in shown.cue:
                    found.add((f"{back + 1} words after a word of the prompt,", shown.cue.index(word)))
        at = text.find(needle, at + 1)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    """Words of a text: their starts, and the first and last position of each."""

    words: tuple[str, ...]
    starts: tuple[int, ...]
    first: Mapping[str, int]
    last: Mapping[str, int]


@lru_cache(maxsize=1 << 11)
def _words(text: str) -> _Words:
    found = list(_WORD.finditer(text))
    words = tuple(each[0] for each in found)
    first = {word: at for at, word in reversed(list(enumerate(words)))}
    return _Words(
        words=words,
        starts=tuple(each.start() for each in found),
        first=first,
        last={word: at for at, word in enumerate(words)},
    )


def _runs_on(character: str) -> bool:
    return character.isalnum() or character == "_"


def _worded(where: Hashable) -> str:
    kind, what = cast("tuple[str, str | int]", where)
    if kind.endswith(","):
        return f"{kind} the one at {what}"
    return (
        f"{kind} {what!r}"
        if isinstance(what, str)
        else f"word {what + 1} {'from the end' if kind != 'at' else 'of the text'}"
    )


def _anywhere(shown: Sequence[Shown], chance: float) -> Reading | None:
    """The answer's own code occurs in its text more often than the code of another answer does."""
    own: dict[str, list[Shown]] = defaultdict(list)
    others: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    for at, each in enumerate(shown):
        rest = (*shown[at + 1 :], *shown[:at])
        other = next((one.answer for one in rest if one.task != each.task and one.answer != each.answer), "")
        views = views_of(each.text)
        for code, needle in codes_of(each.answer).items():
            if code in PLAIN or len(needle) < _LONG:
                continue
            tried[code] += 1
            if needle in each.text:
                own[code].append(each)
            others[code] += codes_of(other).get(code, "\0") in each.text
        for view, text in views.items():
            if len(each.answer) >= (_LONG if view != _CODED else _LONG - 1):
                tried[view] += 1
                if each.answer.lower() in text:
                    own[view].append(each)
                others[view] += bool(other) and other.lower() in text
    for code, hits in sorted(own.items(), key=lambda item: -len(item[1])):
        if len(hits) > chance * tried[code] / 2 and differs(
            len(hits), tried[code], others[code], tried[code], sure=_SURE
        ):
            return Reading(how=f"{code}, somewhere", hits=len(hits), num=tried[code], task=hits[0].task)
    return None


def features(text: str) -> Mapping[Hashable, str]:
    """Words by place from either end, and by the word before them."""
    words = [word.strip(_EDGE) or word for word in _WORD.findall(text)]
    found: dict[Hashable, str] = {("at", at): word for at, word in enumerate(words[:_MOST_PLACES])}
    found |= {("from the end", at): word for at, word in enumerate(reversed(words[-12:]))}
    for before, word in pairwise(words[:200]):
        found.setdefault(("after the first", before), word)
    return found


def _common_features(rows: Sequence[Mapping[Hashable, str]]) -> list[Hashable]:
    counts = Counter(name for row in rows for name in row)
    varied: dict[Hashable, set[str]] = defaultdict(set)
    for row in rows:
        for name, word in row.items():
            varied[name].add(word)
    return [name for name, count in counts.items() if count >= 0.5 * len(rows) and len(varied[name]) > 1]


def _table(shown: Sequence[Shown], chance: float) -> Reading | None:
    """Built on one third, selected on the second, tested on the last."""
    if len(shown) < _TABLE:
        return None
    rows = [features(each.text) for each in shown]
    scores: dict[Hashable, int] = {}
    tables: dict[Hashable, Mapping[str, str]] = {}
    for name in _common_features(rows):
        seen: dict[str, Counter[str]] = defaultdict(Counter)
        for row, each in zip(rows[::3], shown[::3], strict=True):
            if name in row:
                seen[row[name]][each.answer] += 1
        tables[name] = {word: answers.most_common(1)[0][0] for word, answers in seen.items()}
        scores[name] = sum(
            tables[name].get(row.get(name, "")) == each.answer
            for row, each in zip(rows[1::3], shown[1::3], strict=True)
        )
    if not scores:
        return None
    name = max(scores, key=lambda each: scores[each])
    rest = list(zip(rows[2::3], shown[2::3], strict=True))
    hits = [each for row, each in rest if tables[name].get(row.get(name, "")) == each.answer]
    if not earns_more(len(hits), len(rest), chance, _SURE):
        return None
    return Reading(
        how=f"by heart, from the word {_worded(name)}", hits=len(hits), num=len(rest), task=hits[0].task
    )


_OPERATIONS: Mapping[str, Callable[[int, int], float]] = {
    "difference": lambda a, b: a - b,
    "sum": lambda a, b: a + b,
    "exclusive or": lambda a, b: a ^ b,
    "quotient": lambda a, b: a / b if b else -1.0,
}


def _arithmetic(shown: Sequence[Shown], chance: float) -> Reading | None:
    """A number in the text and the answer always have the same difference, sum, exclusive or or quotient."""
    shown = [each for each in shown if each.answer.isdigit() and len(each.answer) < 10]
    if len(shown) < 2 * _LEAST_PROOFS:
        return None
    rows = [
        {name: word for name, word in features(each.text).items() if word.isdigit() and len(word) < 12}
        for each in shown
    ]
    half = list(zip(rows[::2], shown[::2], strict=True))
    rest = list(zip(rows[1::2], shown[1::2], strict=True))
    for name in _common_features(rows):
        for word, operate in _OPERATIONS.items():
            made = Counter(operate(int(row[name]), int(each.answer)) for row, each in half if name in row)
            if not made or made.most_common(1)[0][1] < 3:
                continue
            value = made.most_common(1)[0][0]
            hits = [
                each
                for row, each in rest
                if name in row and operate(int(row[name]), int(each.answer)) == value
            ]
            if earns_more(len(hits), len(rest), chance, _SURE):
                return Reading(
                    how=f"by its {word} with the number {_worded(name)}",
                    hits=len(hits),
                    num=len(rest),
                    task=hits[0].task,
                )
    return None
