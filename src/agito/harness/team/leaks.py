"""Whether every token that an agent of a team read has an origin that it may have.

Works from the record alone and shares no state with the harness. An agent may read its task or its brief,
what the world answered to its own calls, its own notes, and what its own children reported.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from agito.harness.team import tools as own_calls
from agito.harness.team.openings import TeamRules, brief_task, first_task, own
from agito.harness.team.tools import NO_REPORTS, NOTE, NOTES, OWN, REPORT, SPAWN
from agito.protocols import AgentSpec, ForkedSession, ForkingSession, Session
from agito.types import Budget, Call, Event, FinishReason, Segment, ToolSpec, Trajectory

LEAKED = "a context was not kept apart"  # how the detail of an attempt with a leak begins


def context_leaks(
    trajectory: Trajectory, specs: Mapping[str, AgentSpec], rules: TeamRules, answered: Sequence[Event]
) -> tuple[str, ...]:
    """What was read without a right to it, one line each; nothing for a sound record. `answered`: the events
    of the attempt's session, in order.
    """
    return _Record(trajectory, specs, rules).leaks(answered)


def of_world(trajectory: Trajectory) -> tuple[Event, ...]:
    """The events that the world answered: all of them, but for what a team's own tools did."""
    names = {tool.name for tool in trajectory.task.tools}
    return tuple(
        event
        for event in trajectory.events
        if event.call.problem or event.call.tool in names or event.call.tool not in OWN
    )


class Heard:
    """Wraps a session, and remembers what it and its forks answered, in one list."""

    def __init__(self, session: Session, events: list[Event] | None = None) -> None:
        self._session, self.events = session, list[Event]() if events is None else events

    @property
    def tools(self) -> tuple[ToolSpec, ...]:
        return self._session.tools

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        """As `Session.act`."""
        events = await self._session.act(calls, left)
        self.events += events
        return events

    @property
    def can_fork(self) -> bool:
        return isinstance(self._session, ForkingSession) and self._session.can_fork

    async def fork(self) -> ForkedSession:
        """As `ForkingSession.fork`."""
        assert isinstance(self._session, ForkingSession)
        return _HeardFork(await self._session.fork(), self.events)


class _HeardFork(Heard):
    def __init__(self, session: ForkedSession, events: list[Event]) -> None:
        super().__init__(session, events)
        self._fork = session

    async def merge(self, call: Call, left: Budget, *, overwrite: bool) -> Event:
        event = await self._fork.merge(call, left, overwrite=overwrite)
        self.events.append(event)
        return event

    async def close(self) -> None:
        await self._fork.close()


