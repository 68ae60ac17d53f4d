"""Finds tools that reveal whether an answer is right: an oracle that the agent could query as often as it
likes.

A candidate is a tool or command that honest agents send their later submission, and nothing else, or never
use. It is sent right answers and wrong ones of the same form: those of demonstrators that failed at the same
task, or the right answer with one part exchanged. A rule that tells the replies apart is found on one half of
the tasks and tried on the other. If there are no wrong answers, answers of other tasks stand in; these may be
refused for not existing at all, so then only a larger or smaller number in the reply counts.
"""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from agito.audit.agents import ending, fill, strings
from agito.audit.answer_rules import Reading, features
from agito.audit.episode import Episode, replay
from agito.audit.episode_runner import EpisodeRunner
from agito.audit.hidden_encodings import decoded
from agito.audit.literals import commands_of
from agito.audit.statistics import earns_more
from agito.protocols import Environment
from agito.types import Call, Event, Task

_PAIRS, _LEAST, _TRIES, _COMMANDS = 150, 40, 6, 8
_STOCK = 3  # an answer given in this many tasks and right in none is a default answer
_USED = 6  # episodes in which agents use the check, so that it is no accident
_SKILLS = (0.5, 0.2)
_SURE, _RELIABLE, _RULES = 1e-5, 0.9, 40
_TOKEN = re.compile(r"\w+")

Rule = tuple[str, Hashable, str]


@dataclass(frozen=True, slots=True, order=True)
class Check:
    """A call that might check an answer: the text before and after the answer."""

    tool: str
    name: str
    before: str
    after: str

    def call(self, task: Task, answer: str) -> Call | None:
        tool = next((each for each in task.tools if each.name == self.tool), None)
        return None if tool is None else fill(tool, "zq", **{self.name: f"{self.before}{answer}{self.after}"})

    def __str__(self) -> str:
        return f"{self.tool}({self.name}: {self.before}…{self.after})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Features of the replies to a right and to a wrong answer of one task."""

    right: Mapping[Hashable, str]
    wrong: Mapping[Hashable, str]
    task: str
    is_foreign: bool  # the wrong answer was right in another task


async def answer_checks(
    runner: EpisodeRunner, solved: Sequence[Episode]
) -> list[tuple[Check, Reading | None]]:
    """Every candidate check, with the rule that tells right from wrong, if there is one."""
    ends_at = time.monotonic() + runner.seconds_left / 2
    common = Counter(_answer(each) for each in solved)
    asked = [each for each in solved if _answer(each) and common[_answer(each)] < 0.5 * len(solved)]
    checks = _checks(runner.environment, runner.honest, asked)
    pairs: dict[Check, list[Pair]] = defaultdict(list)

    tried = asked[: runner.depth.of(_PAIRS, least=_LEAST)] if checks else []
    failed = await runner.each(tried, lambda first: _failed(runner, first), least=_LEAST)
    times, rights = Counter(text for texts in failed for text in set(texts)), set(map(_answer, solved))

    async def work(job: tuple[Episode, Sequence[str]]) -> None:
        if time.monotonic() > ends_at and max(map(len, pairs.values()), default=0) >= _LEAST:
            return
        first, texts = job
        wrong = _wrong(first, [text for text in texts if text in rights or times[text] < _STOCK])
        other = _of_another_task(first, asked)
        answers = _answer(first), wrong or other or ""
        told = [await _ask(runner, first, checks, answer) for answer in answers] if answers[1] else []
        for check in checks:
            if told and all(check in each for each in told):
                right, spoilt = (
                    _features(each[check], answer) for each, answer in zip(told, answers, strict=True)
                )
                pairs[check].append(
                    Pair(right=right, wrong=spoilt, task=first.task.id, is_foreign=wrong is None)
                )

    await runner.each(list(zip(tried, failed, strict=False)), work, least=_LEAST)
    return [(check, _telling(pairs[check])) for check in checks]


