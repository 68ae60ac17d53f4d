"""ToolDAG: make a thing out of things that must be made first, by the cheapest way that works, despite
faults.

A thing can be made from any one of its sources, at a price. Raw things are at hand; a decoy can be neither
made nor found. So the best plan is the shortest path from a raw thing that avoids permanently broken steps. A
step can fail on its first try (`busy`) or always (`broken`), openly or silently: then it says `ok` but the
thing is missing. Failures cost nothing, so the optimum does not depend on luck. Trying to make a thing from a
wrong source spoils it for good, so trying everything does not replace reading. A step is permanently broken
only if another source of the same thing is raw; so the optimum stays reachable for an agent that learns of
the fault by trying.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

from agito.envs.decisions.scene import Family, Hand, Outcome, Scene, Spent, call
from agito.envs.decisions.words import NAMES
from agito.protocols import Script
from agito.types import Call, Dialect, Event, Limits
from agito.types import Fault as Blame
from agito.worlds.component import Answer, spec, text_of

TOOLS = (
    spec("make", "Make a thing from a source that is at hand.", ["thing", "source"]),
    spec(
        "how",
        "Say from which sources a thing can be made, each with its price; `here`: it is at hand; `none`: "
        "no way.",
        ["thing"],
    ),
    spec("have", "Say whether a thing is at hand.", ["thing"]),
    spec("submit", "End the episode: `done` when the thing that was asked for is at hand.", ["answer"]),
)
DONE = "done"
_NATURAL = (
    "Make `{target}`. A thing is made from one source, at a price; a source that is not at hand must be "
    "made first. Spend as little as "
    "possible. A step can be busy, which passes, or broken, which does not, and it can fail without saying "
    "so. A thing that you try to "
    "make from something that is no source of it is spoiled for good. When `{target}` is at hand, "
    "submit `done`."
)


class Trouble(StrEnum):
    """A step's fault: how it shows, and for how long."""

    BUSY = "busy"  # says so, once
    BROKEN = "broken"  # says so, always
    SILENT = "silent"  # says ok, once
    DEAD = "dead"  # says ok, always


