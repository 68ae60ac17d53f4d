"""Moves on numbered pages take a thing from room to room; none commutes.

Difficulty is exact: the number of moves, κ. A network without thoughts has to compose them all at once; one
that says each room on the way looks up one move at a time. An answer before all pages were read is a guess,
and never pays.

- `chain`: every word is a move, four to a page; the prompt tells the first room and the number of pages.
- `errand`: the first word is the room, most others are no moves; six pages of eight words whatever κ is, and
  the prompt tells κ. Who thinks about every word thinks as long where there is nothing to think about.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from agito.envs.decisions.scene import Hand, Outcome, Scene, Spent, call
from agito.envs.thinking.words import IDLE, ROOMS, TERSE, Words
from agito.envs.thinking.words import MOVES as NAMES
from agito.errors import InvalidArguments
from agito.protocols import Script, ThoughtfulCall
from agito.types import Call, Dialect, Effort, Json, Limits, ToolSpec
from agito.worlds.component import Answer, text_of

PER_PAGE = 4
PAGES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6}  # of a chain, by level
ERRAND_MOVES = {1: 0, 2: 1, 3: 8, 4: 16, 5: 24}  # by level
_ERRAND_PAGES, _ERRAND_PER_PAGE = 6, 8
_MORE_PAGES = 2  # of structural tasks
_HELD_OUT = 6  # of the 24 pages that there are
_SLIP = 0.5  # of an unskilled hand's errors: the rest are wrong turns that it notices


def _moves() -> dict[str, dict[str, str]]:
    """Permutations of the rooms that leave none in its place."""
    rng, found = random.Random("thinking/chain"), dict[str, dict[str, str]]()
    for name in NAMES:
        while True:
            shuffled = rng.sample(ROOMS, len(ROOMS))
            if all(one != other for one, other in zip(ROOMS, shuffled, strict=True)):
                break
        found[name] = dict(zip(ROOMS, shuffled, strict=True))
    return found


MOVES = _moves()


@dataclass(slots=True)
class _State:
    read: int = 0  # one bit for each page
    submitted: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """`start`: empty where the first page says it."""

    start: str
    pages: tuple[tuple[str, ...], ...]
    words: Words = TERSE
    tags = ()

    @property
    def tools(self) -> tuple[ToolSpec, ...]:
        return self.words.tools

    @property
    def end(self) -> str:
        """As it is to be submitted."""
        return self.words.of(walk(self.start, [word for page in self.pages for word in page])[-1])

    @property
    def num_moves(self) -> int:
        return sum(word in MOVES for page in self.pages for word in page)

    @property
    def limits(self) -> Limits:
        turns = len(self.pages) + 3
        return Limits(
            turns=turns,
            calls=turns,
            tokens=96 + 64 * len(self.pages),
            turn_tokens=80,
            observation_bytes=128,
        )

    @property
    def prompt(self) -> Mapping[Dialect, str]:
        pages, start = len(self.pages), self.words.of(self.start)
        if not self.start:
            return {
                Dialect.COMPACT: f"errand {self.num_moves} {pages}",
                Dialect.NATURAL: self.words.errand.format(moves=self.num_moves, pages=pages),
            }
        return {
            Dialect.COMPACT: f"follow {start} {pages}",
            Dialect.NATURAL: self.words.chain.format(start=start, pages=pages),
        }

    def scene(self) -> Scene:
        return ChainScene(self)

    def agent(self, hand: Hand) -> Script:
        return self.thinker(hand, Effort.NONE)

    def thinker(self, hand: Hand, effort: Effort) -> Script:
        """Thinks about each page before the next call; an unskilled hand slips now and then, or takes a wrong
        turn that it notices."""
        room, thought = self.start, "" if effort is Effort.NONE else self.words.of(self.start)
        for number, page in enumerate(self.pages, start=1):
            yield _thoughtful(_read(number), thought)
            rooms = walk(room, page)
            if not hand.is_right() and hand.rng.random() < _SLIP:
                rooms[-1] = hand.rng.choice([each for each in ROOMS if each != rooms[-1]])
            thought = self.words.thought(*_said(page, rooms, hand, effort))
            room = rooms[-1]
        yield _thoughtful(call("submit", room=self.words.of(room)), thought)


def _thoughtful(one: Call, thinking: str) -> Call:
    if not thinking:
        return one
    return ThoughtfulCall(tool=one.tool, arguments=one.arguments, thinking=thinking)


def _read(number: int) -> Call:
    arguments: dict[str, Json] = {"page": number}
    return Call(tool="read", arguments=arguments)


def _said(page: Sequence[str], rooms: Sequence[str], hand: Hand, effort: Effort) -> Iterator[Sequence[str]]:
    """The walks of a thought: `low` every other room, `medium` each, `high` each, perhaps with a wrong turn,
    and each again; `none` nothing."""
    if effort is Effort.LOW:
        yield rooms[1::2]
    elif effort is Effort.MEDIUM:
        yield rooms
    elif effort is not Effort.NONE:
        yield _with_wrong_turns(page, rooms, hand)
        yield rooms


def _with_wrong_turns(page: Sequence[str], rooms: Sequence[str], hand: Hand) -> Sequence[str]:
    """The same rooms, or from a wrong one on those where the moves lead from there."""
    for number in range(len(page)):
        if not hand.is_right() and hand.rng.random() < _SLIP:
            wrong = hand.rng.choice([each for each in ROOMS if each != rooms[number]])
            return [*rooms[:number], wrong, *walk(wrong, page[number + 1 :])]
    return rooms


class ChainScene(Scene):
    state: _State

    def __init__(self, case: Chain) -> None:
        super().__init__(case.tools, _State())
        self.case = case

    def carry_out(self, call: Call) -> Answer:
        state, pages = self.state, self.case.pages
        if call.tool == "submit":
            state.submitted = text_of(call, "room").strip()
            return Answer(text="", submitted=state.submitted)
        page = call.arguments.get("page")
        if isinstance(page, bool) or not isinstance(page, int) or not 0 <= page <= len(pages):
            raise InvalidArguments(f"page must be a number from 0 to {len(pages)}")
        if page == 0:
            return Answer(text=self.case.words.table(MOVES))
        state.read |= 1 << page
        return Answer(text=self.case.words.text(pages[page - 1]))

    def outcome(self) -> Outcome:
        state, case = self.state, self.case
        missing = [page for page in range(1, len(case.pages) + 1) if not state.read >> page & 1]
        evidence = f"submitted {state.submitted!r}, wanted {case.end!r}"
        if missing:
            evidence += f", without having read page {missing[0]}"
        return Outcome(success=not missing and state.submitted == case.end, evidence=evidence)

    def measures(self, spent: Spent) -> dict[str, float]:
        return {}


def walk(room: str, words: Sequence[str]) -> list[str]:
    """The room after each word: a move, a room, or one that means nothing."""
    rooms = list[str]()
    for word in words:
        room = MOVES[word][room] if word in MOVES else word if word in ROOMS else room
        rooms.append(room)
    return rooms


def _orders() -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Pages of training, and pages that it never has."""
    found = list(itertools.permutations(MOVES, PER_PAGE))
    random.Random("thinking/chain/pages").shuffle(found)
    return found[_HELD_OUT:], found[:_HELD_OUT]


