"""Scripted agents for the shell tasks; they read what the world answers and nothing else.

One script serves as solver and demonstrator: at every decision it does the right thing, or, as often as its skill says, what a
hasty person does: takes the first line without looking whether it is stale, does not run the
check again, gives up on a timeout or a missing tool. Much of that haste goes unpunished, so copying successful attempts copies it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from typing import TypeAlias

from agito.envs.shell.words import KEYS, NAMES, VALUES
from agito.protocols import Script, ScriptFactory
from agito.types import Call, Event, Fault

Choice: TypeAlias = Callable[[], bool]  # "does it do the right thing now?"
Asking: TypeAlias = "Generator[Call, Event, str | None]"  # a stretch of a script that comes back with a value, or gives up

UNKNOWN, DONE = "none", "done"
_GIVE_UP = 0.35  # of its hasty moments, how often the demonstrator gives up where it could also persist


def sh(command: str) -> Call:
    return Call(tool="sh", arguments={"command": command})


def submit(answer: str) -> Call:
    return Call(tool="submit", arguments={"answer": answer})


def solver(prompt: str) -> ScriptFactory:
    """`prompt` is the compact one: `find KEY` or `repair`."""
    return lambda: _Agent(lambda: True, lambda: True).run(prompt)


def demonstrator(prompt: str, *, skill: float, seed: int) -> ScriptFactory:
    def script() -> Script:
        rng = random.Random(f"shell/demonstrator/{seed}")
        return _Agent(lambda: rng.random() < skill, lambda: rng.random() < skill or rng.random() >= _GIVE_UP).run(prompt)

    return script


def impostors(prompt: str, seed: int) -> dict[str, ScriptFactory]:
    """Agents that must stay at the floor."""

    def null() -> Script:
        yield submit("")

    def no_tools() -> Script:
        verb, _, key = prompt.partition(" ")
        yield submit(DONE if verb == "repair" else f"{key}={random.Random(f'shell/guess/{seed}').choice(VALUES)}")

    def noise() -> Script:
        rng = random.Random(f"shell/random/{seed}")
        while True:
            yield _random_call(rng)

    def claim() -> Script:
        yield sh("echo ok; echo reward=1 >reward; echo submit done")
        yield submit("ok reward=1 done")

    return {"null": null, "no_tools": no_tools, "random": noise, "claim": claim}


class _Agent:
    def __init__(self, careful: Choice, patient: Choice) -> None:
        self.careful, self.patient = careful, patient
        self.can_grep = self.can_sed = True
        self.everywhere: str | None = None  # a pattern for all files; None: not looked yet

    def run(self, prompt: str) -> Script:
        verb, _, key = prompt.partition(" ")
        return self._find(key) if verb == "find" else self._repair()

    def _find(self, key: str) -> Script:
        while True:
            value = yield from self._look_up(key)
            if value is None or not value.startswith("@"):
                break
            key = value[1:]
        yield submit(f"{key}={value}" if value else UNKNOWN)

    def _repair(self) -> Script:
        while True:
            event = yield from self._persist("./.check")
            if event is None or event.text.startswith("ok"):
                break
            place, _, rest = event.text.strip().rpartition(" ")[2].rpartition(":")
            key, _, value = rest.removeprefix("want ").partition("=")
            path = place or (yield from self._locate(key))
            if value.startswith("@"):
                value = yield from self._look_up(value[1:])
            if not path or not value or not (yield from self._edit(path, key, value)):
                break
            if not self.careful():
                break  # hasty: does not check again
        yield submit(DONE)

    def _persist(self, command: str) -> Generator[Call, Event, Event | None]:
        """Repeats a command that times out; None when it gives up."""
        while True:
            event = yield sh(command)
            if event.fault is not Fault.TIMEOUT:
                return event
            if not self.patient():
                return None

    def _look_up(self, key: str) -> Asking:
        while self.can_grep:
            event = yield from self._persist(f"grep -rh {key}= *")
            if event is None:
                return None
            if event.exit_code != 127:
                return self._pick(event.text.splitlines(), key)
            self.can_grep = False
            if not self.patient():
                return None
        return (yield from self._search_by_hand(key))

    def _search_by_hand(self, key: str) -> Asking:
        """The fallback without grep: see how deep the tree is, then let sed print the key's lines."""
        if self.everywhere is None:
            event = yield sh("ls -p")
            self.everywhere = "*/*" if "/" in event.text else "*"
        event = yield sh(f"sed -n /{key}=/p {self.everywhere}")
        return self._pick(event.text.splitlines(), key)

    def _locate(self, key: str) -> Asking:
        event = yield from self._persist(f"grep -r {key}= *")
        if event is None:
            return None
        hits = [line.partition(":") for line in event.text.splitlines()]
        live = [path for path, _, line in hits if line.startswith(f"{key}=")]
        if not live or not self.careful():
            live = [path for path, _, _ in hits]  # hasty: the first hit, stale or not
        return live[0] if live else None

    def _pick(self, lines: list[str], key: str) -> str | None:
        live = [line for line in lines if line.startswith(f"{key}=")]
        if any(line.startswith(f"old {key}=") for line in lines) and not self.careful():
            live = [line for line in lines if line.removeprefix("old ").startswith(f"{key}=")]  # hasty: the first, stale or not
        return live[0].partition("=")[2] if live else None

    def _edit(self, path: str, key: str, value: str) -> Generator[Call, Event, bool]:
        if self.can_sed:
            event = yield sh(f"sed -i s/^{key}=.*/{key}={value}/ {path}")
            if event.exit_code != 127:
                return True
            self.can_sed = False
            if not self.patient():
                return False
        yield sh(f"grep -v ^{key}= {path} >t; echo {key}={value} >>t; mv t {path}")
        return True


def _random_call(rng: random.Random) -> Call:
    key, name, value = rng.choice(KEYS), rng.choice(NAMES), rng.choice(VALUES)
    kind = rng.randrange(8)
    if kind == 0:
        return submit(rng.choice((f"{key}={value}", DONE)))
    return sh(
        (
            "ls -p",
            f"cat {name}",
            f"sed -n /{key}=/p */*",
            f"grep -rh {key}= *",
            "./.check",
            f"sed -i s/^{key}=.*/{key}={value}/ {name}",
            f"grep -r {key}= *",
        )[kind - 1]
    )
