"""Whether texts that can be read before the answer is earned give it away, or list it among other options.

An option is what could as well be the answer: an answer of other tasks, or a text of the same form, unless it
keeps turning up without ever being one. A task gives its answer away if the answer stands in it without any
other option, or if something marks it out among them: its place, the words or signs around it, how often it
occurs. The contract of environments and the audit both judge by this.

Not guaranteed: that a mark is seen that few tasks have.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

SHORT = 4  # characters; a shorter answer can stand in a text by chance
_WORD = re.compile(r"[^\s,;:()\[\]{}<>|\"'`=]+")
_EDGES = ".!?*_"
_LONGEST, _MOST_WORDS, _MOST_OPTIONS = 6_000, 4, 60
_LIKELY = 1e-3  # an option stays one until it is as unlikely as this that it was never the answer
_MOST_RULES, _LEAST_SUPPORT, _SURE = 8, 3, 1e-4
_SMALL = "small"  # the form of most words of any prose
_Spans = dict[str, list[tuple[int, int]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Posed:
    """A text that a task shows at the beginning, and what must not be read in it."""

    task: str
    text: str
    answers: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """An answer that stands in its task without any other option."""

    task: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What marks answers out among the options, in how many of how many tasks, and an example."""

    how: str
    hits: int
    num: int
    task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """What one text offers: spans by option, and which options are answers."""

    posed: Posed
    options: _Spans
    shown: frozenset[str]


def has_word(text: str, word: str) -> bool:
    return word in text and bool(_spans(text, word))


def alone(posed: Sequence[Posed]) -> list[Alone]:
    """Answers that stand in their task without any other option; none where as many tasks show an answer of
    other tasks instead, so that it is there by chance.
    """
    answered = {answer for each in posed for answer in each.answers}
    choices = _choices(posed)
    found = [
        Alone(task=choice.posed.task, answer=answer)
        for choice in choices
        if len(choice.options) == len(choice.shown)
        for answer in sorted(choice.shown)
    ]
    others = sum(not choice.shown and bool(choice.options.keys() & answered) for choice in choices)
    return found if len(found) > others else []


def mark(posed: Sequence[Posed], chance: float) -> Mark | None:
    """A rule that, found on one half of the tasks, picks the answer among the options of the other half more
    often than `chance` and than picking any of them.
    """
    choices = [choice for choice in _choices(posed) if choice.options]
    features = [_features(choice, choices) for choice in choices]
    support: Counter[Hashable] = Counter()
    for choice, each in zip(choices[::2], features[::2], strict=True):
        support.update({name: 1 for answer in choice.shown for name in each[answer]})
    rest = list(zip(choices[1::2], features[1::2], strict=True))
    at_random = sum(len(choice.shown) / len(choice.options) for choice, _ in rest) / max(len(rest), 1)
    for name, count in support.most_common(4 * _MOST_RULES):
        if count < _LEAST_SUPPORT:
            break
        picked = [(_share(choice, each, name), choice.posed.task) for choice, each in rest]
        hits = math.floor(sum(share for share, _ in picked) + 1e-9)
        if hits and _luck(hits, len(rest), max(chance, at_random)) < _SURE:
            task = next(task for share, task in picked if share)
            return Mark(how=_worded(name), hits=hits, num=len(rest), task=task)
    return None


def _share(choice: _Choice, features: Mapping[str, set[Hashable]], name: Hashable) -> float:
    """How often picking any option with this feature is right."""
    having = [option for option in choice.options if name in features[option]]
    return sum(option in choice.shown for option in having) / len(having) if having else 0.0


def _choices(posed: Sequence[Posed]) -> list[_Choice]:
    """Every text with its options, without those that keep turning up and are never an answer."""
    posed = [
        Posed(task=each.task, text=each.text[:_LONGEST], answers=frozenset(filter(str.strip, each.answers)))
        for each in posed
    ]
    answered = Counter(answer for each in posed for answer in each.answers)
    found = [_all_options(each, answered) for each in posed]
    texts = {each.text for each in posed}
    words = Counter(word for text in texts for word in {word for word, _, _ in _words(text)})
    fixed = {word for word, num in words.items() if num > max(0.9 * len(texts), 2)}
    seen = {
        option: sum(has_word(text, option) for text in texts)
        for option in {option for each in found for option in each}
        if not answered[option]
    }
    choices: list[_Choice] = []
    for each, options in zip(posed, found, strict=True):
        often = {option for option in options if seen.get(option, 0) > max(0.9 * len(texts), 2)}
        num = max(len(options) - len(often), 2)
        never = {option for option in options if (1 - 1 / num) ** max(seen.get(option, 0) - 1, 0) < _LIKELY}
        kept = {option: spans for option, spans in options.items() if option not in often | never}
        known = frozenset(answered) if not each.answers & kept.keys() else each.answers
        kept = {
            **_listed(each.text, kept, known, fixed),
            **{option: spans for option, spans in kept.items() if option in answered},
        }
        choices.append(_Choice(posed=each, options=kept, shown=each.answers & kept.keys()))
    return choices


