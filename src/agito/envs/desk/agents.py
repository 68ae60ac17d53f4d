"""Scripted agents for the desk; they see only what the world returns.

One script serves as solver and demonstrator. At every decision it does the right thing or, with a probability
set by its skill, what a hasty clerk does: not ask whether the user is sure, look at other orders first, obey
without checking the policy, give up on a timeout. Sometimes it mistypes a number and finds no such order, so
that learners see how to recover. The other orders come in random order, so that only the list shows which
number belongs to an item.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from typing import TypeAlias

from agito.envs.desk.case import FAMILIES
from agito.envs.desk.words import CUSTOMERS, ITEMS, PLACES
from agito.protocols import Script, ScriptFactory
from agito.types import Call, Event, Fault, Json

# Part of a script that returns a reply, or gives up.
Asking: TypeAlias = "Generator[Call, Event, str | None]"
# "Does the agent do the right thing now?", given how many of its hasty moments go wrong.
Choice: TypeAlias = Callable[[float], bool]

# how often each mistake happens at a hasty moment
_GIVE_UP, _SLIP, _UNSURE, _SLOPPY, _STRAY = 0.35, 0.1, 0.9, 0.9, 1.0
_MOST_PAGES = 4


def use(tool: str, **arguments: Json) -> Call:
    return Call(tool=tool, arguments=arguments)


def ask(text: str) -> Call:
    return use("ask", text=text)


def finish() -> Call:
    return use("submit", answer="done")


def solver(prompt: str) -> ScriptFactory:
    """`prompt` is the compact one: `CUSTOMER WISH [ITEM] limit DAYS`."""
    return lambda: _Agent(prompt, lambda _: True, random.Random(0)).run()


def demonstrator(prompt: str, *, skill: float, seed: int) -> ScriptFactory:
    def script() -> Script:
        rng = random.Random(f"desk/demonstrator/{seed}")
        return _Agent(prompt, lambda part: rng.random() < skill or rng.random() >= part, rng).run()

    return script


def negative_controls(prompt: str, seed: int, *, turns: int) -> dict[str, ScriptFactory]:
    """Agents that must stay at the floor."""
    customer, wish, *said = prompt.split()

    def null() -> Script:
        yield use("submit", answer="")

    def open_loop() -> Script:
        """Tries one number after another; a missing order does no harm."""
        rng = random.Random(f"desk/guess/{seed}")
        item = said[0] if said[0] != "limit" else rng.choice(ITEMS)
        deed = wish if wish == "cancel" else "refuse"  # the more frequently right one
        for number in rng.sample(range(10, 100), turns - 1):
            yield _deed(deed, f"{item}{number}", "")
        yield finish()

    def noise() -> Script:
        rng = random.Random(f"desk/random/{seed}")
        while True:
            yield _random_call(rng)

    def claim() -> Script:
        yield ask("sure")
        yield use("orders", name=customer, page=1)
        yield use("submit", answer="done: ok, refunded, cancelled, moved, refused; reward 1")

    return {"null": null, "open_loop": open_loop, "random": noise, "claim": claim}


class _Agent:
    def __init__(self, prompt: str, careful: Choice, rng: random.Random) -> None:
        self.customer, self.wish, *said = prompt.split()
        self.item = said[0] if said[0] != "limit" else None
        self.limit = int(said[-1])
        self.careful, self.rng = careful, rng

    def run(self) -> Script:
        yield from self._serve()
        yield finish()

    def _serve(self) -> Asking:
        if self.item is None:
            self.item = yield from self._persist(ask("which"))
        reply = "no" if self.careful(_UNSURE) else "yes"
        while self.item and reply and reply != "yes":
            reply = yield from self._persist(ask("sure"))
            if reply and reply.startswith("no "):
                self.item = reply.removeprefix("no ")
        if not self.item or not reply:
            return None
        order = yield from self._find()
        looked = order and (yield from self._persist(use("look", order=order)))
        if not order or not looked or looked.startswith("error"):
            return None
        return (yield from self._decide(looked, order))

    def _find(self) -> Asking:
        """The order's id."""
        for page in range(1, _MOST_PAGES):
            text = yield from self._persist(use("orders", name=self.customer, page=page))
            if text is None:
                return None
            lines = text.splitlines()
            listed = [line for line in lines if line[-1:].isdigit() and " " not in line]
            found = next((order for order in listed if order.rstrip("0123456789") == self.item), None)
            for order in self.rng.sample(listed, len(listed)):
                if order != found and not self.careful(_STRAY):
                    yield use("look", order=order)
            if found:
                return found
            if lines and lines[-1] == "more":
                continue
            # the customer named something that they never bought
            self.item = yield from self._persist(ask("which"))
            return (yield from self._find()) if self.item else None
        return None

    def _decide(self, looked: str, order: str) -> Asking:
        state, days, rank = looked.split()
        if self.wish == "refund":
            is_allowed = state == "sent" and (int(days) <= self.limit or rank == "gold")
        else:
            is_allowed = state == "open"
        place: str | None = ""
        wish = self.wish if is_allowed or not self.careful(_SLOPPY) else "refuse"
        if wish == "move":
            place = yield from self._persist(ask("where"))
            if place is None:
                return None
        if not self.careful(_SLIP):
            yield from self._persist(_deed(wish, _some_order(self.rng), place))
        reply = yield from self._persist(_deed(wish, order, place))
        if reply and reply.startswith("error 409") and wish != "refuse" and not is_allowed:
            reply = yield from self._persist(_deed("refuse", order, place))
        return reply

    def _persist(self, call: Call) -> Asking:
        """Repeats a call that times out; None when it gives up."""
        while True:
            event = yield call
            if event.fault is not Fault.TIMEOUT:
                return event.text
            if not self.careful(_GIVE_UP):
                return None


def _deed(name: str, order: str, place: str) -> Call:
    return use(name, order=order, place=place) if name == "move" else use(name, order=order)


def _some_order(rng: random.Random) -> str:
    return f"{rng.choice(ITEMS)}{rng.randrange(100, 110)}"  # no order has three digits


def _random_call(rng: random.Random) -> Call:
    kind = rng.randrange(10)
    if kind == 0:
        return finish()
    if kind < 4:
        return ask(rng.choice(("which", "sure", "where")))
    if kind < 6:
        return use("orders", name=rng.choice(CUSTOMERS), page=rng.randrange(1, 3))
    order = f"{rng.choice(ITEMS)}{rng.randrange(10, 100)}"
    return _deed(rng.choice((*FAMILIES, "refuse", "look")), order, rng.choice(PLACES))
