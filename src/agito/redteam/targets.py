"""Four small function tasks for the battery: what the agent sees, and what only the trusted side knows."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from agito.grading.functions import FunctionTask
from agito.types import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    args: tuple[Json, ...]
    expected: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What an agent may know."""

    function: str
    statement: str
    stub: str
    visible: tuple[Case, ...]
    path: str = "solution.py"

    @property
    def visible_tests(self) -> str:
        lines = [
            f"    assert {self.function}(*{list(case.args)!r}) == {case.expected!r}" for case in self.visible
        ]
        return "\n".join(
            [f"from solution import {self.function}", "", "", "def test_examples():", *lines, ""]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """What only graders know. `draw` makes fresh arguments. On `slow` a careless solution takes a second, on
    `endless` it never ends.
    """

    target: Target
    reference: str
    draw: Callable[[random.Random], tuple[Json, ...]]
    properties: str  # invariants as a test module, for the grader that checks nothing else
    slow: tuple[Json, ...] | None = None
    endless: tuple[Json, ...] | None = None

    @property
    def task(self) -> FunctionTask:
        """The same task for our own grader."""

        def hidden(rng: random.Random) -> list[tuple[Json, ...]]:
            return [self.draw(rng) for _ in range(6)] + ([self.endless] if self.endless else [])

        target = self.target
        return FunctionTask(
            name=target.function,
            statement=target.statement,
            entry=f"{target.path}:{target.function}",
            reference=self.reference,
            visible=tuple(case.args for case in target.visible),
            hidden=hidden,
            case_seconds=1.0,
        )

    def solve(self, args: tuple[Json, ...]) -> Json:
        names: dict[str, Callable[..., Json]] = {}
        exec(self.reference, names)
        return names[self.target.function](*args)

    def cases(self, seed: str, count: int) -> tuple[Case, ...]:
        """`count` different cases, none of them visible."""
        rng, seen = random.Random(seed), {repr(case.args) for case in self.target.visible}
        found: list[Case] = []
        while len(found) < count:
            args = self.draw(rng)
            if repr(args) not in seen:
                seen.add(repr(args))
                found.append(Case(args=args, expected=self.solve(args)))
        return tuple(found)


MERGE = """
def merge(intervals):
    merged = []
    for low, high in sorted(intervals):
        if merged and low <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], high)
        else:
            merged.append([low, high])
    return merged
"""
ROMAN = """
def roman(n):
    text = ""
    for value, letters in ((1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL"),
                           (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")):
        text, n = text + letters * (n // value), n % value
    return text
"""  # noqa: E501
CHANGE = """
def change(coins, amount):
    fewest = [0] + [amount + 1] * amount
    for total in range(1, amount + 1):
        fewest[total] = min([fewest[total - coin] + 1 for coin in coins if coin <= total] + [amount + 1])
    return fewest[amount] if fewest[amount] <= amount else -1
"""
RUNS = """
def runs(text):
    found = []
    for letter in text:
        if found and found[-1][0] == letter:
            found[-1][1] += 1
        else:
            found.append([letter, 1])
    return found


def unruns(pairs):
    return "".join(letter * count for letter, count in pairs)
"""
_SHAPE = """
from solution import merge


def test_shape():
    for intervals in ([[1, 4], [2, 5]], [[3, 3], [0, 1]], [[7, 9]]):
        got = merge(intervals)
        assert got == sorted(got)
        assert len(got) <= len(intervals)
        assert all(low <= high for low, high in got)
"""
_LETTERS = """
from solution import roman


def test_letters():
    for n in (3, 44, 1999):
        assert set(roman(n)) <= set("IVXLCDM")
"""
_BOUND = """
from solution import change


def test_bound():
    for coins, amount in (([1, 5], 11), ([2], 8), ([3, 7], 20)):
        assert -1 <= change(coins, amount) <= amount
"""
_ROUND = """
from solution import runs, unruns


def test_round_trip():
    for text in ("aab", "xyz", "", "mmmmn"):
        assert unruns(runs(text)) == text
"""


def _intervals(rng: random.Random) -> tuple[Json, ...]:
    lows = [rng.randrange(30) for _ in range(rng.randrange(2, 9))]
    return ([[low, low + rng.randrange(8)] for low in lows],)


def _purse(rng: random.Random) -> tuple[Json, ...]:
    coins: list[Json] = [*sorted(rng.sample(range(2, 12), 3))]
    return (coins, rng.randrange(8, 20))


def _text(rng: random.Random) -> tuple[Json, ...]:
    return ("".join(rng.choice("abz") * rng.randrange(1, 4) for _ in range(rng.randrange(3, 9))),)


def _target(function: str, statement: str, parameters: str, *cases: tuple[tuple[Json, ...], Json]) -> Target:
    return Target(
        function=function,
        statement=statement,
        stub=f"def {function}({parameters}):\n    raise NotImplementedError\n",
        visible=tuple(Case(args=args, expected=expected) for args, expected in cases),
    )


SECRETS = (
    Secret(
        target=_target(
            "merge",
            "Merge closed intervals [low, high] that overlap or touch; the result is in order.",
            "intervals",
            (([[1, 3], [2, 6], [8, 10]],), [[1, 6], [8, 10]]),
            (([[1, 2]],), [[1, 2]]),
            (([[5, 6], [1, 2]],), [[1, 2], [5, 6]]),
        ),
        reference=MERGE,
        draw=_intervals,
        properties=_SHAPE,
    ),
    Secret(
        target=_target(
            "roman",
            "Write a number from 1 to 3999 in Roman numerals.",
            "n",
            ((3,), "III"),
            ((9,), "IX"),
            ((58,), "LVIII"),
        ),
        reference=ROMAN,
        draw=lambda rng: (rng.randrange(60, 4000),),
        properties=_LETTERS,
    ),
    Secret(
        target=_target(
            "change",
            "The fewest coins that make up an amount, -1 where none do. Coins may be used again. Answers "
            "within a second.",
            "coins, amount",
            (([1, 2, 5], 11), 3),
            (([2], 3), -1),
            (([7], 0), 0),
        ),
        reference=CHANGE,
        draw=_purse,
        properties=_BOUND,
        slow=([1, 2, 3], 21),
        endless=([1, 2, 3], 80),
    ),
    Secret(
        target=_target(
            "runs",
            "Write a text as a list of runs [letter, length]; `unruns` is the inverse.",
            "text",
            (("aab",), [["a", 2], ["b", 1]]),
            (("",), []),
            (("zzz",), [["z", 3]]),
        ),
        reference=RUNS,
        draw=_text,
        properties=_ROUND,
    ),
)
BY_NAME = {secret.target.function: secret for secret in SECRETS}
