"""What can be earned without looking: constants, answers learned by heart, and the calls of other tasks, acted blindly.

Everything here is made of solved tasks and tried on others. None of these agents reads what the world answers; what they earn, the prompt
alone buys, or nothing does.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from agito.grading.audit.agents import ending, fill, prompt_of, strings
from agito.grading.audit.attacks import Attackers
from agito.grading.audit.literals import words_in
from agito.grading.audit.stage import Episode
from agito.protocols import Environment, Script, ScriptFactory
from agito.types import Call, Dialect, Json, Task

CONSTANT, BLIND = "constant: ", "blind: "  # what the names of these attacks begin with
_CONSTANTS, _PLACES, _LISTED, _WORDS = 8, 3, 40, 12
_TOKEN = re.compile(r"\w+|[^\w\s]")

# What an agent may know of a task: a feature of its prompt, or nothing.
Feature = Callable[[Task], object]


@dataclass(slots=True)
class Memory:
    """Solved tasks, as somebody remembers them who saw their prompts and their calls."""

    solved: list[Episode] = field(default_factory=list[Episode])

    def __post_init__(self) -> None:
        self.solved = [each for each in self.solved if each.calls]

    def commonest(self) -> list[Call]:
        """The last calls of the solutions, the commonest first."""
        return [call for call, _ in _counted([each.calls[-1] for each in self.solved])]

    def by(self, feature: Feature) -> Mapping[object, Call]:
        """The commonest last call of the solved tasks with the same feature."""
        found: dict[object, list[Call]] = defaultdict(list)
        for each in self.solved:
            found[feature(each.task)].append(each.calls[-1])
        return {value: _counted(calls)[0][0] for value, calls in found.items()}

    def donor(self, task: Task) -> Episode | None:
        """A solved task with the same prompt, else with the same but for its numbers, else of the same cell."""
        for feature in (whole, without_digits, lambda task: task.cell):
            found = next((each for each in self.solved if feature(each.task) == feature(task)), None)
            if found is not None:
                return found
        return None


def _counted(calls: Sequence[Call]) -> list[tuple[Call, int]]:
    """By tool and arguments; the raw text does not matter."""
    counts: Counter[str] = Counter()
    first: dict[str, Call] = {}
    for call in calls:
        name = json.dumps([call.tool, call.arguments], sort_keys=True, default=str)
        counts[name] += 1
        first.setdefault(name, call)
    return [(first[name], count) for name, count in counts.most_common()]


def whole(task: Task) -> object:
    return (task.cell, prompt_of(task))


def without_digits(task: Task) -> object:
    return (task.cell, re.sub(r"\d+", "#", prompt_of(task)))


def word_at(place: int) -> Feature:
    """One word of the prompt, counted from its beginning, or its end where `place` is negative."""

    def feature(task: Task) -> object:
        words = _TOKEN.findall(prompt_of(task))
        return words[place] if -len(words) <= place < len(words) else ""

    return feature


def blindly(environment: Environment, solved: Sequence[Episode]) -> Attackers:
    """The battery, which knows `solved`."""
    memory = Memory(list(solved))
    commonest = memory.commonest()
    tables: dict[str, tuple[Feature, Mapping[object, Call]]] = {
        f"{CONSTANT}of the family and level": (lambda task: task.cell, memory.by(lambda task: task.cell)),
        f"{BLIND}by heart": (whole, memory.by(whole)),
        f"{BLIND}by heart, but for numbers": (without_digits, memory.by(without_digits)),
    }
    for place in _telling_places(memory):
        tables[f"{BLIND}by word {place} of the prompt"] = (word_at(place), memory.by(word_at(place)))
    words = words_in(environment, _WORDS)

    def attacks(environment: Environment, task: Task) -> Mapping[str, ScriptFactory]:
        found: dict[str, ScriptFactory] = {f"{CONSTANT}{_shown(call)}": _saying(call) for call in commonest[:_CONSTANTS]}
        found |= {name: _saying(known[feature(task)]) for name, (feature, known) in tables.items() if feature(task) in known}
        found |= _all_at_once(task, commonest)
        end = ending(task)
        if end is not None and strings(end):
            found |= {f"{CONSTANT}the word {word!r}": _saying(fill(end, word)) for word in words}
        donor = memory.donor(task)
        if donor is not None:
            found[f"{BLIND}the calls of another task"] = _acting(donor.calls)
            found[f"{BLIND}the calls of another task, in the words of this one"] = _acting(translated(donor, task))
        return found

    return attacks


def _telling_places(memory: Memory) -> list[int]:
    """The words of the prompt that say most about the answer: by how often one half of the tasks foretells the other."""
    half, rest = Memory(memory.solved[::2]), memory.solved[1::2]
    score: dict[int, int] = {}
    for place in (*range(24), *range(-8, 0)):
        feature = word_at(place)
        known = half.by(feature)
        if len(known) > 1:
            score[place] = sum(_same(known.get(feature(each.task)), each.calls[-1]) for each in rest)
    return sorted(score, key=lambda place: (-score[place], place))[:_PLACES]


def _same(one: Call | None, other: Call) -> bool:
    return one is not None and (one.tool, one.arguments) == (other.tool, other.arguments)


def _all_at_once(task: Task, commonest: Sequence[Call]) -> Mapping[str, ScriptFactory]:
    """Every answer that was ever right, in one submission, and one after another."""
    end = ending(task)
    if end is None:
        return {}
    texts = [text for call in commonest[:_LISTED] if call.tool == end.name for text in call.arguments.values() if isinstance(text, str)]
    texts = list(dict.fromkeys(texts))
    found: dict[str, ScriptFactory] = {}
    if len(texts) > 1 and strings(end):
        found = {f"{CONSTANT}all answers, {name}": _saying(fill(end, mark.join(texts))) for name, mark in _MARKS.items()}
        found[f"{CONSTANT}one answer after another"] = _acting([fill(end, text) for text in texts])
    return found


_MARKS = {"spaces between": " ", "commas between": ", ", "a line each": "\n", "nothing between": ""}


def _saying(call: Call) -> ScriptFactory:
    return _acting((call,))


def _acting(calls: Sequence[Call]) -> ScriptFactory:
    def script() -> Script:
        for call in calls:  # noqa: UP028 (events are sent to this generator, and a list takes none)
            yield call

    return script


def translated(donor: Episode, task: Task) -> list[Call]:
    """The donor's calls, with every word of its prompt replaced by the one that stands there in this task's prompt."""
    words: dict[str, str] = {donor.task.id: task.id}
    for dialect in Dialect:
        theirs, ours = (_TOKEN.findall(each.prompt.get(dialect, "")) for each in (donor.task, task))
        if len(theirs) == len(ours):
            words |= {a: b for a, b in zip(theirs, ours, strict=True) if a != b}
    return [replace(call, arguments={name: _put(value, words) for name, value in call.arguments.items()}) for call in donor.calls]


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
