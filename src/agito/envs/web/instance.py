"""One latent web task: a site, what is asked, and the one record that must be left behind.

Three families. *shop*: buy so many of a product, in a colour. *forum*: reply to a thread, with a given word or with what somebody
wrote. *form*: send a form with these values. A pure function of (split, family, level, seed).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

FAMILIES = ("shop", "forum", "form")
LEVELS = (1, 2, 3, 4, 5)
SPLITS = ("train", "heldout", "structural")
COLORS = ("red", "blue", "grey")
HOME, DONE, NEWS = "home", "done", "news"


def _words() -> tuple[str, ...]:
    """A fixed walk over consonant-vowel-consonant words, none of which is a word of the pages."""
    every = [a + v + b for a in "dfgklmnpstvz" for v in "aeiou" for b in "bdkmpstvx" if v != a]
    return tuple(every[(i * 211) % len(every)] for i in range(72))


WORDS = _words()
NAMES, VALUES = WORDS[:36], WORDS[36:]  # of sections, items and people; of what is filled in
ONLY = {
    "shop": NAMES[-12:-8],
    "forum": NAMES[-8:-4],
    "form": NAMES[-4:],
}  # in training, items of these names are asked for in this family alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a level looks like."""

    sections: int  # 0: all items on the first page
    items: int  # per section
    turns: int
    tokens: int
    error: float = 0.0  # a click is answered with an error and not carried out
    lost: float = 0.0  # a click is carried out and answered with a timeout


SHAPES = {
    1: Shape(sections=0, items=3, turns=10, tokens=288),
    2: Shape(sections=2, items=2, turns=16, tokens=416, error=0.08),
    3: Shape(sections=2, items=3, turns=18, tokens=512, error=0.08),
    4: Shape(sections=3, items=3, turns=32, tokens=1024, error=0.08, lost=0.08),
    5: Shape(sections=4, items=3, turns=48, tokens=1536, error=0.08, lost=0.08),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A product, a thread or a form."""

    name: str
    is_sold_out: bool = False
    posts: tuple[tuple[str, str], ...] = ()  # author, word; the newest last


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    family: str
    level: int
    sections: tuple[tuple[str, tuple[Item, ...]], ...]  # one, named home, at level 1
    ask: str  # the compact prompt
    expected: str  # the record that must be there in the end, and no other
    coupon: str = ""
    code: str = ""


def generate(*, split: str, family: str, level: int, seed: int) -> Instance:
    """The structural split: one section more, what is asked for in the last one, under a name that training asks for elsewhere alone."""
    rng = random.Random(f"web/{split}/{family}/{level}/{seed}")
    shape, is_structural = SHAPES[level], split == "structural"
    others = [name for each in FAMILIES if each != family for name in ONLY[each]]
    target = rng.choice(others if is_structural else [name for name in NAMES if name not in others])
    names = rng.sample([name for name in NAMES if name != target], k=35)
    count = shape.sections + (1 if is_structural and shape.sections else 0)
    titles = [names.pop() for _ in range(count)] or [HOME]
    place = len(titles) - 1 if is_structural else rng.randrange(len(titles))
    rows = [[Item(name=names.pop()) for _ in range(shape.items)] for _ in titles]
    at = rng.randrange(shape.items)
    rows[place][at] = Item(name=target)
    make = {"shop": _shop, "forum": _forum, "form": _form}[family]
    ask, expected, coupon, code = make(rng, level, target, names, rows, place, at)
    sections = tuple((title, tuple(row)) for title, row in zip(titles, rows, strict=True))
    return Instance(family=family, level=level, sections=sections, ask=ask, expected=expected, coupon=coupon, code=code)


_Made = tuple[str, str, str, str]  # ask, expected, coupon, code


def _shop(rng: random.Random, level: int, target: str, names: list[str], rows: list[list[Item]], place: int, at: int) -> _Made:
    ask = f"buy {target} {rng.randint(2, 9)}"
    if level >= 3:
        ask += f" {rng.choice(COLORS)}"
    if level >= 4:  # the same product where it is sold out
        decoy = rng.choice([section for section in range(len(rows)) if section != place])
        rows[decoy][rng.randrange(len(rows[decoy]))] = Item(name=target, is_sold_out=True)
    coupon = rng.choice(VALUES) if level >= 5 else ""
    return f"{ask} coupon" if coupon else ask, f"{ask} {coupon}".rstrip(), coupon, ""


def _forum(rng: random.Random, level: int, target: str, names: list[str], rows: list[list[Item]], place: int, at: int) -> _Made:
    people = [names.pop() for _ in range(3)]
    for row in rows:
        for index, item in enumerate(row):
            authors = rng.sample(people, k=2) if level < 4 else [*people, rng.choice(people)]
            row[index] = Item(name=item.name, posts=tuple((author, rng.choice(VALUES)) for author in authors))
    if level < 3:
        word = rng.choice(VALUES)
        return f"reply {target} {word}", f"reply {target} {word}", "", ""
    source = rows[place][at]
    if level >= 5:
        source = rng.choice([item for row in rows for item in row if item.name != target])
    author = rng.choice([author for author, _ in source.posts])
    word = dict(source.posts)[author]  # the newest
    ask = f"reply {target} as {author}" + (f" in {source.name}" if level >= 5 else "")
    return ask, f"reply {target} {word}", "", ""


def _form(rng: random.Random, level: int, target: str, names: list[str], rows: list[list[Item]], place: int, at: int) -> _Made:
    values = rng.sample(VALUES, k=2 if level < 4 else 3)
    parts = [*values, rng.choice(("on", "off"))] if level >= 3 else values
    expected = f"send {target} {' '.join(parts)}"
    if level < 5:
        return expected, expected, "", ""
    return f"send {target} {parts[0]} {parts[1]} code {parts[3]}", expected, "", parts[2]
