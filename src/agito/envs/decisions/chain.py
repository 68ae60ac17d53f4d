"""Chain: a thing moves between rooms, one move per call; answer where it is as soon as nothing can move it
any more.

Measures how much thinking pays: a call may state the thing's current room, which keeps track and costs
tokens. The answer is certain once the thing's room is locked, or after the last move; the optimum answers
exactly then. An earlier answer is a guess, and a guess never pays, even when it is right.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agito.envs.decisions.scene import Family, Hand, Outcome, Scene, Spent, call
from agito.envs.decisions.words import VALUES
from agito.protocols import Script
from agito.types import Call, Dialect, Limits
from agito.worlds.component import Answer, spec, text_of

TOOLS = (
    spec("at", "Say aloud in which room the thing is now, and read the next move.", ["room"]),
    spec("next", "Read the next move."),
    spec("submit", "End the episode: the thing is in this room for good.", ["room"]),
)
LOCK = "lock"
NOTE_PRICE = 0.01  # of full marks: thinking aloud costs little, but not nothing
_HAZARD = 0.4  # how often the demonstrator answers at once, at a hasty moment
_MOVES = {1: (2, 3), 2: (3, 4), 3: (4, 6), 4: (8, 10), 5: (12, 16)}
_ROOMS = {1: 4, 2: 4, 3: 4, 4: 6, 5: 8}
_NATURAL = (
    "A thing is in the room `{start}`. Each move is two rooms: what is in the first goes to the second; or "
    "`lock` and a room, which "
    "nothing enters or leaves from then on. The last move says `end`. Find out in which room the thing is "
    "for good, and submit that room "
    "as soon as it is certain."
)


@dataclass(slots=True)
class _State:
    room: str
    num_read: int = 0
    num_notes: int = 0
    settled_at: int | None = None  # the call whose result made the room certain
    submitted: str | None = None
    submitted_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    start: str
    moves: tuple[tuple[str, str], ...]  # two rooms, or `lock` and a room
    tools = TOOLS
    settled: int  # how many moves must be read
    limits: Limits

    @property
    def tags(self) -> tuple[str, ...]:
        return ("lock",) if self.settled < len(self.moves) else ()

    @property
    def prompt(self) -> Mapping[Dialect, str]:
        return {Dialect.COMPACT: f"track {self.start}", Dialect.NATURAL: _NATURAL.format(start=self.start)}

    def scene(self) -> Scene:
        return ChainScene(self)

    def agent(self, hand: Hand) -> Script:
        """Hasty: answers before the room is certain, or reads on afterwards. Some do not think aloud."""
        rng, settled, stop = hand.rng, self.settled, self.settled
        if not hand.is_right() and rng.random() < 0.5:
            stop = min(settled + rng.randint(1, 2), len(self.moves))
        stop = next(
            (number for number in range(1, settled) if not hand.is_right() and rng.random() < _HAZARD), stop
        )
        thinks = 0.0 if hand.is_perfect else rng.choice((0.3, 1.0, 1.0))
        room = self.start
        for number in range(stop):
            event = yield call("at", room=room) if number and rng.random() < thinks else call("next")
            room = moved(room, *event.text.split()[:2])
        yield call("submit", room=room)


class ChainScene(Scene):
    state: _State

    def __init__(self, case: Chain) -> None:
        super().__init__(TOOLS, _State(room=case.start))
        self.case = case

    def carry_out(self, call: Call) -> Answer:
        state = self.state
        if call.tool == "submit":
            state.submitted, state.submitted_at = text_of(call, "room").strip(), self.at
            return Answer(text="", submitted=state.submitted)
        if call.tool == "at":
            text_of(call, "room")
            state.num_notes += 1
        if state.num_read == len(self.case.moves):
            return Answer(text="end")
        one, two = self.case.moves[state.num_read]
        state.num_read += 1
        state.room = moved(state.room, one, two)
        is_last = state.num_read == len(self.case.moves)
        if state.settled_at is None and state.num_read == self.case.settled:
            state.settled_at = self.at
        return Answer(text=f"{one} {two} end" if is_last else f"{one} {two}")

    def outcome(self) -> Outcome:
        state = self.state
        is_settled = state.settled_at is not None
        success = is_settled and state.submitted == state.room
        wasted = state.num_read - self.case.settled
        share = 1 - NOTE_PRICE * (state.num_notes + 2 * max(wasted, 0))
        evidence = f"submitted {state.submitted!r}, wanted {state.room!r}" + (
            "" if is_settled else ", which was not certain yet"
        )
        return Outcome(
            success=success,
            share=max(share, 0.5),
            evidence=evidence,
            scores={"notes": float(state.num_notes)},
        )

    def measures(self, spent: Spent) -> dict[str, float]:
        state = self.state
        found = {"chain_notes": float(state.num_notes)}
        if state.submitted is not None:
            found["chain_early"] = float(state.settled_at is None)
        if state.settled_at is not None:
            stop = state.submitted_at if state.submitted is not None else len(self.calls)
            after = range(state.settled_at + 1, stop)
            found["chain_late_turns"] = float(len(after))
            if any(spent.tokens):  # scripts act without tokens
                found["chain_late_tokens"] = float(sum(spent.tokens[at] for at in after))
        return found


def moved(room: str, one: str, two: str) -> str:
    """Where the thing is after the contents of `one` moved to `two`; a lock moves nothing."""
    return two if room == one else room


def draw(split: str, level: int, rng: random.Random) -> Chain:
    """`structural`: two more moves than in training, and in every task a lock of another room, which decides
    nothing."""
    is_structural = split == "structural"
    num_moves = rng.randint(*_MOVES[level]) + 2 * is_structural
    while True:
        start, *others = rng.sample(VALUES, _ROOMS[level])
        moves = _moves(start, others, num_moves, is_structural, rng)
        room, settled = _walk(start, moves)
        if room != start:  # otherwise the prompt would show the answer
            return Chain(start=start, moves=moves, settled=settled, limits=_limits(num_moves))


def _walk(start: str, moves: Sequence[tuple[str, str]]) -> tuple[str, int]:
    """Where the thing stays, and the number of moves after which that is certain."""
    room = start
    for number, (one, two) in enumerate(moves, start=1):
        if (one, two) == (LOCK, room):
            return room, number
        room = moved(room, one, two)
    return room, len(moves)


def _moves(
    start: str, others: list[str], num_moves: int, has_decoy: bool, rng: random.Random
) -> tuple[tuple[str, str], ...]:
    """Half of the tasks lock the thing's room before the last move; some lock another one."""
    room, open_rooms, moves = start, [start, *others], list[tuple[str, str]]()
    lock_at = rng.randrange(1, num_moves) if rng.random() < 0.5 else None
    decoy_at = rng.randrange(num_moves - 1) if has_decoy or rng.random() < 0.25 else None
    for number in range(num_moves):
        free = [each for each in open_rooms if each != room]
        if number == lock_at:
            moves.append((LOCK, room))
            open_rooms.remove(room)
        elif number == decoy_at and len(open_rooms) > 3 and room in open_rooms:
            shut = rng.choice(free)
            moves.append((LOCK, shut))
            open_rooms.remove(shut)
        else:
            takes_along = room in open_rooms and rng.random() < 0.7
            pair = [room, rng.choice(free)] if takes_along else rng.sample(free, 2)
            moves.append((pair[0], pair[1]))
            room = moved(room, *pair)
    return tuple(moves)


def _limits(num_moves: int) -> Limits:
    return Limits(
        turns=num_moves + 4,
        calls=num_moves + 4,
        tokens=128 + 20 * num_moves,
        turn_tokens=24,
        observation_bytes=128,
    )


def open_loop(prompt: str, turns: int, rng: random.Random) -> Script:
    """Reads every move, so the answer is certain, but looks at none. Never answers the room of the prompt."""
    for _ in range(turns - 1):
        yield call("next")
    yield call("submit", room=rng.choice([room for room in VALUES if room not in prompt.split()]))


def anything(prompt: str, rng: random.Random) -> Call:
    return rng.choice(
        (call("next"), call("at", room=rng.choice(VALUES)), call("submit", room=rng.choice(VALUES)))
    )


FAMILY = Family(draw=draw, open_loop=open_loop, anything=anything)
