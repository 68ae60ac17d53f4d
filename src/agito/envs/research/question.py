"""Questions about a library, with answers and evidence."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

from agito.envs.research.library import DATES, LEVELS, SHAPES, Library, Source
from agito.envs.research.words import HELD_OUT, RELATIONS

FAMILIES = ("now", "then")
SPLITS = ("train", "heldout", "structural")
NEWEST = len(DATES) - 1
_TRIES = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Start at `start` and follow `path`, at each hop by what held at `date`. `steps` are the deciding
    documents."""

    start: str
    path: tuple[str, ...]
    date: int
    steps: tuple[Source, ...]

    @property
    def answer(self) -> str:
        return self.steps[-1].value

    @property
    def evidence(self) -> tuple[str, ...]:
        return tuple(step.id for step in self.steps)

    @property
    def text(self) -> str:
        when = "now" if self.date == NEWEST else f"then {DATES[self.date]}"
        return " ".join((when, self.start, *self.path))


def question(world: Library, *, split: str, family: str, level: int, rng: random.Random) -> Question | None:
    """A question that the first hits do not answer; None where this world has hardly any. The structural
    split: one hop more than the level's most, with relations in an order that training never shows."""
    hops = SHAPES[level].hops
    for _ in range(_TRIES):
        length = max(hops) + 1 if split == "structural" else rng.choice(hops)
        start = rng.choice(list(world.kinds))
        path = _path(rng, world.kinds[start], length)
        is_held_out = any(pair in HELD_OUT for pair in pairwise(path))
        date = NEWEST if family == "now" else rng.randrange(2, NEWEST)
        steps = follow(world, start, path, date)
        if (
            is_held_out != (split == "structural")
            or steps is None
            or not _is_listed(world, steps, SHAPES[level].noise)
        ):
            continue
        if family == "then" and follow(world, start, path, NEWEST) == steps:
            continue
        if _at_first_sight(world, start, path) != steps:
            return Question(start=start, path=path, date=date, steps=steps)
    return None


def follow(world: Library, start: str, path: tuple[str, ...], date: int) -> tuple[Source, ...] | None:
    """The deciding documents, or None where nothing was known at that date."""
    steps: list[Source] = []
    for relation in path:
        step = world.decisive(start, relation, date)
        if step is None:
            return None
        steps.append(step)
        start = step.value
    return tuple(steps)


def _path(rng: random.Random, kind: str, length: int) -> tuple[str, ...]:
    path: list[str] = []
    for _ in range(length):
        relation = rng.choice(list(RELATIONS[kind]))
        path.append(relation)
        kind = RELATIONS[kind][relation]
    return tuple(path)


def _is_listed(world: Library, steps: tuple[Source, ...], noise: bool) -> bool:
    """Whether every document about each step is among the hits (otherwise the question is unfair) and,
    without noise, no other."""
    for step in steps:
        about, hits = (
            set(world.about(step.subject, step.relation)),
            set(world.hits(step.subject, step.relation)),
        )
        if not about <= hits or (about != hits and not noise):
            return False
    return True


def _at_first_sight(world: Library, start: str, path: tuple[str, ...]) -> tuple[Source, ...]:
    """Where taking the first fitting hit leads."""
    steps: list[Source] = []
    for relation in path:
        hits = [
            hit for hit in world.hits(start, relation) if (hit.subject, hit.relation) == (start, relation)
        ]
        if not hits:
            break
        steps.append(hits[0])
        start = hits[0].value
    return tuple(steps)


__all__ = ["FAMILIES", "LEVELS", "NEWEST", "SPLITS", "Question", "follow", "question"]