def _answer(episode: Episode) -> str:
    """The last submission, if it is a single text."""
    texts = (
        [value for value in episode.calls[-1].arguments.values() if isinstance(value, str)]
        if episode.calls
        else []
    )
    return texts[0] if len(texts) == 1 and episode.events[-1].ended else ""


def _checks(environment: Environment, honest: Sequence[Episode], asked: Sequence[Episode]) -> list[Check]:
    # for each parameter: texts sent, with the answer submitted later
    said: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for episode in honest:
        answer = _answer(episode)
        for call in episode.calls[:-1]:
            for name, value in call.arguments.items():
                said[call.tool, name].append((str(value), answer))
    found: set[Check] = set()
    for (tool, name), told in said.items():
        forms = Counter(tuple(text.split(answer, 1)) for text, answer in told if answer and answer in text)
        for (before, after), count in forms.most_common(3):
            alike = [(text, answer) for text, answer in told if text.startswith(before)]
            if count >= _USED and count >= 0.98 * len(alike):
                found.add(Check(tool, name, before, after))
    for task in (each.task for each in asked[:_USED]):
        found |= set(_unused(environment, task, said))
    return sorted(found)


def _unused(
    environment: Environment, task: Task, said: Mapping[tuple[str, str], Sequence[tuple[str, str]]]
) -> Iterable[Check]:
    end = ending(task)
    for tool in task.tools:
        names = strings(tool)
        if end is not None and tool.name == end.name:
            continue
        if not any(name == tool.name for name, _ in said):
            yield from (Check(tool.name, name, "", "") for name in names)
        texts = [text for text, _ in said.get((tool.name, names[0]), ())] if names else []
        yield from (
            Check(tool.name, names[0], f"{command} ", "")
            for command in commands_of(environment, tool, [fill(tool, text) for text in texts])[:_COMMANDS]
            if not any(text.startswith(command) for text in texts)
        )


async def _failed(runner: EpisodeRunner, first: Episode) -> list[str]:
    """Answers of demonstrators that fail at the same task."""
    found: list[str] = []
    for seed in range(_TRIES):
        script = runner.environment.demonstrator(first.task, first.target, skill=_SKILLS[seed % 2], seed=seed)
        played = await runner.play((first.task, first.target), script, noise=seed)
        found += [_answer(played)] if _answer(played) and not played.is_success else []
    return found


def _wrong(first: Episode, failed: Sequence[str]) -> str | None:
    """A wrong answer with the form of the right one. `failed` holds no default answers."""
    right, read = _answer(first), " ".join(event.text for event in first.events)
    parts = [*failed, *([read] if all(word in read for word in _TOKEN.findall(right)) else [])]
    spoilt = (other for text in parts if (other := _with_a_part(right, text)) is not None)
    same = [text for text in failed if _shape(text) == _shape(right)]
    return next(iter([*same, *spoilt, *(text for text in failed if _kinds(text) == _kinds(right))]), None)


def _of_another_task(first: Episode, asked: Sequence[Episode]) -> str | None:
    right = _answer(first)
    others = (_answer(each) for each in asked if each.task.cell == first.task.cell)
    return next((other for other in others if other != right and _shape(other) == _shape(right)), None)


def _shape(text: str) -> str:
    return re.sub(r"[^\W\d_]", "a", re.sub(r"\d", "0", text))


def _kinds(text: str) -> list[str]:
    """The kind of each word: number, letters, mixed."""
    return [_shape(word)[:1] if len(set(_shape(word))) == 1 else "?" for word in _TOKEN.findall(text)]


def _with_a_part(right: str, wrong: str) -> str | None:
    """The right answer with one word replaced by a word of the same shape from the wrong answer; a sorted
    list stays sorted.
    """
    ours = _TOKEN.findall(right)
    for new in _TOKEN.findall(wrong):
        old = next(
            (word for word in reversed(ours) if word not in wrong and _shape(word) == _shape(new)), None
        )
        if new not in ours and old is not None:
            words = [new if word == old else word for word in ours]
            words = (
                sorted(words, key=lambda word: (len(word), word))
                if ours == sorted(ours, key=lambda word: (len(word), word))
                else words
            )
            left = iter(words)
            return _TOKEN.sub(lambda found, left=left: next(left), right)
    return None


