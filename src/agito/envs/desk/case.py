"""One case at the desk: the shop's books, what the user finally wants, how the case should end, and the books
afterwards."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from agito.envs.desk.shop import PAGE, SCHEMA
from agito.envs.desk.words import CUSTOMERS, ITEMS, PLACES
from agito.worlds.api import dump, image
from agito.worlds.api.database import Tables
from agito.worlds.users import Mind

FAMILIES = ("refund", "cancel", "move")
SPLITS = ("train", "heldout", "structural")
PATIENCE = 12  # questions that a user answers

Order: TypeAlias = "tuple[str, str, str, str, int, str]"  # id, customer, item, state, days, place


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The parameters of a level; all but the counts are probabilities."""

    orders: tuple[int, ...]  # of the customer; more than three fill a second page
    others: int  # other customers
    changes: tuple[int, ...]  # how often users change their mind, unless they start with a mistake
    left_out: float = 0.0  # the opening omits the item
    forgets: float = 0.0  # the user first names another item
    gold: float = 0.0  # the customer may return things at any age
    timeout: float = 0.0
    lost: float = 0.0  # the call was carried out but its answer lost
    turns: int = 16
    tokens: int = 256


SHAPES = {
    1: Shape(orders=(2, 3), others=1, changes=(0,), left_out=0.5, turns=10, tokens=192),
    2: Shape(orders=(2, 3), others=2, changes=(0, 1), left_out=0.7, turns=14, tokens=256),
    3: Shape(
        orders=(2, 3, 4, 5),
        others=2,
        changes=(0, 1),
        left_out=0.8,
        forgets=0.2,
        gold=0.3,
        timeout=0.08,
        turns=24,
        tokens=384,
    ),
    4: Shape(
        orders=(3, 4, 5, 6),
        others=3,
        changes=(0, 1, 2),
        left_out=0.9,
        forgets=0.3,
        gold=0.3,
        timeout=0.08,
        lost=0.08,
        turns=32,
        tokens=512,
    ),
    5: Shape(
        orders=(4, 5, 6),
        others=3,
        changes=(1, 2),
        left_out=1.0,
        forgets=0.4,
        gold=0.4,
        timeout=0.1,
        lost=0.12,
        turns=36,
        tokens=512,
    ),
}
LEVELS = tuple(SHAPES)


@dataclass(frozen=True, kw_only=True)
class Case:
    family: str
    customer: str
    rank: str
    limit: int  # days within which a sent order can be refunded
    orders: tuple[Order, ...]  # of all customers
    said: tuple[str, ...]  # what the opening says besides the wish
    # What the wish concerns, in order of the user's changes of mind; the last one counts.
    items: tuple[str, ...]
    place: str  # new address; move only
    forgets: str | None  # the item they name first by mistake

    @property
    def text(self) -> str:
        return " ".join((self.customer, self.family, *self.said, "limit", str(self.limit)))

    @cached_property
    def books(self) -> bytes:
        """The shop at the start."""
        return image(SCHEMA, {"customers": self._ranks, "orders": self.orders})

    @property
    def target(self) -> Order:
        """The order that the case is finally about."""
        return next(order for order in self.orders if order[1:3] == (self.customer, self.items[-1]))

    @property
    def is_allowed(self) -> bool:
        _, _, _, state, days, _ = self.target
        if self.family == "refund":
            return state == "sent" and (days <= self.limit or self.rank == "gold")
        return state == "open"

    @cached_property
    def wanted(self) -> Tables:
        """The books as they should be at the end."""
        number, customer, item, state, days, place = self.target
        done: dict[str, Order] = {
            "refund": (number, customer, item, "back", days, place),
            "cancel": (number, customer, item, "off", days, place),
            "move": (number, customer, item, state, days, self.place),
        }
        orders = [
            done[self.family] if self.is_allowed and order[0] == number else order for order in self.orders
        ]
        refunds = [(number,)] if self.is_allowed and self.family == "refund" else []
        refusals = [] if self.is_allowed else [(number,)]
        return dump(
            image(
                SCHEMA, {"customers": self._ranks, "orders": orders, "refunds": refunds, "refusals": refusals}
            )
        )

    @property
    def _ranks(self) -> list[tuple[str, str]]:
        return [
            (name, self.rank if name == self.customer else "plain")
            for name in dict.fromkeys(order[1] for order in self.orders)
        ]

    def mind(self) -> Mind:
        """A fresh user."""
        wants = {"item": self.items[0]} | ({"place": self.place} if self.family == "move" else {})
        recalls = {"item": self.forgets} if self.forgets else {}
        return Mind(
            wants=wants,
            recalls=recalls,
            changes=[{"item": item} for item in self.items[1:]],
            patience=PATIENCE,
        )


def case(*, split: str, family: str, level: int, rng: random.Random) -> Case:
    """The structural split: one more change of mind than the level's most, and orders that fill a second
    page."""
    shape, structural = SHAPES[level], split == "structural"
    customers = rng.sample(CUSTOMERS, 1 + shape.others)
    is_open = rng.random() < shape.left_out
    # Such a user does not also change their mind.
    is_mistaken = is_open and not structural and rng.random() < shape.forgets
    changes = max(shape.changes) + 1 if structural else 0 if is_mistaken else rng.choice(shape.changes)
    count = max(rng.choice(shape.orders), changes + 1, PAGE + 1 if structural else 0)
    items = rng.sample(ITEMS, count + 1)
    spare = items.pop()
    limit = rng.randrange(2, 8)
    numbers = rng.sample(range(10, 100), count + 2 * shape.others)
    orders = [
        (f"{item}{numbers.pop()}", customers[0], item, *_state(rng, family, limit), rng.choice(PLACES))
        for item in items
    ]
    for other in customers[1:]:
        bought = rng.sample(ITEMS, 2)
        orders += [
            (f"{item}{numbers.pop()}", other, item, *_state(rng, family, limit), rng.choice(PLACES))
            for item in bought
        ]
    chosen = tuple(rng.sample(items, changes + 1))
    rank = "gold" if rng.random() < shape.gold else "plain"
    # So that a move changes something.
    elsewhere = [place for place in PLACES if all(order[5] != place for order in orders)]
    return Case(
        family=family,
        customer=customers[0],
        rank=rank,
        limit=limit,
        orders=tuple(sorted(orders)),
        said=() if is_open else (chosen[0],),
        items=chosen,
        place=rng.choice(elsewhere),
        forgets=spare if is_mistaken else None,
    )


def _state(rng: random.Random, family: str, limit: int) -> tuple[str, int]:
    """Chosen so that the family's wish is allowed about half the time."""
    days = rng.randrange(1, 10)
    if family == "refund":
        return ("sent", days) if rng.random() < 0.85 else ("open", days)
    return ("open" if rng.random() < 0.6 else "sent", days)
