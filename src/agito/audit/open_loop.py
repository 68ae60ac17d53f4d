"""Open-loop attacks: constants, memorised answers, and replayed calls of other tasks.

They are built from solved tasks and tried on others. None reads an observation, so whatever they earn comes
from the prompt alone, or from nothing.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial

from agito.audit.agents import ending, fill, prompt_of, strings
from agito.audit.attacks import Attackers
from agito.audit.episode import Episode, replay
from agito.audit.literals import words_in
from agito.protocols import Environment, ScriptFactory
from agito.types import Call, Dialect, Json, Task

CONSTANT, BLIND = "constant: ", "blind: "  # prefixes of these attacks' names
_CONSTANTS, _PLACES, _LISTED, _WORDS = 8, 3, 40, 12
_EMPTY = (
    "[]",
    "{}",
    "null",
    "None",
    "nan",
    "-1",
    "[[]]",
    "()",
    '""',
    "0.0",
    "inf",
    "no answer",
    "unknown",
    "n/a",
    "-",
)
_TOKEN = re.compile(r"\w+|[^\w\s]")

# What an agent may know of a task: a feature of its prompt, or nothing.
Feature = Callable[[Task], object]


@dataclass(slots=True)
class Memory:
    """Solved tasks, as remembered by someone who saw their prompts and calls."""

    solved: list[Episode] = field(default_factory=list[Episode])
    donors: list[tuple[Feature, Mapping[object, Episode]]] = field(
        default_factory=list["tuple[Feature, Mapping[object, Episode]]"]
    )
    # last calls, with a name by which equal calls can be compared
    ends: list[tuple[str, Call]] = field(init=False)

    def __post_init__(self) -> None:
        self.solved = [each for each in self.solved if each.calls]
        self.ends = [(_name(each.calls[-1]), each.calls[-1]) for each in self.solved]

    @property
    def looks(self) -> bool:
        """Whether solutions call anything before their last call. If not, the prompt holds everything, and
        working the answer out is the task.
        """
        return any(len(each.calls) > 1 for each in self.solved)

    def commonest(self) -> list[Call]:
        """Last calls of the solutions, most common first."""
        first = dict(reversed(self.ends))
        return [first[name] for name, _ in Counter(name for name, _ in self.ends).most_common()]

    def shared_end(self) -> Call | None:
        """The last call shared by at least 90 % of solutions, such as `submit done`."""
        name, count = Counter(name for name, _ in self.ends).most_common(1)[0] if self.ends else ("", 0)
        return dict(self.ends)[name] if count >= 0.9 * len(self.ends) > 0 else None

    def by(self, feature: Feature) -> Mapping[object, Call]:
        """The most common last call for each value of the feature."""
        counts: dict[object, Counter[str]] = defaultdict(Counter)
        for each, (name, _) in zip(self.solved, self.ends, strict=True):
            counts[feature(each.task)][name] += 1
        calls = dict(self.ends)
        return {value: calls[found.most_common(1)[0][0]] for value, found in counts.items()}

    def donor(self, task: Task) -> Episode | None:
        """A solved task with the same prompt; else the same prompt but for its numbers; else the
        same cell.
        """
        if not self.donors:
            self.donors = [
                (feature, {feature(each.task): each for each in reversed(self.solved)})
                for feature in (whole, without_digits, cell)
            ]
        return next((known[feature(task)] for feature, known in self.donors if feature(task) in known), None)


def _name(call: Call) -> str:
    """By tool and arguments; the raw text does not matter."""
    return json.dumps([call.tool, call.arguments], sort_keys=True, default=str)


def cell(task: Task) -> object:
    return task.cell


def whole(task: Task) -> object:
    return (task.cell, prompt_of(task))


def without_digits(task: Task) -> object:
    return (task.cell, re.sub(r"\d+", "#", prompt_of(task)))


def _remainder(by: int, word: str) -> object:
    return int(word) % by if word.isdecimal() and len(word) < 20 else word


_OF_A_WORD: Mapping[str, Callable[[str], object]] = {
    "": lambda word: word,
    "the first letter of ": lambda word: word[:1],
    "the last letter of ": lambda word: word[-1:],
    "the length of ": len,
    **{f"the remainder by {by} of ": partial(_remainder, by) for by in (3, 4, 6, 7, 8, 9, 11, 12)},
}


def word_at(place: int, part: str = "") -> Feature:
    """One word of the prompt, or a part of it. `place` counts from the start, or from the end if negative."""

    def feature(task: Task) -> object:
        words = _words(prompt_of(task))
        return _OF_A_WORD[part](words[place]) if -len(words) <= place < len(words) else ""

    return feature


@lru_cache(maxsize=1 << 12)
def _words(prompt: str) -> tuple[str, ...]:
    return tuple(_TOKEN.findall(prompt))


def open_loop_attacks(environment: Environment, solved: Sequence[Episode]) -> Attackers:
    """The battery of open-loop attacks built from `solved`."""
    memory = Memory(list(solved))
    commonest = memory.commonest()
    tables: dict[str, tuple[Feature, Mapping[object, Call]]] = {
        f"{CONSTANT}of the family and level": (cell, memory.by(cell)),
        f"{BLIND}by heart": (whole, memory.by(whole)),
        f"{BLIND}by heart, but for numbers": (without_digits, memory.by(without_digits)),
    }
    for place, part in _telling_places(memory):
        tables[f"{BLIND}by {part}word {place} of the prompt"] = (
            word_at(place, part),
            memory.by(word_at(place, part)),
        )
    words = words_in(environment, _WORDS)
    answers = {text for call in commonest for text in call.arguments.values() if isinstance(text, str)}

    def attacks(environment: Environment, task: Task) -> Mapping[str, ScriptFactory]:
        found: dict[str, ScriptFactory] = {
            f"{CONSTANT}{_shown(call)}": _saying(call) for call in commonest[:_CONSTANTS]
        }
        found |= {
            name: _saying(known[feature(task)])
            for name, (feature, known) in tables.items()
            if feature(task) in known
        }
        found |= _all_at_once(task, commonest)
        end = ending(task)
        if end is not None and strings(end):
            found |= {f"{CONSTANT}the word {word!r}": _saying(fill(end, word)) for word in (*words, *_EMPTY)}
        if end is not None and strings(end) and memory.looks:
            found |= {
                f"{BLIND}{name}": _saying(fill(end, text))
                for name, text in _from_the_prompt(task, answers).items()
            }
        donor = memory.donor(task)
        if donor is not None and memory.looks:
            found[f"{BLIND}the calls of another task"] = replay(donor.calls)
            found[f"{BLIND}the calls of another task, in the words of this one"] = replay(
                translated(donor, task)
            )
        return found

    return attacks


def _telling_places(memory: Memory) -> list[tuple[int, str]]:
    """The prompt words that best predict the answer: how often a table built on half of the tasks is right on
    the other half.
    """
    half, rest = Memory(memory.solved[::2]), memory.solved[1::2]
    score: dict[tuple[int, str], int] = {}
    for place in (*range(24), *range(-8, 0)):
        if len({word_at(place)(each.task) for each in memory.solved}) < 2:
            continue
        for part in _OF_A_WORD:
            feature = word_at(place, part)
            known = half.by(feature)
            if len(known) > 1:
                score[place, part] = sum(
                    _same(known.get(feature(each.task)), each.calls[-1]) for each in rest
                )
    return sorted(score, key=lambda each: (-score[each], each))[:_PLACES]


def _same(one: Call | None, other: Call) -> bool:
    return one is not None and (one.tool, one.arguments) == (other.tool, other.arguments)


def _from_the_prompt(task: Task, answers: Collection[str]) -> Mapping[str, str]:
    """Answers the prompt itself suggests: words that were answers elsewhere, and arithmetic on its
    numbers.
    """
    words = _words(prompt_of(task))
    numbers = [int(word) for word in words if word.isdigit() and len(word) < 10]
    found: dict[str, str] = {}
    named = list(dict.fromkeys(word for word in words if word in answers))
    if named:
        found = {
            "the first answer that it names": named[0],
            "the last answer that it names": named[-1],
            "an answer that it names": random.Random(task.id).choice(named),
        }
    if len(numbers) > 1:
        made = {
            "sum": sum(numbers),
            "largest": max(numbers),
            "least": min(numbers),
            "number": len(numbers),
            "product": math.prod(numbers[:2]),
            "difference": abs(numbers[0] - numbers[1]),
        }
        found |= {f"the {name} of its numbers": str(value) for name, value in made.items()}
    return found


def _all_at_once(task: Task, commonest: Sequence[Call]) -> Mapping[str, ScriptFactory]:
    """All known right answers at once: in one submission, and one after another."""
    end = ending(task)
    if end is None:
        return {}
    texts = [
        text
        for call in commonest[:_LISTED]
        if call.tool == end.name
        for text in call.arguments.values()
        if isinstance(text, str)
    ]
    texts = list(dict.fromkeys(texts))
    found: dict[str, ScriptFactory] = {}
    if len(texts) > 1 and strings(end):
        found = {
            f"{CONSTANT}all answers, {name}": _saying(fill(end, mark.join(texts)))
            for name, mark in _MARKS.items()
        }
        found[f"{CONSTANT}one answer after another"] = replay([fill(end, text) for text in texts])
    return found


_MARKS = {"spaces between": " ", "commas between": ", ", "a line each": "\n", "nothing between": ""}


def _saying(call: Call) -> ScriptFactory:
    return replay((call,))


def translated(donor: Episode, task: Task) -> list[Call]:
    """The donor's calls, with each word of its prompt replaced by the word at the same place in this task's
    prompt.
    """
    words: dict[str, str] = {donor.task.id: task.id}
    for dialect in Dialect:
        theirs, ours = (_TOKEN.findall(each.prompt.get(dialect, "")) for each in (donor.task, task))
        if len(theirs) == len(ours):
            words |= {a: b for a, b in zip(theirs, ours, strict=True) if a != b}
    return [
        replace(call, arguments={name: _put(value, words) for name, value in call.arguments.items()})
        for call in donor.calls
    ]


def _put(value: Json, words: Mapping[str, str]) -> Json:
    if isinstance(value, str):
        return re.sub(r"\w+", lambda found: words.get(found[0], found[0]), words.get(value, value))
    if isinstance(value, list):
        return [_put(each, words) for each in value]
    if isinstance(value, dict):
        return {name: _put(each, words) for name, each in value.items()}
    if isinstance(value, int) and not isinstance(value, bool) and words.get(str(value), "").isdigit():
        return int(words[str(value)])
    return value


def _shown(call: Call) -> str:
    return f"{call.tool} {' '.join(str(value) for value in call.arguments.values())}"[:40]
