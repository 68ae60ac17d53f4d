"""A way in legs, all of it told in the prompt; a setback on the way makes the rest of a plan worthless.

A leg is four steps, each of which leads from a mark to another. After a leg the agent says at which mark it
has arrived: that takes four steps of reasoning, and nothing tells whether it was right. The world answers
`ok` and shows the next leg again. Or it is `stuck`, and the same has to be said again, up to three times; or
the thing has `slipped`, and lies at another mark, where the next leg begins. Every task has one of the two,
so that one has to look. A plan made before the first call outlives the one and not the other; thinking before
each call takes as many think tokens. One mark that was said wrongly is a failure.

- `carry`: marks are rooms, steps are moves; each move is a permutation of the rooms.
- `dial`: marks are the numbers on a dial of eight, steps turn it on.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from agito.envs.decisions.scene import Family, Hand, Outcome, Scene, Spent, call
from agito.envs.thinking.chain import MOVES
from agito.envs.thinking.words import ROOMS
from agito.errors import InvalidArguments
from agito.protocols import Script, ThoughtfulCall
from agito.types import Call, Dialect, Effort, Event, Fault, Limits, ToolSpec
from agito.worlds.component import Answer, spec, text_of

STEPS_A_LEG = 4
LEGS = {1: 3, 2: 4, 3: 5}  # by level
_STUCK = 0.5  # the share of tasks whose setback is that
_MOST_STUCK = 3  # times in a row
_SLIP = 0.5  # of an unskilled hand's errors: it says the wrong mark
_HELD_OUT = 4  # one leg in so many is in no training task
_BETWEEN = "|"
_OK, _AGAIN, _SLIPPED = "ok", "stuck", "slipped"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kind:
    """What marks and steps are. `prompt` has `{start}`, `{legs}` and `{num}`."""

    name: str
    marks: tuple[str, ...]
    steps: tuple[str, ...]
    leads: Callable[[str, str], str]  # (mark, step) → the next mark
    tools: tuple[ToolSpec, ...]
    prompt: str
    repeats: bool  # whether a leg may have a step twice

    def walk(self, mark: str, leg: Sequence[str]) -> list[str]:
        """The mark after each step."""
        found = list[str]()
        for step in leg:
            mark = self.leads(mark, step)
            found.append(mark)
        return found

    def leg(self, rng: random.Random, *, held_out: bool) -> tuple[str, ...]:
        while True:
            drawn = rng.choices(self.steps, k=STEPS_A_LEG)
            leg = tuple(drawn if self.repeats else rng.sample(self.steps, STEPS_A_LEG))
            if _is_held_out(leg) == held_out:
                return leg


def _is_held_out(leg: Sequence[str]) -> bool:
    return zlib.crc32(f"{len(leg)} {' '.join(leg)}".encode()) % _HELD_OUT == 0


def _tools(on: str) -> tuple[ToolSpec, ...]:
    return (
        spec("arrive", f"Say at which {on} the leg ends, and begin the next one.", ["mark"]),
        spec("submit", f"End the episode with the {on} at which the last leg ends.", ["mark"]),
    )


def _routes() -> str:
    return "; ".join(
        f"`{move}` leads from " + ", ".join(f"{one} to {other}" for one, other in pairs.items())
        for move, pairs in MOVES.items()
    )


CARRY = Kind(
    name="carry",
    marks=tuple(ROOMS),
    steps=tuple(MOVES),
    leads=lambda mark, step: MOVES[step][mark],
    tools=_tools("room"),
    prompt="A thing is in the room `{start}`. It is carried along {num} legs of four moves each: {legs}. "
    + _routes()
    + ". After each leg but the last call `arrive` with the room where it is then; after the last one "
    "`submit` that room. The way can be stuck: then say the room again. The thing can slip: then it lies in "
    "another room, from which the next leg begins.",
    repeats=False,
)
_DIAL = 8
DIAL = Kind(
    name="dial",
    marks=tuple(map(str, range(_DIAL))),
    steps=tuple(f"+{number}" for number in range(1, _DIAL)),
    leads=lambda mark, step: str((int(mark) + int(step)) % _DIAL),
    tools=_tools("number"),
    prompt="A dial has the numbers 0 to 7 and stands at `{start}`; behind 7 it goes on with 0. It is turned "
    "in {num} legs of four steps each: {legs}. After each leg but the last call `arrive` with the number "
    "where it stands then; after the last one `submit` that number. It can be stuck: then say the number "
    "again. It can slip: then it stands at another number, from which the next leg begins.",
    repeats=True,
)
KINDS = {kind.name: kind for kind in (CARRY, DIAL)}


@dataclass(slots=True)
class _State:
    at: str
    leg: int = 0
    is_wrong: bool = False
    num_stuck: int = 0  # calls
    has_slipped: bool = False
    submitted: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """`setbacks`: by leg, the mark at which the thing is after it instead, or how often it is stuck."""

    kind: Kind
    start: str
    legs: tuple[tuple[str, ...], ...]
    setbacks: Mapping[int, str | int] = field(default_factory=dict[int, "str | int"])

    @property
    def tags(self) -> tuple[str, ...]:
        return tuple(
            sorted({_SLIPPED if isinstance(each, str) else _AGAIN for each in self.setbacks.values()})
        )

    @property
    def tools(self) -> tuple[ToolSpec, ...]:
        return self.kind.tools

    @property
    def limits(self) -> Limits:
        turns = len(self.legs) + 2 + _MOST_STUCK
        return Limits(
            turns=turns,
            calls=turns,
            tokens=80 + 44 * len(self.legs),
            turn_tokens=24 + 10 * len(self.legs),
            observation_bytes=64,
        )

    @property
    def prompt(self) -> Mapping[Dialect, str]:
        legs = f" {_BETWEEN} ".join(map(" ".join, self.legs))
        told = ", then ".join(" ".join(leg) for leg in self.legs)
        return {
            Dialect.COMPACT: f"{self.kind.name} {self.start} {_BETWEEN} {legs}",
            Dialect.NATURAL: self.kind.prompt.format(start=self.start, legs=told, num=len(self.legs)),
        }

    def scene(self) -> Scene:
        return WayScene(self)

    def agent(self, hand: Hand) -> Script:
        return self.thinker(hand, Effort.NONE)

    def thinker(self, hand: Hand, effort: Effort) -> Script:
        """Thinks about each leg before it says where that ends."""
        return self._act(hand, effort, plans=False, again=True)

    def planner(self, hand: Hand, effort: Effort, *, again: bool) -> Script:
        """Thinks about all legs before the first call; `again`: and, after a setback, about those left."""
        return self._act(hand, effort, plans=True, again=again)

    def _act(self, hand: Hand, effort: Effort, *, plans: bool, again: bool) -> Script:
        at, may_think, last = self.start, True, len(self.legs) - 1
        for number, leg in enumerate(self.legs):
            thought = ""
            if effort is not Effort.NONE and may_think:
                thought = self._thought(at, self.legs[number:] if plans else (leg,))
            said = self.kind.walk(at, leg)[-1]
            if not hand.is_right() and hand.rng.random() < _SLIP:
                said = hand.rng.choice([mark for mark in self.kind.marks if mark != said])
            saying = call("submit" if number == last else "arrive", mark=said)
            event = yield _thoughtful(saying, thought)
            while event.text == _AGAIN:
                event = yield saying
            at = _slipped_to(event) or said
            may_think = not plans or (again and event.fault is not None)

    def _thought(self, at: str, legs: Sequence[Sequence[str]]) -> str:
        walks = list[str]()
        for leg in legs:
            rooms = self.kind.walk(at, leg)
            at = rooms[-1]
            walks.append(" ".join(rooms))
        return f" {_BETWEEN} ".join(walks)


def _thoughtful(one: Call, thinking: str) -> Call:
    if not thinking:
        return one
    return ThoughtfulCall(tool=one.tool, arguments=one.arguments, thinking=thinking)


def _slipped_to(event: Event) -> str:
    words = event.text.split()
    return words[1] if words[:1] == [_SLIPPED] else ""


class WayScene(Scene):
    state: _State

    def __init__(self, case: Way) -> None:
        super().__init__(case.tools, _State(at=case.start))
        self.case = case

    def carry_out(self, call: Call) -> Answer:
        state, case = self.state, self.case
        said, last = text_of(call, "mark").strip(), len(case.legs) - 1
        right = case.kind.walk(state.at, case.legs[state.leg])[-1]
        if call.tool == "submit":
            state.submitted = said
            state.is_wrong |= said != right or state.leg < last
            return Answer(text="", submitted=said)
        if said not in case.kind.marks:
            raise InvalidArguments(f"mark is one of {' '.join(case.kind.marks)}")
        if state.leg == last:
            raise InvalidArguments("this is the last leg: submit where it ends")
        state.is_wrong |= said != right
        setback = case.setbacks.get(state.leg)
        if isinstance(setback, int) and state.num_stuck < setback:
            state.num_stuck += 1
            return Answer(text=_AGAIN, fault=Fault.TOOL)
        state.at, state.leg = setback if isinstance(setback, str) else right, state.leg + 1
        shown = f"{_BETWEEN} {' '.join(case.legs[state.leg])}"
        if not isinstance(setback, str):
            return Answer(text=f"{_OK} {shown}")
        state.has_slipped = True
        return Answer(text=f"{_SLIPPED} {setback} {shown}", fault=Fault.TOOL)

    def outcome(self) -> Outcome:
        state = self.state
        success = state.submitted is not None and not state.is_wrong
        return Outcome(
            success=success,
            evidence=f"submitted {state.submitted!r} in leg {state.leg + 1} of {len(self.case.legs)}, "
            f"{'a mark was wrong' if state.is_wrong else 'every mark was right'}",
        )

    def measures(self, spent: Spent) -> dict[str, float]:
        won, state = float(self.outcome().success), self.state
        found = {"replan_recovery_stuck": won} if state.num_stuck else {}
        return found | ({"replan_recovery_slipped": won} if state.has_slipped else {})


def draw(kind: Kind, split: str, level: int, rng: random.Random) -> Way:
    """Tasks of other splits than `train` have a leg that no training task has; structural ones a leg more,
    and both setbacks."""
    is_structural = split == "structural"
    num = LEGS[level] + is_structural
    rare = rng.randrange(num) if split != "train" else None
    legs = tuple(kind.leg(rng, held_out=number == rare) for number in range(num))
    start = at = rng.choice(kind.marks)
    slips = [False, True] if is_structural else [rng.random() >= _STUCK]
    setbacks = dict[int, str | int]()
    chosen = dict(zip(rng.sample(range(num - 1), len(slips)), slips, strict=True))
    for number, leg in enumerate(legs):
        at = kind.walk(at, leg)[-1]
        if chosen.get(number):
            setbacks[number] = at = rng.choice([mark for mark in kind.marks if mark != at])
        elif number in chosen:
            setbacks[number] = rng.randint(1, _MOST_STUCK)
    return Way(kind=kind, start=start, legs=legs, setbacks=setbacks)


def _open_loop(kind: Kind, prompt: str, turns: int, rng: random.Random) -> Script:
    """Solves the legs as they are told, and looks at no answer."""
    told = [part.split() for part in prompt.split(_BETWEEN)]
    at, legs = told[0][-1], told[1:]
    for number, leg in enumerate(legs):
        at = kind.walk(at, leg)[-1]
        yield call("submit" if number == len(legs) - 1 else "arrive", mark=at)


def _anything(kind: Kind, prompt: str, rng: random.Random) -> Call:
    return call(rng.choice(("arrive", "submit")), mark=rng.choice(kind.marks))


def family(kind: Kind) -> Family:
    return Family(
        draw=partial(draw, kind), open_loop=partial(_open_loop, kind), anything=partial(_anything, kind)
    )