class _Record:
    def __init__(self, trajectory: Trajectory, specs: Mapping[str, AgentSpec], rules: TeamRules) -> None:
        self._trajectory, self._specs, self._rules = trajectory, specs, rules
        self._events = trajectory.events
        self._segments = {segment.id: segment for segment in trajectory.segments}
        self._turns = {
            segment.id: [turn for turn in trajectory.turns if turn.segment == segment.id]
            for segment in trajectory.segments
        }
        self._owner = {index: turn.segment for turn in trajectory.turns for index in turn.calls}

    def leaks(self, answered: Sequence[Event]) -> tuple[str, ...]:
        shown = Counter(index for turn in self._trajectory.turns for index in turn.calls)
        found = [f"event {index} was shown {count} times" for index, count in shown.items() if count > 1]
        of_world = [(event.call, event.text) for event in self._events if not self._is_own(event)]
        if of_world != [(event.call, event.text) for event in answered]:
            found.append("what the world answered is not what was read")
        found += [
            f"event {event.index} ({event.call.tool}) says more than it may"
            for event in self._events
            if self._is_own(event) and not self._may_say(event)
        ]
        for segment in self._trajectory.segments:
            found += [f"{segment.agent} read {what}" for what in self._unaccounted(segment)]
        return tuple(found)

    def _depth(self, segment: Segment) -> int:
        if segment.spawned_by is None:
            return 0
        return 1 + self._depth(self._segments[self._owner[segment.spawned_by]])

    def _is_own(self, event: Event) -> bool:
        """Whether the harness answered it."""
        if event.call.problem or event.call.tool not in OWN or event.index not in self._owner:
            return False
        depth = self._depth(self._segments[self._owner[event.index]])
        return event.call.tool in {tool.name for tool in own(self._rules, depth)}

    def _may_say(self, event: Event) -> bool:
        """Whether one of the team's own tools answered with what its caller may read."""
        limit = self._trajectory.task.limits.observation_bytes
        if event.call.tool == SPAWN:
            return self._is_refusal(event) or self._is_return(event, limit)
        if event.call.tool != NOTES:
            return event.text == "ok"
        earlier = [
            self._events[index]
            for turn in self._turns[self._owner[event.index]]
            for index in turn.calls
            if index < event.index
        ]
        notes = [
            own_calls.noted(each.call) for each in earlier if each.call.tool == NOTE and self._is_own(each)
        ]
        return event.text == own_calls.notes_text(notes, limit)

    def _is_refusal(self, spawn: Event) -> bool:
        depth = self._depth(self._segments[self._owner[spawn.index]])
        breadth = self._rules.breadth
        order = own_calls.order_of(spawn.call, self._rules.spawnable(depth), breadth=breadth)
        limit = self._trajectory.task.limits.observation_bytes
        others = (own_calls.too_many(breadth), own_calls.NO_TURNS, own_calls.NO_FORK)
        whys = (order,) if isinstance(order, str) else others
        return spawn.text in {own_calls.clipped(own_calls.refusal(why), limit) for why in whys}

    def _is_return(self, spawn: Event, limit_bytes: int) -> bool:
        """Whether it is what the children reported, in their order and cut to the limit."""
        children = {
            _place(segment): segment
            for segment in self._segments.values()
            if segment.spawned_by == spawn.index
        }
        rest, num_briefs = spawn.text, len(own_calls.briefs_of(spawn.call))
        for number in range(num_briefs):
            between = own_calls.BETWEEN if number + 1 < num_briefs else ""
            reports = sorted(self._reports(children.get(number), limit_bytes), key=len, reverse=True)
            options = [f"{text}{between}" for text in reports]
            match = next((option for option in options if rest.startswith(option)), None)
            if match is None:
                was_cut = len(spawn.text.encode()) > limit_bytes - 4
                return was_cut and any(option.startswith(rest) for option in options)
            rest = rest[len(match) :]
        return not rest

    def _reports(self, child: Segment | None, limit_bytes: int) -> Iterable[str]:
        """What may come back from a child: its report, or that there is none."""
        calls = [index for turn in self._turns[child.id] for index in turn.calls] if child else []
        last = self._events[calls[-1]] if calls else None
        if last is not None and last.call.tool == REPORT and self._is_own(last):
            return (own_calls.reported(last.call, limit_bytes), own_calls.FAILED)
        return NO_REPORTS

    def _unaccounted(self, segment: Segment) -> list[str]:
        """Where it read tokens that are not those of its opening and its own events."""
        turns, ids = self._turns[segment.id], segment.tokens.ids
        renderer = self._specs[segment.role].renderer
        if not turns:
            return ["without a turn"] if ids else []
        found: list[str] = []
        if not any(ids[: turns[0].start] == opening for opening in self._openings(segment)):
            found.append("more than its brief" if segment.spawned_by is not None else "more than its task")
        for turn, after in pairwise(turns):
            expected = array("i")
            if turn.stopped is FinishReason.LENGTH:
                expected.extend(renderer.stop_ids[:1])
            expected.extend(renderer.observation([self._events[index] for index in turn.calls]))
            if ids[turn.stop : after.start] != expected:
                found.append(f"more than came of its turn at {turn.start}")
        if turns[-1].stop != len(ids):
            found.append("more after its last turn")
        return found

    def _openings(self, segment: Segment) -> Iterable[array[int]]:
        """The openings that it may have: one for each budget that its parent could have given."""
        spec, task = self._specs[segment.role], self._trajectory.task
        if segment.spawned_by is None:
            return (spec.renderer.opening(first_task(task, spec, self._rules)),)
        spawn = self._events[segment.spawned_by]
        briefs, place, depth = own_calls.briefs_of(spawn.call), _place(segment), self._depth(segment)
        if not place < len(briefs):
            return ()
        told = (
            brief_task(
                task, spec, self._rules, role=segment.role, brief=briefs[place], turns=turns, depth=depth
            )
            for turns in self._budgets(segment)
        )
        return map(spec.renderer.opening, told)

    def _budgets(self, segment: Segment) -> Iterable[int]:
        """Turns that it may have been given; its first event says."""
        first = next((self._events[index] for turn in self._turns[segment.id] for index in turn.calls), None)
        if first is not None and first.left is not None and first.call.tool != SPAWN:
            return (first.left.turns + 1,)
        return range(1, self._trajectory.task.limits.turns + 1)


def _place(segment: Segment) -> int:
    """Of a child, among those of its `spawn` call; its name says."""
    return int(segment.agent.rpartition(".")[2])
