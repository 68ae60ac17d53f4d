"""What the rooms and moves of a task are called: words of one token, or couriers who carry a parcel through a
house, for language models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from agito.envs.decisions.words import NAMES, VALUES
from agito.types import ToolSpec
from agito.worlds.component import spec

ROOMS, MOVES, IDLE = VALUES[:8], NAMES[:4], NAMES[8:12]  # idle words move nothing


def _tools(read: str, submit: str) -> tuple[ToolSpec, ...]:
    reading = ToolSpec(
        name="read",
        description=read,
        parameters={
            "type": "object",
            "properties": {"page": {"type": "integer"}},
            "required": ["page"],
        },
    )
    return reading, spec("submit", submit, ["room"])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Words:
    """`shown`: a word's name where it is not the word itself. `chain` and `errand`: what a language model is
    asked, with `{start}`, `{pages}` and `{moves}`. `between`: words of a page, or of a thought. `again`: what
    begins a second walk, which counts.
    """

    tools: tuple[ToolSpec, ...]
    chain: str
    errand: str
    shown: Mapping[str, str] = field(default_factory=dict[str, str])
    between: str = " "
    again: str = " again "
    route: str = "`{move}`: {rooms}"

    def of(self, word: str) -> str:
        return self.shown.get(word, word)

    def text(self, words: Iterable[str]) -> str:
        return self.between.join(map(self.of, words))

    def thought(self, *walks: Sequence[str]) -> str:
        return self.again.join(map(self.text, walks))

    def table(self, moves: Mapping[str, Mapping[str, str]]) -> str:
        """What each move does, a line each."""
        return "\n".join(
            self.route.format(
                move=self.of(move),
                rooms=", ".join(f"{self.of(one)} to {self.of(other)}" for one, other in pairs.items()),
            )
            for move, pairs in moves.items()
        )


TERSE = Words(
    tools=_tools("Read a page of moves.", "End the episode: the thing is in this room."),
    chain=(
        "A thing is in the room `{start}`. Page 0 says what each move does: it takes the thing from any room "
        "to another. {pages} more page(s), from 1 on, hold moves, to be carried out in order, page by page. "
        "Read them all, and submit the room in which the thing is in the end."
    ),
    errand=(
        "A thing is in a room. Page 0 says what each move does: it takes the thing from any room to another. "
        "{pages} more pages, from 1 on, are read in order: the first word is the room, {moves} of the others "
        "are moves, and the rest mean nothing. Read them all, and submit the room in which the thing is in "
        "the end."
    ),
)
REALISTIC = Words(
    tools=_tools("Read a page of the log.", "End the episode: the parcel is in this room."),
    chain=(
        "A parcel is in the {start}. Four people carry parcels through the house, each by a rule of their "
        "own: what they find in one room they always take to the same other room. Page 0 of the log has the "
        "rules. Pages 1 to {pages} say who came by, in order. Read them all, one after another, and submit "
        "the room in which the parcel is in the end."
    ),
    errand=(
        "Four people carry parcels through a house, each by a rule of their own: what they find in one room "
        "they always take to the same other room. Page 0 of the log has the rules. Pages 1 to {pages} say in "
        "which room a parcel was, and what happened then, in order: {moves} times somebody came by, and all "
        "else moved nothing. Read them all, one after another, and submit the room in which the parcel is in "
        "the end."
    ),
    shown=dict(
        zip(
            (*ROOMS, *MOVES, *IDLE),
            (
                *("kitchen", "garden", "cellar", "attic", "hall", "garage", "study", "porch"),
                *("Anna", "Ben", "Clara", "David"),
                *("rain", "lunch", "music", "silence"),
            ),
            strict=True,
        )
    ),
    between=", ",
    again=". Again: ",
    route="{move}: {rooms}",
)
