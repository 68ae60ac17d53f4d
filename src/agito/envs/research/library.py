"""The library of one world: dated documents about people, places and works, some stale, some rumors, and a
search index.

Facts may change: each document states what held at its date. A rumor never counts, whatever its date.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from agito.envs.research.words import NAMES, RELATIONS
from agito.worlds.search import Corpus, Document

HITS = 4  # hits per page of results
# Oldest first; letters, so that a date and the number after it are two tokens without a separator.
DATES = "abcdefghi"


def line(document: Document) -> str:
    """A hit as listed; its id begins with its date."""
    return f"{document.title} {document.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The parameters of a level."""

    hops: tuple[int, ...]
    sizes: tuple[int, int, int]  # people, places, works
    stale: tuple[int, ...]  # documents besides the newest, per fact
    rumor: float = 0.0  # probability that one of a fact's documents is a rumor
    noise: bool = False  # hits can be about something else
    timeout: float = 0.0
    turns: int = 12
    tokens: int = 256


SHAPES = {
    1: Shape(hops=(1,), sizes=(4, 3, 3), stale=(1, 2), turns=8, tokens=224),
    2: Shape(hops=(1, 2), sizes=(4, 4, 3), stale=(1, 2), turns=14, tokens=320),
    3: Shape(
        hops=(2,), sizes=(5, 4, 4), stale=(1, 2), rumor=0.3, noise=True, timeout=0.1, turns=22, tokens=384
    ),
    4: Shape(
        hops=(2, 3), sizes=(5, 5, 4), stale=(1, 2), rumor=0.4, noise=True, timeout=0.15, turns=30, tokens=512
    ),
    5: Shape(
        hops=(3,), sizes=(6, 5, 4), stale=(1, 2), rumor=0.5, noise=True, timeout=0.2, turns=30, tokens=512
    ),
}
LEVELS = tuple(SHAPES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One document as a statement."""

    id: str
    date: int  # index into `DATES`
    subject: str
    relation: str
    value: str
    is_rumor: bool

    @property
    def document(self) -> Document:
        kind = "rumor" if self.is_rumor else "is"
        return Document(
            id=self.id,
            date=DATES[self.date],
            title=f"{self.subject} {self.relation}",
            text=f"{kind} {self.value}",
        )


class Library:
    """Everything written in one world."""

    def __init__(self, sources: Sequence[Source], kinds: dict[str, str]) -> None:
        self.sources = tuple(sources)
        self.kinds = kinds  # of every name
        self.corpus = Corpus([source.document for source in sources])
        self.by_id = {source.id: source for source in sources}

    def about(self, subject: str, relation: str) -> list[Source]:
        return [source for source in self.sources if (source.subject, source.relation) == (subject, relation)]

    def decisive(self, subject: str, relation: str, date: int) -> Source | None:
        """The newest document that is no rumor and not after `date`."""
        counted = [
            source for source in self.about(subject, relation) if not source.is_rumor and source.date <= date
        ]
        return max(counted, key=lambda source: source.date, default=None)

    def hits(self, subject: str, relation: str) -> list[Source]:
        return [
            self.by_id[document.id]
            for document in self.corpus.search(f"{subject} {relation}", HITS, all_words=True)
        ]


@lru_cache(maxsize=128)
def library(split: str, seed: int, level: int, number: int) -> Library:
    """The `number`-th world of a stream. A pure function, cached because many tasks ask about one world."""
    rng = random.Random(f"research/{split}/{seed}/{level}/{number}")
    shape = SHAPES[level]
    members = {
        kind: rng.sample(NAMES[kind], size)
        for kind, size in zip(("person", "place", "work"), shape.sizes, strict=True)
    }
    ids = rng.sample(range(10, 100), 90)
    sources: list[Source] = []
    for kind, names in members.items():
        for subject in names:
            for relation, target in RELATIONS[kind].items():
                sources.extend(
                    _fact(
                        rng,
                        shape,
                        subject,
                        relation,
                        [name for name in members[target] if name != subject],
                        ids,
                    )
                )
    rng.shuffle(sources)
    return Library(sources, {name: kind for kind, names in members.items() for name in names})


def _fact(
    rng: random.Random, shape: Shape, subject: str, relation: str, values: list[str], ids: list[int]
) -> list[Source]:
    count = min(1 + rng.choice(shape.stale), len(values))
    dates = rng.sample(range(len(DATES)), count)
    rumor = rng.choice(dates) if count > 1 and rng.random() < shape.rumor else None
    return [
        Source(
            id=f"{DATES[date]}{ids.pop()}",
            date=date,
            subject=subject,
            relation=relation,
            value=value,
            is_rumor=date == rumor,
        )
        for date, value in zip(dates, rng.sample(values, count), strict=True)
    ]