LASTING = (Trouble.BROKEN, Trouble.DEAD)
_OPEN = {Trouble.BUSY: "busy", Trouble.BROKEN: "broken"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """`depth`: steps in a row. `choices`: things with a second source. `troubles`: fault probabilities of
    each step."""

    depth: tuple[int, int]
    choices: int
    decoys: float
    troubles: Mapping[Trouble, float]


_SHAPES = {
    1: _Shape(depth=(1, 2), choices=0, decoys=0.0, troubles={Trouble.BUSY: 0.3, Trouble.SILENT: 0.3}),
    2: _Shape(
        depth=(1, 2),
        choices=1,
        decoys=0.2,
        troubles={Trouble.BUSY: 0.2, Trouble.SILENT: 0.3, Trouble.BROKEN: 0.4},
    ),
    3: _Shape(depth=(2, 3), choices=1, decoys=0.3, troubles=dict.fromkeys(Trouble, 0.25)),
    4: _Shape(depth=(3, 4), choices=2, decoys=0.3, troubles=dict.fromkeys(Trouble, 0.3)),
    5: _Shape(depth=(4, 5), choices=3, decoys=0.4, troubles=dict.fromkeys(Trouble, 0.35)),
}


@dataclass(slots=True)
class _State:
    held: list[str]
    tries: dict[str, int] = field(default_factory=dict[str, int])
    paid: int = 0
    believed: list[str] = field(default_factory=list[str])  # things whose step said `ok`
    # Those of them that were not made.
    met: list[tuple[Trouble, str]] = field(default_factory=list[tuple[Trouble, str]])
    spoiled: list[str] = field(default_factory=list[str])  # tried with a wrong source
    violations: int = 0
    submitted: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDAG:
    target: str
    ways: Mapping[str, tuple[tuple[str, int], ...]]  # thing → (source, price)
    raw: tuple[str, ...]
    troubles: Mapping[tuple[str, str], Trouble]
    optimum: int
    limits: Limits
    tools = TOOLS

    @property
    def tags(self) -> tuple[str, ...]:
        return tuple(sorted({trouble.value for trouble in self.troubles.values()}))

    @property
    def prompt(self) -> Mapping[Dialect, str]:
        return {Dialect.COMPACT: f"get {self.target}", Dialect.NATURAL: _NATURAL.format(target=self.target)}

    def scene(self) -> Scene:
        return ToolDAGScene(self)

    def agent(self, hand: Hand) -> Script:
        return _Agent(self.target, hand).run()


class _Agent:
    """Looks up every way, takes the cheapest, checks the result, and works around faults.

    Hasty: takes the first source instead of the cheapest, does not check, gives up on a fault.
    """

    def __init__(self, target: str, hand: Hand) -> None:
        self.target, self.hand = target, hand
        self.ways: dict[str, list[tuple[str, int]]] = {}
        self.here: list[str] = []
        self.bad: list[tuple[str, str]] = []

    def run(self) -> Script:
        yield from self._explore(self.target)
        while True:
            path = self._cheapest(self.target)
            if path is None or (yield from self._follow(path)):
                break
        yield call("submit", answer=DONE)

    def _explore(self, thing: str) -> Generator[Call, Event, None]:
        event = yield call("how", thing=thing)
        words = event.text.split()
        if words == ["here"]:
            self.here.append(thing)
            return
        self.ways[thing] = (
            []
            if words == ["none"]
            else [(source, int(price)) for source, price in zip(words[::2], words[1::2], strict=True)]
        )
        ways = sorted(self.ways[thing], key=lambda way: way[1])
        if not self.hand.is_right():
            ways = self.ways[thing][:1]
        for source, _ in ways:
            if source not in self.ways and source not in self.here:
                yield from self._explore(source)

    def _cheapest(self, thing: str) -> list[tuple[str, str]] | None:
        found = cheapest(thing, self.ways, self.here, self.bad)
        return found[1] if found else None

    def _follow(self, path: list[tuple[str, str]]) -> Generator[Call, Event, bool]:
        """False when a step cannot work: there may be another way."""
        for thing, source in path:
            tries = 0
            while True:
                event = yield call("make", thing=thing, source=source)
                tries += 1
                if event.text == "busy":
                    if not self.hand.is_right():
                        return True
                    continue
                if event.text == "broken":
                    if not self.hand.is_right():
                        return True
                    self.bad.append((thing, source))
                    return False
                if not self.hand.is_right():
                    if event.text != "ok":
                        return True
                    break  # does not check
                event = yield call("have", thing=thing)
                if event.text == "yes":
                    self.here.append(thing)
                    break
                if tries == 2:
                    self.bad.append((thing, source))
                    return False
        return True


def cheapest(
    thing: str,
    ways: Mapping[str, Sequence[tuple[str, int]]],
    here: Sequence[str],
    without: Sequence[tuple[str, str]],
) -> tuple[int, list[tuple[str, str]]] | None:
    """Price and steps, sources first, of the cheapest way to a thing; None if there is none. The ways are
    acyclic."""
    if thing in here:
        return 0, []
    found: list[tuple[int, list[tuple[str, str]]]] = []
    for source, price in ways.get(thing, ()):
        if (thing, source) not in without and (below := cheapest(source, ways, here, without)):
            found.append((below[0] + price, [*below[1], (thing, source)]))
    return min(found, key=lambda way: way[0], default=None)


class ToolDAGScene(Scene):
    state: _State

    def __init__(self, case: ToolDAG) -> None:
        super().__init__(TOOLS, _State(held=list(case.raw)))
        self.case = case

    def carry_out(self, call: Call) -> Answer:
        if call.tool == "submit":
            self.state.submitted = text_of(call, "answer").strip()
            return Answer(text="", submitted=self.state.submitted)
        thing = text_of(call, "thing").strip()
        if call.tool == "make":
            return self._make(thing, text_of(call, "source").strip())
        if call.tool == "have":
            return Answer(text="yes" if thing in self.state.held else "no")
        if thing in self.case.raw:
            return Answer(text="here")
        ways = self.case.ways.get(thing, ())
        return Answer(text=" ".join(f"{source} {price}" for source, price in ways) or "none")

    def _make(self, thing: str, source: str) -> Answer:
        state = self.state
        price = dict(self.case.ways.get(thing, ())).get(source)
        if price is None or thing in state.spoiled:
            state.spoiled.append(thing)
            return Answer(text="no way", fault=Blame.POLICY)
        if source not in state.held:
            state.violations += source not in state.believed
            return Answer(text=f"no {source}", fault=Blame.POLICY)
        tries = state.tries.get(f"{thing} {source}", 0)
        state.tries[f"{thing} {source}"] = tries + 1
        trouble = self.case.troubles.get((thing, source))
        if trouble is not None and (trouble in LASTING or not tries):
            state.met.append((trouble, thing))
            if trouble in _OPEN:
                return Answer(text=_OPEN[trouble], fault=Blame.TOOL)
            state.believed.append(thing)
            return Answer(text="ok")
        state.paid += price
        if thing not in state.held:
            state.held.append(thing)
        return Answer(text="ok")

    def outcome(self) -> Outcome:
        state, target = self.state, self.case.target
        success = state.submitted == DONE and target in state.held
        evidence = (
            f"submitted {state.submitted!r}, {target} "
            f"{'made' if target in state.held else 'not made'}, paid {state.paid}"
        )
        share = self.case.optimum / state.paid if success else 1.0
        return Outcome(success=success, share=share, evidence=f"{evidence} of {self.case.optimum}")

    def measures(self, spent: Spent) -> dict[str, float]:
        state = self.state
        found = {"dag_violations": float(state.violations)}
        if self.case.target in state.held:
            found["dag_overcost"] = state.paid / self.case.optimum - 1
        for trouble in Trouble:
            hit = [thing for kind, thing in dict.fromkeys(state.met) if kind is trouble]
            if hit:
                found[f"dag_recovery_{trouble}"] = sum(thing in state.held for thing in hit) / len(hit)
        return found


def draw(split: str, level: int, rng: random.Random) -> ToolDAG:
    """`structural`: one step more than in training, and a fault in the last step that only a check or a
    second try reveals."""
    shape, is_structural = _SHAPES[level], split == "structural"
    depth = rng.randint(*shape.depth) + is_structural
    words = iter(rng.sample(NAMES, len(NAMES)))
    path = [next(words) for _ in range(depth + 1)]  # the target first, something raw last
    raw, ways, fallback = [path[-1]], dict[str, list[tuple[str, int]]](), dict[str, str]()
    for number, (thing, source) in enumerate(pairwise(path)):
        is_lowest, has_choice = number == depth - 1, number >= depth - shape.choices
        low, high = sorted(rng.sample(range(1, 10), 2))
        if not has_choice:
            ways[thing] = [(source, low)]
            continue
        other, is_decoy = next(words), is_lowest and rng.random() < shape.decoys
        if not is_decoy:
            raw.append(other)
        if is_lowest and not is_decoy:
            fallback[thing] = other
        # of the way around the steps below; rarely the cheaper one
        price = rng.randint(4, 9) * (depth - number)
        ways[thing] = (
            [(source, high), (other, low)]
            if is_decoy
            else [(source, low), (other, high if is_lowest else price)]
        )
        rng.shuffle(ways[thing])
    troubles = _troubles(path, fallback, shape, is_structural, rng)
    lasting = [step for step, trouble in troubles.items() if trouble in LASTING]
    best = cheapest(path[0], {thing: tuple(each) for thing, each in ways.items()}, raw, lasting)
    assert best is not None
    turns = 4 * (depth + shape.choices) + 8
    return ToolDAG(
        target=path[0],
        ways={thing: tuple(each) for thing, each in ways.items()},
        raw=tuple(raw),
        troubles=troubles,
        optimum=best[0],
        limits=Limits(
            turns=turns, calls=turns, tokens=128 + 16 * turns, turn_tokens=24, observation_bytes=128
        ),
    )


def _troubles(
    path: list[str], fallback: Mapping[str, str], shape: _Shape, is_structural: bool, rng: random.Random
) -> dict[tuple[str, str], Trouble]:
    troubles: dict[tuple[str, str], Trouble] = {}
    for number, step in enumerate(pairwise(path)):
        kinds = [trouble for trouble, chance in shape.troubles.items() if rng.random() < chance]
        passing = [trouble for trouble in kinds if trouble not in LASTING]
        if number == 0 and is_structural:
            passing = [Trouble.SILENT]
        lasting = [trouble for trouble in kinds if trouble in LASTING and step[0] in fallback]
        if lasting or passing:
            troubles[step] = (lasting or passing)[0]
    return troubles


def open_loop(prompt: str, turns: int, rng: random.Random) -> Script:
    """One source, tried twice in case it was busy or failed silently. A second source cannot help, as a wrong
    first one has spoiled the thing."""
    target = prompt.split()[-1]
    source = rng.choice([name for name in NAMES if name != target])
    for _ in range(2):
        yield call("make", thing=target, source=source)
    yield call("submit", answer=DONE)


def anything(prompt: str, rng: random.Random) -> Call:
    tool, thing = rng.choice(("make", "how", "have", "submit")), rng.choice(NAMES)
    if tool == "submit":
        return call(tool, answer=DONE)
    return call(tool, thing=thing, source=rng.choice(NAMES)) if tool == "make" else call(tool, thing=thing)


FAMILY = Family(draw=draw, open_loop=open_loop, anything=anything)
