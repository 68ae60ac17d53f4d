"""One attempt, token by token."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from agito.types.enums import Effort, Fault, FinishReason, Mode, TerminationReason, TokenSource
from agito.types.task import AttemptId, Event, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSpan:
    """Weights of this version processed positions [start, stop)."""

    start: int
    stop: int
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Columns of equal length, one entry per token."""

    ids: array[int]  # 'i'
    logprobs: array[float]  # 'f', natural log at the sampling temperature; NaN where nothing was sampled
    kinds: bytes  # TokenSource
    channels: bytes  # Channel
    versions: tuple[VersionSpan, ...]  # contiguous, from 0 to the end

    def __post_init__(self) -> None:
        n = len(self.ids)
        if not (len(self.logprobs) == len(self.kinds) == len(self.channels) == n):
            raise ValueError(
                f"token columns differ in length: {n}, {len(self.logprobs)}, {len(self.kinds)}, "
                f"{len(self.channels)}"
            )
        at = 0
        for span in self.versions:
            if span.start != at or span.stop <= span.start:
                raise ValueError(f"version spans leave a gap or overlap at position {at}: {self.versions}")
            at = span.stop
        if at != n:
            raise ValueError(f"version spans cover {at} of {n} tokens")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def is_sampled(self) -> list[bool]:
        return [kind in (TokenSource.SAMPLED, TokenSource.CONTROL) for kind in self.kinds]

    def version_at(self, position: int) -> int:
        for span in self.versions:
            if span.start <= position < span.stop:
                return span.version
        raise IndexError(position)

    def oldest_version(self) -> int:
        return min((span.version for span in self.versions), default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One stretch of sampling: positions [start, stop) of its segment."""

    segment: int
    start: int
    stop: int
    stopped: FinishReason
    effort: Effort = Effort.NONE
    hard_budget: int = 0  # tokens that may be sampled in this turn
    temperature: float = 1.0
    top_p: float = 1.0
    calls: tuple[int, ...] = ()  # indices into the trajectory's events
    continues: bool = False  # goes on with the turn before it, whose thinking was closed or opened again
    # Of the whole turn, on its first stretch.
    think_budget: int | None = None  # think tokens that might be sampled
    num_thought: int = 0  # think tokens that were
    num_leaked: int = 0  # tokens outside think blocks that its calls do not need
    # Of an attempt's first turn at `auto`: what its first token, at `start`, chose, and whether that was
    # decided for it; the token's log-probability is the policy's own all the same.
    mode: Mode | None = None
    is_steered: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """An append-only run of tokens by one agent. A solo agent has one; a rewritten history starts a new
    one."""

    id: int
    tokens: Tokens
    parent: int | None = None
    prefix_len: int = 0  # tokens shared with the parent
    agent: str = "solo"
    role: str = "solo"
    policy: str = "main"
    spawned_by: int | None = None  # event index


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """The origin of a forked attempt."""

    parent: AttemptId
    event: int
    snapshot: str
    without: str = ""  # the agent that was left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One attempt as it happened."""

    attempt: AttemptId
    task: Task
    segments: tuple[Segment, ...]
    turns: tuple[Turn, ...]
    events: tuple[Event, ...]
    end: TerminationReason
    fault: Fault | None = None
    detail: str = ""  # one line for people when `fault` is set
    lineage: Lineage | None = None
    wall_s: float = 0.0

    @property
    def num_turns(self) -> int:
        """Whole ones, however many stretches each was sampled in."""
        return sum(not turn.continues for turn in self.turns)

    @property
    def num_sampled(self) -> int:
        return sum(turn.stop - turn.start for turn in self.turns)

    def begin_of(self, turn: int) -> int:
        """Number of the first stretch of a turn, given that of any of its stretches."""
        while self.turns[turn].continues:
            turn -= 1
        return turn

    @property
    def num_critical(self) -> int:
        """Sampled tokens on the critical path: of agents that worked side by side, only those of the one
        whose own path is longest count. One agent's are all of its tokens.
        """
        return self._longest(segment for segment in self.segments if segment.spawned_by is None)

    def _longest(self, segments: Iterable[Segment]) -> int:
        """Tokens on the path of these segments, which were sampled one after the other."""
        ids, total = {segment.id for segment in segments}, 0
        for turn in self.turns:
            if turn.segment in ids:
                total += turn.stop - turn.start + sum(map(self._longest_of, self._spawns(turn)))
        return total

    def _spawns(self, turn: Turn) -> Iterator[frozenset[int]]:
        """Calls of the turn whose agents worked side by side: those to one tool without another between."""
        for _, run in groupby(
            turn.calls, lambda at: (self.events[at].call.tool, self.events[at].call.problem)
        ):
            yield frozenset(run)

    def _longest_of(self, spawns: frozenset[int]) -> int:
        """Of the paths of the agents that these calls spawned."""
        agents: dict[str, list[Segment]] = {}
        for segment in self.segments:
            if segment.spawned_by in spawns:
                agents.setdefault(segment.agent, []).append(segment)
        return max(map(self._longest, agents.values()), default=0)


def span(version: int, length: int) -> tuple[VersionSpan, ...]:
    """One span over `length` tokens; none for length 0."""
    return (VersionSpan(start=0, stop=length, version=version),) if length else ()
