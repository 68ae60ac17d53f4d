"""One task: equally long parts, of which the share phi stand alone and the rest form a line, in which each
needs the result of the one before it.

A part takes steps. The first needs nothing or, in a line, the result of the part before; every other needs
the word that the last step answered. So one agent needs every step, one after the other; a team needs those
of the line, which at phi = 0 is all of them.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field

from agito.envs.decisions.scene import Family, Hand, Outcome, Scene, call
from agito.envs.decisions.words import NAMES, VALUES
from agito.errors import InvalidArguments
from agito.protocols import Script, TeamScript
from agito.types import Call, Dialect, Event, Fault, Limits, ToolSpec
from agito.worlds.component import Answer, spec, text_of

TOOLS = (
    ToolSpec(
        name="step",
        description="One step of a part. `given`: what its last step answered; for the first step of a part "
        "in a line, the result of the part before it; else nothing.",
        parameters={
            "type": "object",
            "properties": {"part": {"type": "string"}, "given": {"type": "string"}},
            "required": ["part"],
        },
    ),
    spec("submit", "End the episode with the results of all parts, in any order.", ["results"]),
)
_STEPS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6}  # of a part, by level
_DONE = "done"
_NATURAL = (
    "Each part takes {steps} steps.{alone}{line} Get the result of every part, in as few steps as possible, "
    "and submit them, separated by spaces."
)


@dataclass(slots=True)
class _State:
    taken: dict[str, int] = field(default_factory=dict[str, int])  # steps of a part
    num_paid: int = 0
    submitted: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallel:
    alone: tuple[str, ...]  # parts that need no other
    line: tuple[str, ...]
    words: Mapping[str, tuple[str, ...]]  # what the steps of a part answer; the last is its result
    limits: Limits
    tools = TOOLS

    @property
    def parts(self) -> tuple[str, ...]:
        return (*self.alone, *self.line)

    @property
    def num_steps(self) -> int:
        """Of each part."""
        return len(self.words[self.parts[0]])

    @property
    def phi(self) -> float:
        """The share of the steps that can be taken side by side."""
        return len(self.alone) / len(self.parts)

    @property
    def tags(self) -> tuple[str, ...]:
        return (f"phi={self.phi:g}",)

    @property
    def prompt(self) -> Mapping[Dialect, str]:
        alone = f" The parts {' '.join(self.alone)} need no other part." if self.alone else ""
        line = (
            f" The parts {' '.join(self.line)} form a line: each needs the result of the one before it."
            if self.line
            else ""
        )
        compact = (str(self.num_steps), *(("all", *self.alone) if self.alone else ()), *_in_line(self.line))
        return {
            Dialect.COMPACT: " ".join(compact),
            Dialect.NATURAL: _NATURAL.format(steps=self.num_steps, alone=alone, line=line),
        }

    def scene(self) -> Scene:
        return ParallelScene(self)

    def agent(self, hand: Hand) -> Script:
        """One agent, part after part. Hasty: takes a step without what it needs, or submits too early."""
        results = yield from _work(self.alone, hand, in_line=False)
        if len(results) == len(self.alone):
            results += yield from _work(self.line, hand, in_line=True)
        yield call("submit", results=" ".join(results) or "none")

    @property
    def by_structure(self) -> tuple[str, ...]:
        """Briefs: every part that stands alone, and the line as a whole."""
        return (*self.alone, *([" ".join(_in_line(self.line))] if self.line else []))

    @property
    def in_halves(self) -> tuple[str, ...]:
        """Briefs of a split that looks at nothing: one half of the parts each, to be worked on in order."""
        middle = len(self.parts) // 2
        return " ".join(_in_line(self.parts[:middle])), " ".join(_in_line(self.parts[middle:]))

    def team(self, hand: Hand, role: str) -> TeamScript:
        """Half of the tasks are handed out, as their structure allows; in all others one agent acts alone."""
        is_shared = hand.rng.random() < 0.5
        return ParallelTeam(case=self, hand=hand, role=role, briefs=self.by_structure if is_shared else ())

    def fixed_split(self, hand: Hand, role: str) -> TeamScript:
        """Every task is handed out in two halves."""
        return ParallelTeam(case=self, hand=hand, role=role, briefs=self.in_halves)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelTeam:
    case: Parallel
    hand: Hand
    role: str  # of the agents that are spawned
    briefs: tuple[str, ...]  # none: one agent acts alone

    def __call__(self) -> Script:
        return self._share() if self.briefs else self.case.agent(self.hand)

    def _share(self) -> Script:
        briefs = self.briefs if self.hand.is_right() else self.briefs[:-1] or self.briefs
        budget = max(len(_parts_of(brief)) for brief in briefs) * self.case.num_steps + 2
        back = yield Call(
            tool="spawn", arguments={"role": self.role, "budget": budget, "brief": " | ".join(briefs)}
        )
        words = [word for word in back.text.split() if word in VALUES]
        yield call("submit", results=" ".join(words) or "none")

    def member(self, role: str, brief: str) -> Script:
        results = yield from _work(_parts_of(brief), self.hand, in_line=brief.startswith("line "))
        yield call("report", text=" ".join(results) or "nothing")


def _in_line(parts: Sequence[str]) -> tuple[str, ...]:
    return ("line", *parts) if parts else ()


def _parts_of(brief: str) -> list[str]:
    return [word for word in brief.split() if word != "line"]


def _work(parts: Sequence[str], hand: Hand, *, in_line: bool) -> Generator[Call, Event, list[str]]:
    """Carries out parts in order, from what the steps answer alone; returns the results of those that were
    done."""
    results = list[str]()
    for part in parts:
        needed = results[-1] if in_line and results else ""
        while True:
            is_hasty = bool(needed) and not hand.is_right()
            said = hand.rng.choice(VALUES) if is_hasty else needed
            answer = (yield call("step", part=part, **({"given": said} if said else {}))).text.split()
            if answer[:1] == [_DONE]:
                results += answer[1:]
                break
            if not answer or answer[0] not in (*VALUES, "no"):
                return results  # nothing comes of this part
            if answer[0] != "no":
                needed = answer[0]
            elif not is_hasty:
                return results
        if not hand.is_right() and hand.rng.random() < 0.1:
            break
    return results


class ParallelScene(Scene):
    state: _State

    def __init__(self, case: Parallel) -> None:
        super().__init__(TOOLS, _State())
        self.case = case

    def carry_out(self, call: Call) -> Answer:
        if call.tool == "step":
            given = call.arguments.get("given", "")
            return self._step(text_of(call, "part").strip(), given.strip() if isinstance(given, str) else "")
        self.state.submitted = " ".join(text_of(call, "results").split())
        return Answer(text="", submitted=self.state.submitted)

    def _step(self, part: str, given: str) -> Answer:
        state, case = self.state, self.case
        if part not in case.parts:
            raise InvalidArguments(f"step {part}: the parts are {' '.join(case.parts)}")
        state.num_paid += 1
        taken = state.taken.get(part, 0)
        if taken == case.num_steps:
            return Answer(text="again", fault=Fault.POLICY)
        needed = self._needed(part, taken)
        if needed is None or (needed and given != needed):
            return Answer(text="no", fault=Fault.POLICY)
        state.taken[part] = taken + 1
        word = case.words[part][taken]
        return Answer(text=f"{_DONE} {word}" if taken + 1 == case.num_steps else word)

    def _needed(self, part: str, taken: int) -> str | None:
        """What the next step of a part needs; empty: nothing, None: what is not there yet."""
        case = self.case
        if taken:
            return case.words[part][taken - 1]
        at = case.line.index(part) if part in case.line else 0
        if not at:
            return ""
        before = case.line[at - 1]
        return case.words[before][-1] if self.state.taken.get(before) == case.num_steps else None

    @property
    def _num_done(self) -> int:
        return sum(taken == self.case.num_steps for taken in self.state.taken.values())

    def outcome(self) -> Outcome:
        state, case = self.state, self.case
        results = [words[-1] for words in case.words.values()]
        is_right = sorted((state.submitted or "").split()) == sorted(results)
        optimum = len(case.parts) * case.num_steps
        return Outcome(
            success=is_right and self._num_done == len(case.parts),
            share=min(optimum / max(state.num_paid, 1), 1.0),
            evidence=f"submitted {state.submitted!r}, wanted {' '.join(results)!r}; {self._num_done} of "
            f"{len(case.parts)} parts done; took {state.num_paid} steps, at best {optimum}",
        )


def draw(phi: float, split: str, level: int, rng: random.Random) -> Parallel:
    """Eight parts. `structural`: four, which are twice as long."""
    num, steps = (4, 2 * _STEPS[level]) if split == "structural" else (8, _STEPS[level])
    parts, results = rng.sample(NAMES, num), rng.sample(VALUES, num)
    num_alone, total = round(phi * num), num * steps
    words = {
        part: (*(rng.choice(VALUES) for _ in range(steps - 1)), result)
        for part, result in zip(parts, results, strict=True)
    }
    turns = 5 * total // 2 + 12  # enough for every part to be handed out with the budget of the longest
    return Parallel(
        alone=tuple(parts[:num_alone]),
        line=tuple(parts[num_alone:]),
        words=words,
        limits=Limits(
            turns=turns, calls=turns, tokens=128 + 10 * total, turn_tokens=24 + 4 * num, observation_bytes=256
        ),
    )


def open_loop(prompt: str, turns: int, rng: random.Random) -> Script:
    """Takes every step with a word that it guesses."""
    first, *rest = prompt.split()
    parts = [word for word in rest if word not in ("all", "line")]
    for part in parts:
        for _ in range(int(first)):
            yield call("step", part=part, given=rng.choice(VALUES))
    yield call("submit", results=" ".join(rng.sample(VALUES, len(parts))))


def anything(prompt: str, rng: random.Random) -> Call:
    parts = [word for word in prompt.split()[1:] if word not in ("all", "line")]
    guess = call("submit", results=" ".join(rng.choice(VALUES) for _ in parts))
    return rng.choice((call("step", part=rng.choice(parts), given=rng.choice(VALUES)), guess))


def family(phi: float) -> Family:
    return Family(
        draw=lambda split, level, rng: draw(phi, split, level, rng), open_loop=open_loop, anything=anything
    )
