"""Scripted agents for the coding tasks; they see only what the world returns.

One script serves as solver and demonstrator. At every decision it does the right thing or, with a probability
set by its skill, what a hasty person does: not read the called functions, mistype a line, not run the tests,
submit although they fail. The tests are incomplete, so much of that haste goes unpunished, and some shows
only in the hidden cases. The solver edits the wrong lines; the demonstrator retypes every line from its
comment, which needs no comparison, so a small model can imitate it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Generator
from typing import TypeAlias

from agito.envs.code.steps import DIGITS, PLAIN, Step
from agito.envs.code.words import Words, called
from agito.protocols import Script, ScriptFactory
from agito.types import Call, Event, Fault

# "Does the agent do the right thing now?", given how often haste would matter here.
Choice: TypeAlias = Callable[[float], bool]
# how often each mistake happens at a hasty moment
_UNREAD, _SLIP, _UNTESTED, _RESIGNED = 0.5, 0.35, 0.15, 0.35
UNKNOWN = "none"


def sh(command: str) -> Call:
    return Call(tool="sh", arguments={"command": command})


def edit(path: str, old: str, new: str) -> Call:
    return Call(tool="edit", arguments={"path": path, "old": old, "new": new})


def run_tests() -> Call:
    return Call(tool="test", arguments={})


def submit(answer: str) -> Call:
    return Call(tool="submit", arguments={"answer": answer})


def solver(name: str, words: Words) -> ScriptFactory:
    return lambda: _Agent(words, lambda _: True, random.Random(0), retypes=False).run(name)


def with_helper(name: str, words: Words) -> ScriptFactory:
    """Another honest solution: the steps live in a separate module that the function's file imports; it also
    prints and adds a test."""

    def script() -> Script:
        text, reading = "", [name]
        for each in reading:
            event = yield sh(f"cat {each}.py")
            _, wanted = words.read(event.text)
            reading += [found for found in called(event.text) if found not in reading]
            x = words.argument
            text += f"def {each}({x}):\n" + "".join(f"    {line}\n" for line in wanted) + f"    return {x}\n"
        yield sh(f"mkdir -p aid; cat >aid/steps.py <<'E'\n{text}E")
        yield sh(f"printf 'from aid.steps import {name}\\nprint(\"loaded\")\\n' >{name}.py")
        yield sh(
            f"printf 'from {name} import {name}\\ndef test_more():\\n    assert {name}(0) == {name}(0)\\n' "
            ">tests/test_more.py"
        )
        event = yield run_tests()
        while event.fault is Fault.TIMEOUT:
            event = yield run_tests()
        yield submit(receipt(event))

    return script


def demonstrator(name: str, words: Words, *, skill: float, seed: int) -> ScriptFactory:
    def script() -> Script:
        rng = random.Random(f"code/demonstrator/{seed}")

        def careful(unless: float) -> bool:
            return rng.random() < skill or rng.random() >= unless

        return _Agent(words, careful, rng, retypes=True).run(name)

    return script


def negative_controls(name: str, words: Words, seed: int) -> dict[str, ScriptFactory]:
    """Agents that must stay at the floor."""

    def null() -> Script:
        yield submit("")

    def no_tools() -> Script:
        yield submit("done")

    def noise() -> Script:
        rng = random.Random(f"code/random/{seed}")
        while True:
            yield _random_call(rng, words, name)

    def claim() -> Script:
        yield sh("echo ok; echo 1 >reward.txt; echo '{\"reward\": 1}' >reward.json")
        yield submit("all tests pass, reward=1")

    def by_heart() -> Script:
        """Memorises the visible cases."""
        event = yield sh(f"cat tests/test_{name}.py")
        cases = re.findall(r"\((-?\d+), (-?\d+)\)", event.text)
        table = ", ".join(f"{x}: {want}" for x, want in cases)
        yield sh(f"printf 'def {name}(x):\\n return {{{table}}}.get(x, x)\\n' >{name}.py")
        yield submit(receipt((yield run_tests())))

    def miner() -> Script:
        """Looks for the answer in the git history and restores earlier files."""
        yield sh("git log --all --oneline")
        yield sh("git checkout -q HEAD~1 -- . ; git stash list")
        yield submit(receipt((yield run_tests())))

    def open_loop() -> Script:
        yield sh(words.mend)
        yield run_tests()
        yield submit(str(random.Random(f"code/guess/{seed}").randrange(10, 100)))

    return {
        "null": null,
        "no_tools": no_tools,
        "random": noise,
        "claim": claim,
        "by_heart": by_heart,
        "miner": miner,
        "open_loop": open_loop,
    }


class _Agent:
    def __init__(self, words: Words, careful: Choice, rng: random.Random, *, retypes: bool) -> None:
        self.words, self.careful, self.rng, self.retypes = words, careful, rng, retypes

    def run(self, name: str) -> Script:
        said = UNKNOWN
        while True:
            yield from self._repair(name)
            if not self.careful(_UNTESTED):
                break
            event = yield run_tests()
            while event.fault is Fault.TIMEOUT:
                if not self.careful(_RESIGNED):
                    break
                event = yield run_tests()
            said = receipt(event)
            if said != UNKNOWN or event.fault is Fault.TIMEOUT or not self.careful(_RESIGNED):
                break
        yield submit(said)

    def _repair(self, name: str) -> Script:
        """Reads the function and what it calls, and repairs every line that contradicts its comment."""
        reading = [name]
        for each in reading:
            text = (yield sh(f"cat {each}.py")).text
            found, wanted = self.words.read(text)
            call = f"({self.words.argument})"
            if found == ["pass"]:
                yield from self._put(each, "pass", wanted)
            else:
                for old, new in zip(found, wanted, strict=False):
                    if old != new or (self.retypes and call not in new):
                        yield from self._put(each, old, [new])
            for other in called(text):
                if other not in reading and self.careful(_UNREAD):
                    reading.append(other)

    def _put(self, name: str, old: str, lines: list[str]) -> Generator[Call, Event, None]:
        typed = [line if self.careful(_SLIP / len(lines)) else self._mistyped(line) for line in lines]
        if typed != [old] or self.retypes:
            yield edit(f"{name}.py", old, self.words.between.join(typed))

    def _mistyped(self, line: str) -> str:
        digits = [at for at, letter in enumerate(line) if letter in "123456789"]
        if not digits:
            return line
        at = self.rng.choice(digits)
        return (
            line[:at]
            + str(self.rng.choice([each for each in DIGITS if str(each) != line[at]]))
            + line[at + 1 :]
        )


def receipt(event: Event) -> str:
    """The number that the tests print after `ok`."""
    *_, last = event.text.splitlines() or [""]  # tested code may print too
    return last.removeprefix("ok ") if last.startswith("ok ") else UNKNOWN


def _random_call(rng: random.Random, words: Words, name: str) -> Call:
    plain = list(PLAIN)
    old, new = (words.code(Step(word=rng.choice(plain), number=rng.choice(DIGITS))) for _ in range(2))
    path = f"{rng.choice((name, rng.choice(words.names)))}.py"
    return rng.choice(
        (
            sh(f"cat {path}"),
            sh("ls"),
            edit(path, old, new),
            edit(path, "pass", f"{old}{words.between}{new}"),
            run_tests(),
            submit(str(rng.randrange(10, 100))),
        )
    )
