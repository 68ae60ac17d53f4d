"""FanOut: parts that can run concurrently and are joined; or a line, in which each part needs the previous
result.

Time passes only in `wait`. The optimum starts everything possible and then waits: as long as the slowest part
or, in a line, as all parts together. The line is the control: starting early gains nothing there. More than a
fifth above the optimal time is late, and fails.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from agito.envs.decisions.scene import Family, Hand, Outcome, Scene, Spent, call
from agito.envs.decisions.words import NAMES, VALUES
from agito.errors import InvalidArguments
from agito.protocols import Script, TeamScript
from agito.types import Call, Dialect, Fault, Limits, ToolSpec
from agito.worlds.component import Answer, spec, text_of

TOOLS = (
    ToolSpec(
        name="start",
        description="Start a part. In a line, every part but the first needs the result of the one before "
        "it as `given`.",
        parameters={
            "type": "object",
            "properties": {"part": {"type": "string"}, "given": {"type": "string"}},
            "required": ["part"],
        },
    ),
    spec("wait", "Let time pass until a part that runs is done, and read its result."),
    spec("submit", "End the episode with all results, in any order.", ["results"]),
)
SLACK = 0.2  # of the optimal time
_PARTS = {1: (2, 2), 2: (2, 3), 3: (3, 4), 4: (5, 6), 5: (7, 9)}
_NATURAL = {
    "all": "The parts {parts} can run at the same time.",
    "line": "The parts {parts} run in a line: each needs the result of the one before it.",
}
_AFTER = " Get every result, in as little time as possible, and submit them, separated by spaces."


@dataclass(slots=True)
class _State:
    clock: int = 0
    ends: dict[str, int] = field(default_factory=dict[str, int])  # of started parts
    done: list[str] = field(default_factory=list[str])
    too_early: int = 0  # starts in a line without the needed result
    submitted: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FanOut:
    kind: str  # all, line
    parts: tuple[str, ...]
    results: tuple[str, ...]
    lengths: tuple[int, ...]
    limits: Limits
    tools = TOOLS

    @property
    def tags(self) -> tuple[str, ...]:
        return (self.kind,)

    @property
    def optimum(self) -> int:
        return max(self.lengths) if self.kind == "all" else sum(self.lengths)

    @property
    def prompt(self) -> Mapping[Dialect, str]:
        parts = " ".join(self.parts)
        return {
            Dialect.COMPACT: f"{self.kind} {parts}",
            Dialect.NATURAL: _NATURAL[self.kind].format(parts=parts) + _AFTER,
        }

    def scene(self) -> Scene:
        return FanOutScene(self)

    def agent(self, hand: Hand) -> Script:
        """Hasty: waits for a part before starting the next; in a line, starts the next without the result it
        needs; or submits too early."""
        found: dict[str, str] = {}
        if self.kind == "all":
            for number, part in enumerate(self.parts):
                yield call("start", part=part)
                if number + 1 < len(self.parts) and not hand.is_right():
                    found |= _read((yield call("wait")).text)
        for number, part in enumerate(self.parts):
            if self.kind == "line":
                if number and not hand.is_right():
                    yield call("start", part=part)  # without the needed result
                given = {"given": found[self.parts[number - 1]]} if number else {}
                yield call("start", part=part, **given)
            if number and not hand.is_right() and hand.rng.random() < 0.4:
                break
            while part not in found:
                found |= _read((yield call("wait")).text)
        yield call("submit", results=" ".join(found.values()))

    def team(self, hand: Hand, role: str) -> TeamScript:
        """Half of the tasks whose parts can run at once are handed out, a part to an agent; in all others one
        agent acts alone."""
        is_shared = self.kind == "all" and hand.rng.random() < 0.5
        return FanOutTeam(case=self, hand=hand, role=role, is_shared=is_shared)


@dataclass(frozen=True, slots=True, kw_only=True)
class FanOutTeam:
    """Of every agent that was spawned: starts its part, waits once, and reports what it read. Together they
    wait as often as parts end."""

    case: FanOut
    hand: Hand
    role: str  # of the agents that are spawned
    is_shared: bool

    def __call__(self) -> Script:
        return self._share() if self.is_shared else self.case.agent(self.hand)

    def _share(self) -> Script:
        parts = self.case.parts if self.hand.is_right() else self.case.parts[:-1]
        brief = " | ".join(parts)
        back = yield Call(tool="spawn", arguments={"role": self.role, "budget": 3, "brief": brief})
        words = back.text.replace("|", " ").split()
        yield call("submit", results=" ".join(word for word in words if word in VALUES))

    def member(self, role: str, brief: str) -> Script:
        yield call("start", part=brief)
        heard = (yield call("wait")).text if self.hand.is_right() else "nothing"
        yield call("report", text=heard)


class FanOutScene(Scene):
    state: _State

    def __init__(self, case: FanOut) -> None:
        super().__init__(TOOLS, _State())
        self.case = case

    def carry_out(self, call: Call) -> Answer:
        if call.tool == "start":
            given = call.arguments.get("given", "")
            return self._start(text_of(call, "part").strip(), given.strip() if isinstance(given, str) else "")
        if call.tool == "wait":
            return self._wait()
        self.state.submitted = " ".join(text_of(call, "results").split())
        return Answer(text="", submitted=self.state.submitted)

    def _start(self, part: str, given: str) -> Answer:
        state, case = self.state, self.case
        if part not in case.parts:
            raise InvalidArguments(f"start {part}: the parts are {' '.join(case.parts)}")
        if part in state.ends:
            return Answer(text="again", fault=Fault.POLICY)
        number = case.parts.index(part)
        if case.kind == "line" and number:
            before = case.parts[number - 1]
            if before not in state.done or given != case.results[number - 1]:
                state.too_early += before not in state.done
                return Answer(text=f"needs {before}", fault=Fault.POLICY)
        state.ends[part] = state.clock + case.lengths[number]
        return Answer(text="ok")

    def _wait(self) -> Answer:
        state, case = self.state, self.case
        running = [part for part in state.ends if part not in state.done]
        if not running:
            return Answer(text="idle")
        state.clock = min(state.ends[part] for part in running)
        done = sorted((part for part in running if state.ends[part] == state.clock), key=case.parts.index)
        state.done += done
        return Answer(text=" ".join(f"{part} {case.results[case.parts.index(part)]}" for part in done))

    def outcome(self) -> Outcome:
        state, case = self.state, self.case
        claimed = (state.submitted or "").split()
        is_right = sorted(claimed) == sorted(case.results) and len(state.done) == len(case.parts)
        is_late = state.clock > case.optimum * (1 + SLACK)
        evidence = (
            f"submitted {state.submitted!r}, wanted {' '.join(case.results)!r}; took {state.clock}, "
            f"at best {case.optimum}"
        )
        share = min(case.optimum / max(state.clock, 1), 1.0)
        return Outcome(
            success=is_right and not is_late,
            share=share,
            evidence=evidence,
            scores={"joined": float(is_right)},
        )

    def measures(self, spent: Spent) -> dict[str, float]:
        state, case = self.state, self.case
        found = {"fanout_too_early": float(state.too_early)} if case.kind == "line" else {}
        if len(state.done) == len(case.parts):
            found[f"fanout_overtime_{case.kind}"] = state.clock / case.optimum - 1
        if state.submitted is not None:
            found["fanout_unjoined"] = float(len(state.done) < len(case.parts))
        return found


def _read(text: str) -> dict[str, str]:
    words = text.split()
    return dict(zip(words[::2], words[1::2], strict=False))


def draw(split: str, level: int, rng: random.Random) -> FanOut:
    """A third of the tasks are lines. `structural`: one part more than in training."""
    num = rng.randint(*_PARTS[level]) + (split == "structural")
    return FanOut(
        kind="line" if rng.random() < 1 / 3 else "all",
        parts=tuple(rng.sample(NAMES, num)),
        results=tuple(rng.sample(VALUES, num)),
        lengths=tuple(rng.randint(1, 9) for _ in range(num)),
        limits=Limits(
            turns=3 * num + 4,
            calls=3 * num + 4,
            tokens=96 + 48 * num,
            turn_tokens=16 + 4 * num,
            observation_bytes=256,
        ),
    )


def open_loop(prompt: str, turns: int, rng: random.Random) -> Script:
    kind, *parts = prompt.split()
    guesses = rng.sample(VALUES, len(parts))
    for number, part in enumerate(parts):
        given = {"given": guesses[number - 1]} if kind == "line" and number else {}
        yield call("start", part=part, **given)
    for _ in parts:
        yield call("wait")
    yield call("submit", results=" ".join(guesses))


def anything(prompt: str, rng: random.Random) -> Call:
    _, *parts = prompt.split()
    guess = call("submit", results=" ".join(rng.choice(VALUES) for _ in parts))
    return rng.choice((call("start", part=rng.choice(parts)), call("wait"), guess))


FAMILY = Family(draw=draw, open_loop=open_loop, anything=anything)
