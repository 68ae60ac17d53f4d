"""Scripted agents for the web tasks; they read what the pages say and nothing else.

One script serves as solver and demonstrator: at every decision it does the right thing, or, as often as its skill says not, what a
hasty person does: follows any link, presses the button before the fields are right, types another word, gives up.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from agito.envs.web.instance import COLORS, DONE, HOME, NEWS, VALUES
from agito.protocols import Script, ScriptFactory
from agito.types import Call

_GIVE_UP = 0.12  # of its hasty moments, how often the demonstrator ends the episode


def click(element: str | int) -> Call:
    return Call(tool="click", arguments={"element": str(element)})


def fill(element: str | int, text: str) -> Call:
    return Call(tool="fill", arguments={"element": str(element), "text": text})


def simple(tool: str) -> Call:
    return Call(tool=tool, arguments={})


def submit(answer: str = "done") -> Call:
    return Call(tool="submit", arguments={"answer": answer})


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    number: int
    role: str
    name: str
    value: str


@dataclass(slots=True, kw_only=True)
class Page:
    title: str = ""
    texts: list[str] = field(default_factory=list[str])
    elements: list[Element] = field(default_factory=list[Element])

    @classmethod
    def read(cls, text: str) -> Page:
        page = cls()
        for line in text.splitlines():
            number, _, rest = line.partition(" ")
            if line.startswith("# "):
                page.title = line[2:]
            elif number.isdigit():
                role, _, named = rest.partition(" ")
                name, _, value = named.partition(": ") if ": " in named else (named.removesuffix(":"), "", "")
                page.elements.append(Element(number=int(number), role=role, name=name, value=value.partition(" (")[0]))
            else:
                page.texts.append(line)
        return page

    def find(self, role: str, name: str = "") -> Element | None:
        return next((each for each in self.elements if each.role == role and name in ("", each.name)), None)


class _Agent:
    """What it knows of the site: which section lists what, and what it has read for later."""

    def __init__(self, prompt: str) -> None:
        self.verb, self.target, *self.words = prompt.split()
        self.lists: dict[str, set[str]] = {}
        self.section = HOME
        self.sold_out: set[str] = set()  # sections
        self.fact = ""  # a coupon, a code, or what somebody wrote

    @property
    def needs(self) -> str:
        """The page that has to be read next: of the item itself, or of what has to be known before."""
        if self.verb == "buy" and "coupon" in self.words and not self.fact:
            return NEWS
        if "in" in self.words and not self.fact:
            return self.words[3]
        return self.target

    def decide(self, page: Page) -> Call:
        if page.title == DONE:
            return submit()
        if page.title == HOME:
            return self._at_home(page)
        if page.title == self.needs or page.title == self.target:
            return self._at_item(page)
        links = {each.name for each in page.elements if each.role == "link"}
        if links:
            self.section = page.title
            self.lists[page.title] = links
            if self.needs in links and page.title not in self.sold_out:
                return click(self.needs)
        return simple("back")

    def _at_home(self, page: Page) -> Call:
        links = [each.name for each in page.elements]
        if self.needs in links:
            return click(self.needs)
        open_ = [name for name in links if name != NEWS and name not in self.sold_out]
        known = [name for name in open_ if self.needs in self.lists.get(name, ())]
        unseen = [name for name in open_ if name not in self.lists]
        return click((known or unseen or links)[0])

    def _at_item(self, page: Page) -> Call:
        if "sold out" in page.texts:
            self.sold_out.add(self.section)
            return simple("back")
        self._learn(page)
        if page.title != self.target or self.needs != self.target:
            return simple("back")
        for name, value in self.wanted().items():
            element = next((each for each in page.elements if each.name == name), None)
            if element is None or element.value == value:
                continue
            if element.role == "check":
                return click(name)
            if element.role == "choice":
                return Call(tool="select", arguments={"element": name, "option": value})
            return fill(name, value)
        button = page.find("button")
        return click(button.name) if button is not None else simple("back")

    def _learn(self, page: Page) -> None:
        pairs = [text.split(" ") for text in page.texts if text.count(" ") == 1]
        key = {"buy": "coupon", "send": "code"}.get(self.verb) or (self.words[1] if self.words[0] == "as" else "")
        if page.title == self.needs and (page.title != self.target or "in" not in self.words):
            self.fact = next((value for name, value in reversed(pairs) if name == key), self.fact)

    def wanted(self) -> dict[str, str]:
        """What the fields have to hold."""
        if self.verb == "buy":
            color = [word for word in self.words if word in COLORS]
            return {"count": self.words[0], **({"color": color[0]} if color else {}), **({"coupon": self.fact} if self.fact else {})}
        if self.verb == "reply":
            return {"text": self.fact if self.words[0] == "as" else self.words[0]}
        values = [self.fact if word == "code" else word for word in self.words]
        ticked = {"tick": values.pop()} if values[-1] in ("on", "off") else {}
        return {**dict(zip(("one", "two", "three"), values, strict=False)), **ticked}


def solver(prompt: str) -> ScriptFactory:
    return lambda: _run(prompt, lambda page, call: call)


def demonstrator(prompt: str, *, skill: float, seed: int) -> ScriptFactory:
    def script() -> Script:
        rng = random.Random(f"web/demonstrator/{seed}")

        def hasty(page: Page, call: Call) -> Call:
            if rng.random() < skill or call.tool == "submit":
                return call
            if rng.random() < _GIVE_UP:
                return submit()
            if call.tool == "fill" and rng.random() < 0.5:
                return fill(str(call.arguments["element"]), rng.choice(VALUES))
            pressed = page.find("button") or (rng.choice(page.elements) if page.elements else None)
            return click(pressed.name) if pressed is not None else simple("back")

        return _run(prompt, hasty)

    return script


def impostors(prompt: str, seed: int) -> dict[str, ScriptFactory]:
    """Agents that must stay at the floor."""

    def null() -> Script:
        yield submit("")

    def noise() -> Script:
        rng = random.Random(f"web/random/{seed}")
        while True:
            number = rng.randint(1, 5)
            yield rng.choice(
                (click(number), click(number), fill(number, rng.choice(prompt.split())), simple("look"), simple("back"), submit())
            )

    def claim() -> Script:
        yield simple("look")
        yield submit(f"{prompt}: done, reward=1")

    def blind() -> Script:
        """What is asked, filled in without reading a page."""
        yield simple("look")
        yield click(1)
        for number, word in enumerate(prompt.split()[2:], start=1):
            yield fill(number, word)
        yield click(len(prompt.split()) - 1)
        yield submit()

    return {"null": null, "random": noise, "claim": claim, "blind": blind}


def _run(prompt: str, change: Callable[[Page, Call], Call]) -> Script:
    agent = _Agent(prompt)
    event = yield simple("look")
    while True:
        if event.fault is not None:
            event = yield simple("look")
            continue
        page = Page.read(event.text)
        event = yield change(page, agent.decide(page))
