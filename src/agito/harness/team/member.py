"""One agent of a team: a context, a budget and notes of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from agito.harness.solo import calls_of
from agito.harness.team.openings import parsed_by
from agito.harness.team.scripted import ScriptedSeat, ScriptedTeam
from agito.protocols import Agent, ForkedSession, Sampled, Session
from agito.sampling.capture import Capture
from agito.types import Call, Event, FinishReason, Segment, Task, TokenSource, ToolSpec, Turn


@dataclass(slots=True, kw_only=True)
class Child:
    """What a parent may still do with an agent that it spawned: take over what it changed."""

    name: str
    fork: ForkedSession | None  # None: it works on its parent's world
    is_merged: bool = False


@dataclass(slots=True, kw_only=True)
class Member:
    """Its conversation is `capture`; nothing else that it reads or writes is recorded anywhere."""

    name: str
    role: str
    agent: Agent
    task: Task  # as it is told
    whole: Task  # as the environment gave it
    depth: int
    turns_left: int
    seed: int
    segment_id: int
    world: Session
    children: list[Child] = field(default_factory=list["Child"])  # in the order of their briefs
    brief: str = ""
    spawned_by: int | None = None
    notes: list[str] = field(default_factory=list[str])
    report: str | None = None  # what it hands back
    failure: str = ""  # why it hands back nothing
    capture: Capture = field(init=False)
    sampled: Sampled | None = None  # the turn that it has not acted on yet
    _seat: ScriptedSeat | None = None

    def open(self) -> bool:
        """Begins its conversation. False: the opening leaves no room for a turn, and nothing was opened."""
        renderer = self.agent.spec.renderer
        opening = renderer.opening(self.task)
        if len(opening) >= self.task.limits.tokens:
            return False
        engine = self.agent.engine
        if isinstance(engine, ScriptedTeam):
            engine = self._seat = engine.seat(self.role, self.brief, self._readers)
        self.capture = Capture(engine, seed=self.seed, stop_ids=renderer.stop_ids, segment=self.segment_id)
        self.capture.extend(opening)
        return True

    @property
    def _readers(self) -> tuple[ToolSpec, ...]:
        return parsed_by(self.agent.spec, self.whole, self.task.tools)

    @property
    def is_done(self) -> bool:
        return self.report is not None or bool(self.failure)

    @property
    def room(self) -> int:
        """Tokens that its next turn may have."""
        limits = self.task.limits
        return min(limits.turn_tokens, limits.tokens - len(self.capture))

    async def sample(self) -> None:
        """Takes the next turn; `calls` reads it."""
        spec = self.agent.spec
        self.turns_left -= 1
        self.sampled = await self.capture.sample(
            max_tokens=self.room, temperature=spec.temperature, top_p=spec.top_p
        )
        self.capture.label(spec.renderer.channels(self.sampled.ids))

    def calls(self) -> tuple[Call, ...]:
        """What it wants done."""
        assert self.sampled is not None, "sample comes first"
        spec = self.agent.spec
        return calls_of(spec.renderer, self.sampled.ids, self._readers)

    def read(self, events: Sequence[Event]) -> None:
        """Shows it what came of its turn."""
        assert self.sampled is not None, "sample comes first"
        renderer = self.agent.spec.renderer
        if self.sampled.stopped is FinishReason.LENGTH:
            self.capture.extend(renderer.stop_ids[:1], TokenSource.FORCED)
        self.capture.extend(renderer.observation(events))
        if self._seat is not None:
            self._seat.hear(events)

    @property
    def turns(self) -> list[Turn]:
        return self.capture.turns

    def segment(self) -> Segment:
        found = self.capture.segment(agent=self.name, role=self.role, policy=self.agent.spec.policy)
        return replace(found, spawned_by=self.spawned_by)
