"""One latent web task: a site, the question, and the one record to leave behind.

Three families. *shop*: buy a number of a product. *forum*: reply to a thread with a given word or somebody's
post. *form*: send a form with given values. Everything on a site is named by a word and a number. The task
gives the words; numbers and positions are drawn for every site and can only be read. A pure function of
(split, family, level, seed).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

FAMILIES = ("shop", "forum", "form")
LEVELS = (1, 2, 3, 4, 5)
SPLITS = ("train", "heldout", "structural")
SIZES = ("big", "mid", "tiny")
HOME, DONE, NEWS = "home", "done", "news"
NOTE, ASK = "note", "ask"  # a field and a button on every page with a form; using them is wrong
FIELDS = {"shop": ("count", "size", "coupon"), "forum": ("text",), "form": ("one", "two", "three", "tick")}
SENDS = {"shop": "pay", "forum": "post", "form": "go"}  # the button that leaves a record
NEXT = "next"
FROM_LEVEL = {"size": 3, "coupon": 5, "three": 4, "tick": 3}  # first levels of fields; level 1 for others
HAS_TWIN = 3  # from this level on, another item has the same word, and pages name the owners


def _words() -> tuple[str, ...]:
    """A fixed walk over consonant-vowel-consonant words, none of which is a word of the pages."""
    every = [a + v + b for a in "dfgklmnpstvz" for v in "aeiou" for b in "bdkmpstvx" if v != a]
    return tuple(every[(i * 211) % len(every)] for i in range(72))


WORDS = _words()
NAMES, VALUES = WORDS[:36], WORDS[36:]  # of sections, items and people; of field contents
ONLY = {
    "shop": NAMES[-12:-8],
    "forum": NAMES[-8:-4],
    "form": NAMES[-4:],
}  # in training, only this family asks for items of these names


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The parameters of a level."""

    sections: int  # 0: all items on the first page
    items: int  # per section
    turns: int
    tokens: int
    error: float = 0.0  # a click returns an error and is not carried out
    lost: float = 0.0  # a click is carried out and returns a timeout


