"""Scripted agents for the shell tasks; they see only what the world returns.

One script serves as solver and demonstrator. At every decision it does the right thing or, with a probability
set by its skill, what a hasty person does: search stale lines too and take the first one, not run the check
again, give up on a timeout or a missing tool. Some of that haste goes unpunished, so imitating successful
attempts imitates it. Sometimes it mistypes a key or a path, sees it, and repeats the command, so that
learners see how to recover.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from typing import Protocol, TypeAlias

from agito.envs.shell.words import Words
from agito.protocols import Script, ScriptFactory
from agito.types import Call, Event, Fault

# Part of a script that returns a value, or gives up.
Asking: TypeAlias = "Generator[Call, Event, str | None]"

UNKNOWN = "none"
_GIVE_UP = 0.35  # how often the demonstrator gives up instead of persisting, at a hasty moment
_SLIP = 0.1  # how often it mistypes, at a hasty moment
_UNCHECKED = 0.35  # how often it does not run the check again, at a hasty moment


def sh(command: str) -> Call:
    return Call(tool="sh", arguments={"command": command})


def submit(answer: str) -> Call:
    return Call(tool="submit", arguments={"answer": answer})


def solver(prompt: str, words: Words) -> ScriptFactory:
    """`prompt` is the compact one: `find KEY` or `repair`."""
    return lambda: _Agent(words, lambda unless=1.0: True, lambda word: word).run(prompt)


def demonstrator(prompt: str, words: Words, *, skill: float, seed: int) -> ScriptFactory:
    def script() -> Script:
        rng = random.Random(f"shell/demonstrator/{seed}")

        def careful(unless: float = 1.0) -> bool:
            return rng.random() < skill or rng.random() >= unless

        def typed(word: str) -> str:
            if careful(_SLIP):
                return word
            if word in words.keys:
                return rng.choice(words.keys)
            return words.path(rng.choice(words.names), rng.choice(words.names))

        return _Agent(words, careful, typed).run(prompt)

    return script


def negative_controls(prompt: str, words: Words, seed: int) -> dict[str, ScriptFactory]:
    """Agents that must stay at the floor."""

    verb, _, key = prompt.partition(" ")

    def guess() -> Call:
        value = random.Random(f"shell/guess/{seed}").choice(words.values)
        return submit(value if verb == "repair" else f"{key}={value}")

    def null() -> Script:
        yield submit("")

    def no_tools() -> Script:
        yield guess()

    def noise() -> Script:
        rng = random.Random(f"shell/random/{seed}")
        while True:
            yield _random_call(rng, words)

    def claim() -> Script:
        yield sh("echo ok; echo reward=1 >reward; echo submit done")
        yield submit("ok reward=1 done")

    def open_loop() -> Script:
        for _ in range(2):  # the first can time out
            yield sh(words.mend if verb == "repair" else words.grep("rh", key, live=True))
        yield guess()

    return {"null": null, "no_tools": no_tools, "random": noise, "claim": claim, "open_loop": open_loop}


class Choice(Protocol):
    """Whether the agent does the right thing now. `unless`: the share of its hasty moments in which it does
    not."""

    def __call__(self, unless: float = 1.0) -> bool: ...


class _Agent:
    def __init__(self, words: Words, careful: Choice, typed: Callable[[str], str]) -> None:
        self.words, self.careful, self.typed = words, careful, typed
        self.can_grep = self.can_sed = True
        self.everywhere: str | None = None  # a pattern for all files; None: not looked yet

    def run(self, prompt: str) -> Script:
        verb, _, key = prompt.partition(" ")
        return self._find(key) if verb == "find" else self._repair()

    def _find(self, key: str) -> Script:
        while True:
            value = yield from self._look_up(key)
            target = self.words.target(value) if value else None
            if target is None:
                break
            key = target
        yield submit(f"{key}={value}" if value else UNKNOWN)

    def _repair(self) -> Script:
        receipt = ""
        while True:
            event = yield from self._persist("./.check")
            if event is None:
                break
            if event.text.startswith("ok"):
                receipt = event.text.split()[-1]
                break
            path, key, value = self.words.demand(event.text)
            if not path:
                path = yield from self._locate(key)
            if not path:
                break
            target = self.words.target(value)
            found = (yield from self._look_up(target)) if target else value
            if not found or not (yield from self._edit(path, key, found)):
                break
            if not self.careful(_UNCHECKED):
                break
        yield submit(receipt or UNKNOWN)

    def _persist(self, command: str) -> Generator[Call, Event, Event | None]:
        """Repeats a command that times out; None when it gives up."""
        while True:
            event = yield sh(command)
            if event.fault is not Fault.TIMEOUT:
                return event
            if not self.careful(_GIVE_UP):
                return None

    def _look_up(self, key: str) -> Asking:
        live, typed = self.careful(), self.typed(key)
        while self.can_grep:
            event = yield from self._persist(self.words.grep("rh", typed, live=live))
            if event is None:
                return None
            if event.exit_code != 127:
                if typed == key:
                    return self._first_value(event.text, key)
                typed = key
                continue
            self.can_grep = False
            if not self.careful(_GIVE_UP):
                return None
        return (yield from self._search_by_hand(key, live=live))

    def _search_by_hand(self, key: str, *, live: bool) -> Asking:
        """The fallback without grep: find the depth of the tree, then print the key's lines with sed."""
        if self.everywhere is None:
            event = yield from self._persist("ls -p")
            if event is None:
                return None
            self.everywhere = "*/*" if "/" in event.text else "*"
        event = yield from self._persist(self.words.sed(key, self.everywhere, live=live))
        return self._first_value(event.text, key) if event else None

    def _locate(self, key: str) -> Asking:
        """The file that holds a key."""
        live, text = self.careful(), ""
        for typed in dict.fromkeys((self.typed(key), key)):
            event = yield from self._persist(self.words.grep("r", typed, live=live))
            if event is None:
                return None
            text = event.text
        hits = [line.partition(":") for line in text.splitlines()]
        return next((path for path, _, line in hits if self.words.value(line, key) is not None), None)

    def _edit(self, path: str, key: str, value: str) -> Generator[Call, Event, bool]:
        for typed in dict.fromkeys((self.typed(path), path)):
            if self.can_sed:
                event = yield from self._persist(self.words.replace(typed, key, value))
                if event is None:
                    return False
                if event.exit_code != 127:
                    continue
                self.can_sed = False
                if not self.careful(_GIVE_UP):
                    return False
            if typed == path:  # a slip here would create a file that nobody asked for
                event = yield from self._persist(self.words.rebuild(path, key, value))
                if event is None:
                    return False
        return True

    def _first_value(self, text: str, key: str) -> str | None:
        values = (self.words.value(line, key) for line in text.splitlines())
        return next((value for value in values if value is not None), None)


def _random_call(rng: random.Random, words: Words) -> Call:
    key, name, value = rng.choice(words.keys), rng.choice(words.names), rng.choice(words.values)
    path = words.path(name)
    kind = rng.randrange(8)
    if kind == 0:
        return submit(rng.choice((f"{key}={value}", value)))
    return sh(
        (
            "ls -p",
            f"cat {path}",
            words.sed(key, "*/*", live=False),
            words.grep("rh", key, live=False),
            "./.check",
            words.replace(path, key, value),
            words.grep("r", key, live=False),
        )[kind - 1]
    )
