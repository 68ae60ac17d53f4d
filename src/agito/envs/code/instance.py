"""One latent coding task: a few functions that call one another, their faults, and inputs that reveal them.

Two families. *bug*: one or more lines contradict the comment above the function. *missing*: a body is not
written. A pure function of (split, family, level, seed) and of the words: the same tasks in every
vocabulary.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from agito.envs.code.steps import PLAIN, Step, draw, run, spoil
from agito.envs.code.words import TERSE, Words

FAMILIES = ("bug", "missing")
LEVELS = (1, 2, 3, 4, 5)
SPLITS = ("train", "heldout", "structural")
# In training, only one family asks for this operation.
ONLY = {"bug": "most", "missing": "mod"}
INPUTS = range(-12, 31)
NUM_VISIBLE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The parameters of a level."""

    functions: int  # each in its own file; the first calls the second, and so on
    steps: tuple[int, ...]  # of each function, without calls: one of these numbers
    faults: tuple[int, ...]  # one of these numbers of wrong lines or unwritten bodies
    beside: bool  # a comment above every line; otherwise one above the function
    conditional: float
    turns: int
    tokens: int


SHAPES: dict[int, Shape] = {
    1: Shape(functions=1, steps=(2,), faults=(1,), beside=True, conditional=0.0, turns=8, tokens=224),
    2: Shape(functions=1, steps=(2, 3), faults=(1, 2), beside=True, conditional=0.2, turns=12, tokens=320),
    3: Shape(functions=2, steps=(2,), faults=(1, 2), beside=False, conditional=0.3, turns=12, tokens=384),
    4: Shape(functions=2, steps=(2, 3), faults=(2,), beside=False, conditional=0.4, turns=16, tokens=512),
    5: Shape(functions=3, steps=(2, 3), faults=(2, 3), beside=False, conditional=0.5, turns=20, tokens=768),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`wrong` replaces step `at` of `function`; None: the whole body is missing."""

    function: str
    at: int = 0
    wrong: Step | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    words: Words
    functions: dict[str, tuple[Step, ...]]  # as they should be; the first is the entry point
    faults: tuple[Fault, ...]
    beside: bool
    visible: tuple[int, ...]

    @property
    def entry(self) -> str:
        return next(iter(self.functions))

    @property
    def reference(self) -> str:
        """All functions in one text, as the grader runs it."""
        return "\n".join(
            self.words.function(name, [self.words.code(step) for step in steps], steps, beside=False)
            for name, steps in self.functions.items()
        )

    @property
    def tree(self) -> dict[str, str]:
        """The working files at the start of the episode."""
        return {f"{name}.py": self.source(name, self.faults) for name in self.functions} | {
            f"tests/test_{self.entry}.py": self.test
        }

    def source(self, name: str, faults: tuple[Fault, ...]) -> str:
        words, steps = self.words, self.functions[name]
        lines = [words.code(step) for step in steps]
        for fault in faults:
            if fault.function == name:
                if fault.wrong is None:
                    lines = ["pass"]
                    break
                lines[fault.at] = words.code(fault.wrong)
        imports = words.imports([step.call for step in steps if step.call])
        return imports + words.function(name, lines, steps, beside=self.beside)

    @property
    def test(self) -> str:
        name = self.entry
        cases = ", ".join(f"({x}, {run(self.functions, name, x)})" for x in self.visible)
        return self.words.test(name, cases)

    def hidden(self, rng: random.Random) -> list[int]:
        """Fresh inputs: both sides of every reachable edge, inputs that show each fault alone and all
        together, and two random ones."""
        order = list(INPUTS)
        rng.shuffle(order)
        chosen: list[int] = []
        met: set[tuple[str, int, str]] = set()
        for x in order:
            near: set[tuple[str, int, str]] = set()
            run(self.functions, self.entry, x, near)
            if near - met:
                chosen.append(x)
                met |= near
        for faults in (self.faults, *((fault,) for fault in self.faults)):
            if not any(self.shows(x, faults) for x in chosen):
                chosen.append(next(x for x in order if self.shows(x, faults)))
        return [*chosen, *(rng.randrange(100, 1000) * sign for sign in (1, -1))]

    def shows(self, x: int, faults: tuple[Fault, ...]) -> bool:
        """Whether functions with only these faults give a wrong result at `x`; a missing body returns its
        argument."""
        spoiled = dict(self.functions)
        for fault in faults:
            steps = list(spoiled[fault.function])
            if fault.wrong is not None:
                steps[fault.at] = fault.wrong
            spoiled[fault.function] = tuple(steps) if fault.wrong is not None else ()
        return run(spoiled, self.entry, x) != run(self.functions, self.entry, x)


def generate(*, split: str, family: str, level: int, seed: int, words: Words = TERSE) -> Instance:
    """The structural split asks each family for the operation that training reserves for the other, in the
    longest functions."""
    rng = random.Random(f"code/{split}/{family}/{level}/{seed}")
    while True:
        instance = _draw(rng, SHAPES[level], family, words, is_structural=split == "structural")
        if _is_sound(instance):
            return instance


def _draw(
    rng: random.Random, shape: Shape, family: str, vocabulary: Words, *, is_structural: bool
) -> Instance:
    foreign = ONLY["missing" if family == "bug" else "bug"]
    words = [word for word in PLAIN if is_structural or word != foreign]
    names = rng.sample(vocabulary.names, shape.functions)
    functions: dict[str, tuple[Step, ...]] = {}
    for at, name in enumerate(names):
        count = max(shape.steps) if is_structural else rng.choice(shape.steps)
        steps = [draw(rng, words, shape.conditional) for _ in range(count)]
        if is_structural and at == 0:
            steps[rng.randrange(count)] = draw(rng, [foreign], 0.0)
        if at + 1 < len(names):
            steps.insert(rng.randrange(count + 1), Step(word="", call=names[at + 1]))
        functions[name] = tuple(steps)
    count = max(shape.faults) if is_structural else rng.choice(shape.faults)
    if family == "missing":
        faults = [Fault(function=name) for name in rng.sample(names, min(count, len(names)))]
    else:
        places = [(name, at) for name in names for at, step in enumerate(functions[name]) if not step.call]
        faults = [
            Fault(function=name, at=at, wrong=spoil(rng, functions[name][at], words))
            for name, at in rng.sample(places, min(count, len(places)))
        ]
    visible = tuple(rng.sample(INPUTS, NUM_VISIBLE))
    return Instance(
        words=vocabulary, functions=functions, faults=tuple(faults), beside=shape.beside, visible=visible
    )


def _is_sound(instance: Instance) -> bool:
    """Every fault shows, alone and together, and no two lines of a file are confusable, before or after the
    repair. Where a terse line contains another, it does so in every vocabulary."""
    if not all(
        any(instance.shows(x, faults) for x in INPUTS)
        for faults in (instance.faults, *((fault,) for fault in instance.faults))
    ):
        return False
    for name, steps in instance.functions.items():
        codes = [step.code for step in steps]
        codes += [
            fault.wrong.code
            for fault in instance.faults
            if fault.function == name and fault.wrong is not None
        ]
        if any(
            one in other for at, one in enumerate(codes) for number, other in enumerate(codes) if at != number
        ):
            return False
    return True
