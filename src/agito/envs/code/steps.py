"""The parts of generated functions: steps on one number, each with words, a line of Python and a meaning."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

PLAIN = {
    "add": "x+={}",
    "sub": "x-={}",
    "mul": "x*={}",
    "mod": "x%={}",
    "most": "x=min(x,{})",
    "least": "x=max(x,{})",
}
WHEN = {"over": ">", "under": "<"}  # "over 5 add 2" is x+=2*(x>5)
DIGITS = tuple(range(2, 10))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`call` names another function and excludes the other fields; `when` and `limit` make `add` or `sub`
    conditional."""

    word: str
    number: int = 0
    when: str = ""
    limit: int = 0
    call: str = ""

    @property
    def words(self) -> str:
        if self.call:
            return f"do {self.call}"
        return (f"{self.when} {self.limit} " if self.when else "") + f"{self.word} {self.number}"

    @property
    def code(self) -> str:
        if self.call:
            return f"x={self.call}(x)"
        return PLAIN[self.word].format(self.number) + (
            f"*(x{WHEN[self.when]}{self.limit})" if self.when else ""
        )

    def apply(self, x: int) -> int:
        if self.when and not (x > self.limit if self.when == "over" else x < self.limit):
            return x
        match self.word:
            case "add":
                return x + self.number
            case "sub":
                return x - self.number
            case "mul":
                return x * self.number
            case "mod":
                return x % self.number
            case "most":
                return min(x, self.number)
            case _:
                return max(x, self.number)

    def edges(self, x: int) -> str:
        """The side of its own edge on which `x` meets this step; empty far from it, or without an edge."""
        edge = self.limit if self.when else self.number
        if not (self.when or self.word in ("most", "least")) or abs(x - edge) > 1:
            return ""
        return f"{x - edge:+d}"


def draw(rng: random.Random, words: Sequence[str], conditional: float) -> Step:
    word = rng.choice(words)
    step = Step(word=word, number=rng.choice(DIGITS))
    if word in ("add", "sub") and rng.random() < conditional:
        return replace(step, when=rng.choice(tuple(WHEN)), limit=rng.choice(DIGITS))
    return step


def spoil(rng: random.Random, step: Step, words: Sequence[str]) -> Step:
    """The step with one fault: in operation, number, limit or comparison."""
    kinds = ["word", "number"] + (["when", "limit"] if step.when else [])
    match rng.choice(kinds):
        case "number":
            return replace(step, number=rng.choice([each for each in DIGITS if each != step.number]))
        case "limit":
            return replace(step, limit=rng.choice([each for each in DIGITS if each != step.limit]))
        case "when":
            return replace(step, when="under" if step.when == "over" else "over")
        case _:
            others = ("add", "sub") if step.when else words
            return replace(step, word=rng.choice([each for each in others if each != step.word]))


def run(
    functions: Mapping[str, Sequence[Step]], name: str, x: int, met: set[tuple[str, int, str]] | None = None
) -> int:
    """The value of function `name` at `x`. `met` collects the edges that it came close to."""
    for at, step in enumerate(functions[name]):
        if met is not None and not step.call and (side := step.edges(x)):
            met.add((name, at, side))
        x = run(functions, step.call, x, met) if step.call else step.apply(x)
    return x