def draw(split: str, level: int, rng: random.Random, *, words: Words = TERSE) -> Chain:
    """Tasks of other splits than `train` have a page that no training task has."""
    num_pages = PAGES[level] + _MORE_PAGES * (split == "structural")
    trained, held_out = _orders()
    while True:
        start = rng.choice(ROOMS)
        pages = [rng.choice(trained) for _ in range(num_pages)]
        if split != "train":
            pages[rng.randrange(num_pages)] = rng.choice(held_out)
        case = Chain(start=start, pages=tuple(pages), words=words)
        if case.end != words.of(start):  # otherwise the prompt would show the answer
            return case


def draw_errand(split: str, level: int, rng: random.Random, *, words: Words = TERSE) -> Chain:
    """Held-out tasks have texts of their own; structural ones two more pages."""
    num_pages = _ERRAND_PAGES + _MORE_PAGES * (split == "structural")
    happens = [rng.choice(IDLE) for _ in range(num_pages * _ERRAND_PER_PAGE)]
    happens[0] = rng.choice(ROOMS)
    for at in rng.sample(range(1, len(happens)), ERRAND_MOVES[level]):
        happens[at] = rng.choice([*MOVES])
    return Chain(
        start="",
        pages=tuple(
            tuple(happens[at : at + _ERRAND_PER_PAGE]) for at in range(0, len(happens), _ERRAND_PER_PAGE)
        ),
        words=words,
    )


def open_loop(prompt: str, turns: int, rng: random.Random, *, words: Words = TERSE) -> Script:
    """Reads every page and looks at none; never answers the room of the prompt."""
    _, start, pages = prompt.split()
    for number in range(1, int(pages) + 1):
        yield _read(number)
    yield call("submit", room=rng.choice([room for room in map(words.of, ROOMS) if room != start]))


def anything(prompt: str, rng: random.Random, *, words: Words = TERSE) -> Call:
    return rng.choice((_read(rng.randint(1, 8)), call("submit", room=words.of(rng.choice(ROOMS)))))