def _all_options(posed: Posed, answered: Mapping[str, int]) -> _Spans:
    """The task's own answers, those of other tasks, and texts of their form, where they do not overlap."""
    found, text = _Spans(), posed.text

    def take(option: str) -> None:
        nonlocal text
        spans = _spans(text, option) if option in text else []
        if spans:
            found[option] = spans
            for start, end in spans:
                text = text[:start] + "\0" * (end - start) + text[end:]

    for answer in sorted(posed.answers, key=len, reverse=True):
        take(answer)
    for answer in sorted(answered.keys() - posed.answers, key=len, reverse=True):
        take(answer)
    forms = {_form(answer) for answer in posed.answers if len(_words(answer)) <= _MOST_WORDS}
    for size in {len(form) for form in forms}:
        words = _words(text)
        for at in range(len(words) - size + 1):
            (_, start, _), (_, _, end) = words[at], words[at + size - 1]
            if len(found) < _MOST_OPTIONS and "\0" not in text[start:end] and _form(text[start:end]) in forms:
                take(text[start:end])
    return found


def _spans(text: str, word: str) -> list[tuple[int, int]]:
    """Where a text stands as whole words."""
    return [match.span() for match in _pattern(word).finditer(text)]


@lru_cache(maxsize=1 << 12)
def _pattern(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)")


def _words(text: str) -> list[tuple[str, int, int]]:
    found: list[tuple[str, int, int]] = []
    for match in _WORD.finditer(text):
        word = match[0].strip(_EDGES)
        if word:
            start = match.start() + match[0].index(word)
            found.append((word, start, start + len(word)))
    return found


def _form(text: str) -> tuple[str, ...]:
    """Of every word: digits, or how its letters are written, or anything."""
    return tuple(
        "digits"
        if word.isdigit()
        else "any"
        if not word.isalpha()
        else _SMALL
        if word.islower()
        else "capital"
        if word.istitle()
        else "letters"
        for word, _, _ in _words(text)
    )


def _listed(text: str, options: _Spans, own: frozenset[str], fixed: set[str]) -> _Spans:
    """Without small words that are not listed with an answer, since any word of the text is of their form.
    Between what is listed stands one word at the most, beside those that stand in all texts.
    """
    spans = sorted((span, option) for option, each in options.items() for span in each)
    chains: list[list[str]] = []
    end = -1
    for (start, stop), option in spans:
        if end < 0 or sum(word not in fixed for word, _, _ in _words(text[end:start])) > 1:
            chains.append([])
        chains[-1].append(option)
        end = stop
    listed = {option for chain in chains if own & set(chain) for option in chain}
    return {
        option: each for option, each in options.items() if option in listed or _form(option) != (_SMALL,)
    }


def _features(choice: _Choice, choices: Sequence[_Choice]) -> dict[str, set[Hashable]]:
    """What can be said of each option without knowing the answer of its task."""
    text, options = choice.posed.text, choice.options
    others = [each for each in choices if each is not choice]
    most = max(map(len, options.values()), default=0)
    is_uneven = any(len(spans) < most for spans in options.values())
    in_order = sorted(options, key=lambda option: options[option][0])
    found: dict[str, set[Hashable]] = {}
    for at, option in enumerate(in_order):
        known = any(option in each.posed.answers for each in others)
        here: set[Hashable] = {
            ("number", at + 1),
            ("number from the end", len(in_order) - at),
            "an answer of other tasks" if known else "never an answer of other tasks",
            "the only one so often" if is_uneven and len(options[option]) == most else "not more often",
        }
        if not known and not any(option in each.options for each in others):
            here.add("in no other task")
        for start, end in options[option]:
            before, after = _words(text[:start][-40:]), _words(text[end:][:40])
            here.add(("after", before[-1][0] if before else ""))
            here.add(("before", after[0][0] if after else ""))
            here.add(("between", text[max(start - 1, 0) : start] + text[end : end + 1]))
        found[option] = here
    return found


def _worded(name: Hashable) -> str:
    if not isinstance(name, tuple):
        return f"as {name}" if not str(name).startswith("in ") else f"as one that stands {name}"
    kind, what = str(name[0]), name[1]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return f"as {kind} {what}" if isinstance(what, int) else f"as what stands {kind} {what!r}"


def _luck(hits: int, num: int, chance: float) -> float:
    """P(X >= hits) for X ~ Binomial(num, chance)."""
    chance = min(max(chance, 0.0), 1.0)
    return sum(math.comb(num, k) * chance**k * (1 - chance) ** (num - k) for k in range(hits, num + 1))