SHAPES = {
    1: Shape(sections=0, items=3, turns=10, tokens=384),
    2: Shape(sections=2, items=2, turns=20, tokens=512, error=0.08),
    3: Shape(sections=2, items=3, turns=28, tokens=768, error=0.08),
    4: Shape(sections=3, items=3, turns=44, tokens=1536, error=0.08, lost=0.08),
    5: Shape(sections=4, items=3, turns=60, tokens=2048, error=0.08, lost=0.08),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A product, a thread or a form."""

    name: str
    owner: str = ""  # by whom, as its page says; empty below level HAS_TWIN
    is_sold_out: bool = False
    posts: tuple[tuple[str, str], ...] = ()  # author, number; the newest last


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    family: str
    level: int
    sections: tuple[tuple[str, tuple[Item, ...]], ...]  # at level 1 a single one, named home
    labels: Mapping[str, str]  # of elements that pages share, by word
    order: tuple[str, ...]  # of fields and buttons on a page, by word
    ask: str  # the compact prompt
    expected: str  # the only record that must be there at the end
    coupon: str = ""
    code: str = ""


def word_of(name: str) -> str:
    return name.rstrip("0123456789")


def generate(*, split: str, family: str, level: int, seed: int) -> Instance:
    """The structural split: one section more, and the item is in the last one, under a name that training
    uses for another family."""
    return _Draw(
        random.Random(f"web/{split}/{family}/{level}/{seed}"),
        family,
        level,
        is_structural=split == "structural",
    ).instance()


class _Draw:
    """An instance being drawn."""

    def __init__(self, rng: random.Random, family: str, level: int, *, is_structural: bool) -> None:
        self.rng, self.family, self.level, self.is_structural = rng, family, level, is_structural
        self.numbers = rng.sample(range(10, 100), 90)
        others = [name for each in FAMILIES if each != family for name in ONLY[each]]
        self.target = rng.choice(others if is_structural else [name for name in NAMES if name not in others])
        self.words = rng.sample([name for name in NAMES if name != self.target], k=35)
        shape = SHAPES[level]
        count = shape.sections + (1 if is_structural and shape.sections else 0)
        self.titles = [self.named(self.words.pop()) for _ in range(count)] or [HOME]
        self.people = [self.words.pop() for _ in range(4)]
        self.rows = [[self.item(self.words.pop()) for _ in range(shape.items)] for _ in self.titles]

    def named(self, word: str) -> str:
        return f"{word}{self.numbers.pop()}"

    def item(self, word: str, owner: str = "", *, is_sold_out: bool = False) -> Item:
        owner = owner or (self.rng.choice(self.people) if self.level >= HAS_TWIN else "")
        return Item(name=self.named(word), owner=owner, is_sold_out=is_sold_out)

    def instance(self) -> Instance:
        rng, family, level = self.rng, self.family, self.level
        place = len(self.titles) - 1 if self.is_structural else rng.randrange(len(self.titles))
        wanted = self._put(self.item(self.target), place)
        if level >= HAS_TWIN:
            owner = rng.choice([name for name in self.people if name != wanted.owner])
            self._put(self.item(self.target, owner), rng.randrange(len(self.titles)))
        if family == "shop" and level >= 4:  # the same owner's product elsewhere, as this one is sold out
            elsewhere = [at for at in range(len(self.titles)) if at != place]
            self._put(self.item(self.target, wanted.owner, is_sold_out=True), rng.choice(elsewhere))
        named = f"{self.target} {wanted.owner}".rstrip()
        make = {"shop": self._shop, "forum": self._forum, "form": self._form}[family]
        ask, expected, coupon, code = make(named, wanted.name)
        words = [word for word in FIELDS[family] if level >= FROM_LEVEL.get(word, 1)] + [
            SENDS[family],
            NEXT,
            NOTE,
            ASK,
        ]
        return Instance(
            family=family,
            level=level,
            ask=ask,
            expected=expected,
            coupon=coupon,
            code=code,
            sections=tuple((title, tuple(row)) for title, row in zip(self.titles, self.rows, strict=True)),
            labels={word: self.named(word) for word in [*words, NEWS]},
            order=tuple(rng.sample(words, len(words))),
        )

    def _put(self, item: Item, section: int) -> Item:
        """Replaces an item that is not asked for."""
        row = self.rows[section]
        free = [at for at, each in enumerate(row) if word_of(each.name) != self.target]
        row[self.rng.choice(free)] = item
        return item

    def _shop(self, named: str, name: str) -> _Made:
        rest = str(self.rng.randint(2, 9)) + (
            f" {self.rng.choice(SIZES)}" if self.level >= FROM_LEVEL["size"] else ""
        )
        coupon = str(self.numbers.pop()) if self.level >= FROM_LEVEL["coupon"] else ""
        ask = f"buy {named} {rest}"
        return f"{ask} coupon" if coupon else ask, f"buy {name} {rest} {coupon}".rstrip(), coupon, ""

    def _forum(self, named: str, name: str) -> _Made:
        for row in self.rows:
            for at, item in enumerate(row):
                authors = (
                    self.rng.sample(self.people, k=2)
                    if self.level < 4
                    else [*self.people, self.rng.choice(self.people)]
                )
                posts = tuple((author, str(self.rng.randrange(10, 100))) for author in authors)
                row[at] = Item(name=item.name, owner=item.owner, posts=posts)
        if self.level < 3:
            word = self.rng.choice(VALUES)
            return f"reply {named} {word}", f"reply {name} {word}", "", ""
        items = [item for row in self.rows for item in row]
        source = next(item for item in items if item.name == name)
        if self.level >= 5:
            source = self.rng.choice([item for item in items if word_of(item.name) != self.target])
        author = self.rng.choice([author for author, _ in source.posts])
        where = f" in {word_of(source.name)}" if self.level >= 5 else ""
        return f"reply {named} as {author}{where}", f"reply {name} {dict(source.posts)[author]}", "", ""

    def _form(self, named: str, name: str) -> _Made:
        values = self.rng.sample(VALUES, k=2 if self.level < FROM_LEVEL["three"] else 3)
        ticks = [self.rng.choice(("on", "off"))] if self.level >= FROM_LEVEL["tick"] else []
        if self.level < 5:
            rest = " ".join([*values, *ticks])
            return f"send {named} {rest}", f"send {name} {rest}", "", ""
        code = str(self.numbers.pop())
        return (
            f"send {named} {values[0]} {values[1]} code {ticks[0]}",
            f"send {name} {values[0]} {values[1]} {code} {ticks[0]}",
            "",
            code,
        )


_Made = tuple[str, str, str, str]  # ask, expected, coupon, code