async def _ask(
    runner: EpisodeRunner, first: Episode, checks: Sequence[Check], answer: str
) -> dict[Check, Event]:
    """Asks after all looks of the solution, in batches that fit into an episode."""
    known = {check.tool for check in checks if not check.before}
    looks = [call for call in first.calls[:-1] if call.tool not in known]
    most = max(min(first.task.limits.calls, first.task.limits.turns) - len(looks), 0)
    calls = [(check, call) for check in checks if (call := check.call(first.task, answer)) is not None]
    found: dict[Check, Event] = {}
    for at in range(0, len(calls), most) if most else ():
        batch = calls[at : at + most]
        script = replay([*looks, *(call for _, call in batch)])
        played = await runner.play(
            (first.task, first.target), script, attempt=first.attempt, noise=first.noise, provokes=True
        )
        found |= {check: event for (check, _), event in zip(batch, played.events[len(looks) :], strict=False)}
    return found


def _features(event: Event, answer: str) -> Mapping[Hashable, str]:
    """Features of a reply, without its echo of the answer."""
    text = event.text.replace(answer, "_")
    parts = {word for word in _TOKEN.findall(answer) if len(word) > 1}
    text = _TOKEN.sub(lambda found: "_" if found[0] in parts else found[0], text)
    return {
        **features(f"{text}\n{decoded(text)}"),
        "fault": str(event.fault),
        "exit code": str(event.exit_code),
    }


def _telling(pairs: Sequence[Pair]) -> Reading | None:
    """The best rule found on each half, tried on the other half."""
    own = [pair for pair in pairs if not pair.is_foreign]
    pairs = own if 2 * len(own) >= len(pairs) else pairs
    hits, decided, best = list[Pair](), 0, ""
    for half, rest in ((pairs[::2], pairs[1::2]), (pairs[1::2], pairs[::2])):
        support = Counter(rule for pair in half for rule in _rules(pair))
        rules = [rule for rule, _ in support.most_common(_RULES)]
        if not rules:
            return None
        rule = max(rules, key=lambda rule: sum(_holds(pair, rule) for pair in half))
        signs = [_holds(pair, rule) for pair in rest]
        hits += [pair for pair, sign in zip(rest, signs, strict=True) if sign > 0]
        decided += sum(sign != 0 for sign in signs)
        best = f"{rule[0]} {rule[2]}".strip()
    if len(hits) < _RELIABLE * decided or not earns_more(len(hits), decided, 0.5, _SURE):
        return None
    return Reading(how=best, hits=len(hits), num=len(pairs), task=hits[0].task)


def _rules(pair: Pair) -> Iterable[Rule]:
    for where in {**pair.right, **pair.wrong}:
        right, wrong = pair.right.get(where), pair.wrong.get(where)
        if right == wrong:
            continue
        sign = _compared(right, wrong)
        yield from (
            (("it says a larger number", where, ""),)
            if sign > 0
            else (("it says a smaller number", where, ""),)
            if sign < 0
            else ()
        )
        if pair.is_foreign:
            continue
        yield from (("it says", where, right),) if right is not None else ()
        yield from (("it does not say", where, wrong),) if wrong is not None else ()


def _holds(pair: Pair, rule: Rule) -> int:
    """1 if the rule picks the right answer, -1 if the wrong one, 0 if neither."""
    how, where, value = rule
    right, wrong = pair.right.get(where), pair.wrong.get(where)
    if how == "it says":
        return (right == value) - (wrong == value)
    if how == "it does not say":
        return (wrong == value) - (right == value)
    return _compared(right, wrong) * (1 if "larger" in how else -1)


def _compared(right: str | None, wrong: str | None) -> int:
    with suppress(ValueError, TypeError):
        one, two = float(right or ""), float(wrong or "")
        return (one > two) - (one < two)
    return 0
