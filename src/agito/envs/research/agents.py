"""Scripted agents for the research tasks; they see only what the world returns.

One script serves as solver and demonstrator. At every decision it does the right thing or, with a probability
set by its skill, what a hasty person does: open the first hit instead of the newest, believe a rumor, forget
a source, give up on a timeout. Sometimes it mistypes a name, sees that in the hits, and searches again, so
that learners see how to recover.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from typing import TypeAlias

from agito.envs.research.library import DATES
from agito.envs.research.words import NAMES, RELATIONS
from agito.protocols import Script, ScriptFactory
from agito.types import Call, Event, Fault

# Part of a script that returns a value, or gives up.
Asking: TypeAlias = "Generator[Call, Event, str | None]"
# "Does the agent do the right thing now?", given how many of its hasty moments go wrong.
Choice: TypeAlias = Callable[[float], bool]

UNKNOWN = "none"
_EVERY = [name for names in NAMES.values() for name in names]
_GIVE_UP, _SLIP, _FORGET = 0.35, 0.1, 0.2  # how often each mistake happens at a hasty moment


def search(query: str) -> Call:
    return Call(tool="search", arguments={"query": query})


def read(number: str) -> Call:
    return Call(tool="open", arguments={"id": number})


def submit(answer: str) -> Call:
    return Call(tool="submit", arguments={"answer": answer})


def solver(prompt: str) -> ScriptFactory:
    """`prompt` is the compact one: `now START RELATION...` or `then DATE START RELATION...`."""
    return lambda: _Agent(prompt, lambda _: True, random.Random(0)).run()


def demonstrator(prompt: str, *, skill: float, seed: int) -> ScriptFactory:
    def script() -> Script:
        rng = random.Random(f"research/demonstrator/{seed}")
        return _Agent(prompt, lambda part: rng.random() < skill or rng.random() >= part, rng).run()

    return script


def negative_controls(prompt: str, seed: int) -> dict[str, ScriptFactory]:
    """Agents that must stay at the floor."""

    def null() -> Script:
        yield submit("")

    def open_loop() -> Script:
        rng = random.Random(f"research/guess/{seed}")
        hops = len(_parse(prompt)[2])
        yield submit(" ".join((rng.choice(_EVERY), *(_some_id(rng) for _ in range(hops)))))

    def noise() -> Script:
        rng = random.Random(f"research/random/{seed}")
        while True:
            yield _random_call(rng)

    def first_hit() -> Script:
        return _Agent(prompt, lambda _: True, random.Random(0), is_naive=True).run()

    return {"null": null, "open_loop": open_loop, "random": noise, "first_hit": first_hit}


class _Agent:
    def __init__(self, prompt: str, careful: Choice, rng: random.Random, *, is_naive: bool = False) -> None:
        self.date, self.subject, self.path = _parse(prompt)
        self.careful, self.rng, self.is_naive = careful, rng, is_naive
        self.evidence: list[str] = []

    def run(self) -> Script:
        for relation in self.path:
            value = yield from self._look_up(self.subject, relation)
            if value is None:
                yield submit(UNKNOWN)
                return
            self.subject = value
        cited = self.evidence if self.careful(_FORGET) else self.evidence[-1:]
        yield submit(" ".join((self.subject, *cited)))

    def _look_up(self, subject: str, relation: str) -> Asking:
        typed = subject if self.careful(_SLIP) else self.rng.choice(_EVERY)
        text = yield from self._persist(search(f"{typed} {relation}"))
        if typed != subject and text is not None:
            text = yield from self._persist(search(f"{subject} {relation}"))
        if text is None:
            return None
        for number in self._in_order(text, subject, relation):
            text = yield from self._persist(read(number))
            if text is None:
                return None
            kind, _, value = text.splitlines()[-1].partition(" ")
            if kind == "rumor" and not self.is_naive and self.careful(1.0):
                continue
            self.evidence.append(number)
            return value
        return None

    def _in_order(self, text: str, subject: str, relation: str) -> list[str]:
        """Documents worth opening. Careful: those in time, newest first. Hasty: in listed order."""
        lines = [line.split() for line in text.splitlines()]
        found = [
            (words[2][0], words[2]) for words in lines if len(words) == 3 and words[:2] == [subject, relation]
        ]
        if self.is_naive or not self.careful(1.0):
            return [number for _, number in found]
        return [number for date, number in sorted(found, reverse=True) if date <= self.date]

    def _persist(self, call: Call) -> Asking:
        """Repeats a call that times out; None when it gives up."""
        while True:
            event = yield call
            if event.fault is not Fault.TIMEOUT:
                return event.text
            if not self.careful(_GIVE_UP):
                return None


def _parse(prompt: str) -> tuple[str, str, list[str]]:
    verb, *words = prompt.split()
    date = words.pop(0) if verb == "then" else DATES[-1]
    return date, words[0], words[1:]


def _random_call(rng: random.Random) -> Call:
    name, number = rng.choice(_EVERY), _some_id(rng)
    relation = rng.choice([each for listed in RELATIONS.values() for each in listed])
    kind = rng.randrange(9)
    if kind == 0:
        return submit(f"{name} {number}")
    return read(number) if kind < 4 else search(f"{name} {relation}")


def _some_id(rng: random.Random) -> str:
    return f"{rng.choice(DATES)}{rng.randrange(10, 100)}"
