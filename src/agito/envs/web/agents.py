"""Scripted agents for the web tasks; they see only what the pages say.

One script serves as solver and demonstrator. At every decision it does the right thing or, with a probability
set by its skill, what a hasty person does: follow any link, press the button before the fields are right,
type another word, give up.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from agito.envs.web.instance import DONE, HAS_TWIN, HOME, NEWS, NEXT, SENDS, SHAPES, SIZES, VALUES, word_of
from agito.protocols import Script, ScriptFactory
from agito.types import Call

_GIVE_UP = 0.12  # how often the demonstrator ends the episode, at a hasty moment


def click(element: str | int) -> Call:
    return Call(tool="click", arguments={"element": str(element)})


def fill(element: str | int, text: str) -> Call:
    return Call(tool="fill", arguments={"element": str(element), "text": text})


def simple(tool: str) -> Call:
    return Call(tool=tool, arguments={})


def choose(element: str | int, option: str) -> Call:
    return Call(tool="select", arguments={"element": str(element), "option": option})


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
                page.elements.append(
                    Element(number=int(number), role=role, name=name, value=value.partition(" (")[0])
                )
            else:
                page.texts.append(line)
        return page


class _Agent:
    """Its knowledge of the site: what each section lists, which items are excluded, and what it has read for
    later."""

    def __init__(self, prompt: str, level: int) -> None:
        self.verb, self.target, *self.words = prompt.split()
        self.owner = self.words.pop(0) if level >= HAS_TWIN else ""
        self.lists: dict[str, list[str]] = {}
        # Items with the right word that are not meant: sold out, or another owner's.
        self.others: set[str] = set()
        self.fact = ""  # a coupon, a code, or the text of a post

    @property
    def needs(self) -> str:
        """The word of the next page to read: of the item itself, or of what must be known first."""
        if "coupon" in self.words and not self.fact:
            return NEWS
        if "in" in self.words and not self.fact:
            return self.words[-1]
        return self.target

    def decide(self, page: Page) -> Call:
        if page.title == DONE:
            return submit()
        if word_of(page.title) in (self.needs, self.target):
            return self._at_item(page)
        links = [each.name for each in page.elements if each.role == "link"]
        found = self._meant(links)
        if page.title == HOME:
            known = [name for name in links if self._meant(self.lists.get(name, []))]
            unseen = [name for name in links if name not in self.lists and word_of(name) != NEWS]
            return click((found or known or unseen or links)[0])
        if links:
            self.lists[page.title] = links
        return click(found[0]) if found else simple("back")

    def _meant(self, names: list[str]) -> list[str]:
        return [name for name in names if word_of(name) == self.needs and name not in self.others]

    def _at_item(self, page: Page) -> Call:
        is_target = word_of(page.title) == self.target
        if is_target and ("sold out" in page.texts or (self.owner and f"by {self.owner}" not in page.texts)):
            self.others.add(page.title)
            return simple("back")
        self._learn(page)
        if not is_target or self.needs != self.target:
            return simple("back")
        for word, value in self.wanted().items():
            element = next((each for each in page.elements if word_of(each.name) == word), None)
            if element is None or element.value == value:
                continue
            if element.role == "check":
                return click(element.name)
            if element.role == "choice":
                return choose(element.name, value)
            return fill(element.name, value)
        button = next((each for each in page.elements if word_of(each.name) in (*SENDS.values(), NEXT)), None)
        return click(button.name) if button is not None else simple("back")

    def _learn(self, page: Page) -> None:
        key = {"buy": "coupon", "send": "code"}.get(self.verb) or (
            self.words[1] if self.words[0] == "as" else ""
        )
        if word_of(page.title) == self.needs and (self.needs != self.target or "in" not in self.words):
            self.fact = next(
                (text.removeprefix(key) for text in reversed(page.texts) if word_of(text) == key), self.fact
            )

    def wanted(self) -> dict[str, str]:
        """The wanted content of the fields, by word."""
        if self.verb == "buy":
            values = dict(
                zip(("count", "size"), (word for word in self.words if word != "coupon"), strict=False)
            )
            return values | ({"coupon": self.fact} if self.fact else {})
        if self.verb == "reply":
            return {"text": self.fact if self.words[0] == "as" else self.words[0]}
        values = [self.fact if word == "code" else word for word in self.words]
        ticked = {"tick": values.pop()} if values[-1] in ("on", "off") else {}
        return {**dict(zip(("one", "two", "three"), values, strict=False)), **ticked}


def solver(prompt: str, level: int) -> ScriptFactory:
    return lambda: _run(prompt, level, lambda page, call: call)


def demonstrator(prompt: str, level: int, *, skill: float, seed: int) -> ScriptFactory:
    def script() -> Script:
        rng = random.Random(f"web/demonstrator/{seed}")

        def hasty(page: Page, call: Call) -> Call:
            if rng.random() < skill or call.tool == "submit":
                return call
            if rng.random() < _GIVE_UP:
                return submit()
            if call.tool == "fill" and rng.random() < 0.5:
                return fill(str(call.arguments["element"]), rng.choice(VALUES))
            pressed = [each for each in page.elements if each.role == "button"] or page.elements
            return click(rng.choice(pressed).name) if pressed else simple("back")

        return _run(prompt, level, hasty)

    return script


def negative_controls(prompt: str, level: int, seed: int) -> dict[str, ScriptFactory]:
    """Agents that must stay at the floor."""

    def null() -> Script:
        yield submit("")

    def noise() -> Script:
        rng = random.Random(f"web/random/{seed}")
        while True:
            number = rng.randint(1, 5)
            yield rng.choice(
                (
                    click(number),
                    click(number),
                    fill(number, rng.choice(prompt.split())),
                    simple("look"),
                    simple("back"),
                    submit(),
                )
            )

    def claim() -> Script:
        yield simple("look")
        yield submit(f"{prompt}: done, reward=1")

    def open_loop() -> Script:
        """Guesses by number instead of name which of a few elements to press or fill in."""
        rng = random.Random(f"web/open_loop/{seed}")
        values = prompt.split()[3 if level >= HAS_TWIN else 2 :]
        yield simple("look")
        for _ in range(1 if level == 1 else 2):
            yield click(rng.randint(1, SHAPES[level].items))
        places = rng.sample(range(1, 4 + len(values)), 3 + len(values))
        # Of pairs among four places, one place alone is most often the right field.
        for value in values if len(values) > 1 else values * 2:
            yield _entry(places.pop(), value)
        # Pressing a field does no harm.
        for place in rng.sample(range(1, 4 + len(values)), 3 + len(values)):
            yield click(place)
        yield submit()

    return {"null": null, "random": noise, "claim": claim, "open_loop": open_loop}


def _entry(place: int, value: str) -> Call:
    """A value in the form that its control takes."""
    if value in ("on", "off"):
        return click(place)
    return choose(place, value) if value in SIZES else fill(place, value)


def _run(prompt: str, level: int, change: Callable[[Page, Call], Call]) -> Script:
    agent = _Agent(prompt, level)
    event = yield simple("look")
    while True:
        if event.fault is not None:
            event = yield simple("look")
            continue
        page = Page.read(event.text)
        event = yield change(page, agent.decide(page))
