"""The answers of a recorded conversation: where each stands, and what a client went on with to come to it.

An answer is a turn that a client was given. Several may go on from one: the choices of one request, a retry,
a branch. A path is what a client was shown on the way to an answer, and the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from agito.types import FinishReason, Trajectory

_EARLIER = "earlier"


def tag_of(name: str, turn: int) -> str:
    """An answer's name, and the turn that it is."""
    return f"{name} {turn}"


def tag_of_earlier(num_turns: int) -> str:
    """So many turns, the first, stand in an earlier conversation too, and are imitated there if anywhere."""
    return f"{_EARLIER} {num_turns}"


def named(trajectory: Trajectory) -> dict[str, int | None]:
    """The turn of each answer by its name; None where it was not recorded."""
    found = dict[str, int | None]()
    for tag in trajectory.task.tags:
        name, _, at = tag.partition(" ")
        if name != _EARLIER:
            found[name] = int(at) if at else None
    return found


class Answers:
    """One conversation's as a tree."""

    def __init__(self, trajectory: Trajectory) -> None:
        self._trajectory = trajectory
        self._given = [
            at for at, turn in enumerate(trajectory.turns) if turn.stopped is not FinishReason.CANCELLED
        ]
        self._segments = {segment.id: segment for segment in trajectory.segments}
        self._on = dict[int, list[int]]()  # answers by segment, as they stand on it
        for at in sorted(self._given, key=lambda at: trajectory.turns[at].start):
            self._on.setdefault(trajectory.turns[at].segment, []).append(at)
        self._before = {at: self._before_of(at) for at in self._given}
        self._after = dict[int | None, list[int]]()
        for at, before in self._before.items():
            self._after.setdefault(before, []).append(at)

    def end_of(self, turn: int | None) -> int | None:
        """The last answer that can be meant by an outcome of this one: clients have gone on from it, and from
        each of those behind it, in one way alone. None for an answer that is not here, or of which it is not
        known which it is.
        """
        if turn is None:
            found = self._after.get(None, [])
            end = self.end_of(found[0]) if len(found) == 1 else None
            return end if end is not None and not self._after.get(end) else None
        if turn not in self._before:
            return None
        while len(after := self._after.get(turn, [])) == 1:
            (turn,) = after
        return turn

    def last_of(self, session: str) -> int | None:
        """The answer that a session was given last."""
        own = [
            at for at in self._given if self._segments[self._trajectory.turns[at].segment].agent == session
        ]
        return own[-1] if own else None

    def excerpt(self, ends: Iterable[int]) -> Trajectory:
        """With the turns on the paths to these answers alone, and without messages where these are of another
        path.
        """
        ends = frozenset(ends)
        first = _num_earlier(self._trajectory)
        kept = {at for end in ends for at in self._path(end) if at >= first}
        spoken = next((at for at in reversed([*named(self._trajectory).values()]) if at is not None), None)
        has_words = spoken is None or spoken in ends
        task = self._trajectory.task
        return replace(
            self._trajectory,
            turns=tuple(turn for at, turn in enumerate(self._trajectory.turns) if at in kept),
            task=task if has_words else replace(task, messages=()),
        )

    def _path(self, turn: int) -> Iterator[int]:
        """Backwards."""
        at: int | None = turn
        while at is not None:
            yield at
            at = self._before[at]

    def _before_of(self, at: int) -> int | None:
        turn = self._trajectory.turns[at]
        segment, most = self._segments[turn.segment], turn.start
        while True:
            found = [
                each for each in self._on.get(segment.id, []) if self._trajectory.turns[each].stop <= most
            ]
            if found:
                return found[-1]
            if segment.parent is None:
                return None
            segment, most = self._segments[segment.parent], min(most, segment.prefix_len)


def _num_earlier(trajectory: Trajectory) -> int:
    found = [tag.partition(" ") for tag in trajectory.task.tags]
    return max((int(number) for kind, _, number in found if kind == _EARLIER), default=0)
