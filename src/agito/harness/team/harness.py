"""The team harness: the first agent has the task, and hands out work by `spawn`.

Children of one turn work side by side: all of them sample, then all act in order, and so on. So what happens
depends on tokens and events, never on who was faster. They act on the world of the attempt, in which they can
see what others left there; or, where their role says so, each on a fork of its parent's world, from which the
parent may take over what was changed.

A child that fails or runs out of its budget is a result that its parent reads. Only what breaks the attempt's
world or its engine ends the attempt.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import anyio

from agito.concurrency import first_error
from agito.errors import Diverged, Uncapturable, WorkerDied
from agito.harness.role_tools import session_of
from agito.harness.team import forking
from agito.harness.team import tools as own_calls
from agito.harness.team.member import Child, Member
from agito.harness.team.openings import TeamRules, brief_task, first_task, limits_of
from agito.harness.team.tools import MERGE, NOTE, NOTES, OWN, REPORT, SPAWN, Order
from agito.protocols import Agent, ForkedSession, Session
from agito.types import (
    AttemptId,
    Budget,
    Call,
    Event,
    Fault,
    Task,
    TerminationReason,
    Trajectory,
)


class TeamHarness:
    """Roles and bounds of one kind of team. Raises `ValueError` without a role, or with one twice."""

    def __init__(self, rules: TeamRules, *, absent: str = "") -> None:
        if not rules.roles or len(set(rules.roles)) < len(rules.roles):
            raise ValueError(f"roles={rules.roles}: name each role once, the one that begins first")
        self.rules, self.roles, self.absent = rules, rules.roles, absent

    def without(self, agent: str) -> TeamHarness:
        """The same team, in which this agent fails before it does anything."""
        return type(self)(self.rules, absent=agent)

    @property
    def words(self) -> tuple[str, ...]:
        """What agents say to one another beside words of the task, for a vocabulary to be learned from."""
        merging = (f"{MERGE} true",) if self.rules.forked else ()
        return (f"{SPAWN} {REPORT} {NOTE} {NOTES}", own_calls.BETWEEN, ": ", *merging, *self.roles)

    async def run(
        self, task: Task, session: Session, agents: Mapping[str, Agent], attempt: AttemptId, *, seed: int
    ) -> Trajectory:
        return await self.new_course(task, session, agents, seed).run(attempt)

    def new_course(self, task: Task, session: Session, agents: Mapping[str, Agent], seed: int) -> Course:
        return Course(
            rules=self.rules,
            task=task,
            session=session,
            agents=agents,
            seed=seed,
            absent=self.absent,
        )


@dataclass(slots=True, kw_only=True)
class Course:
    """One attempt of a team under way."""

    rules: TeamRules
    task: Task
    session: Session
    agents: Mapping[str, Agent]
    seed: int
    absent: str = ""  # the agent that fails before it does anything
    events: list[Event] = field(default_factory=list[Event])
    members: list[Member] = field(default_factory=list[Member])
    has_ended: bool = False  # the world's episode

    async def run(self, attempt: AttemptId) -> Trajectory:
        began, fault, detail = time.monotonic(), None, ""
        try:
            end = await self._work(self._first())
        except WorkerDied:
            raise  # not this attempt's failure: the engine is gone
        except _NoFit as error:
            end, fault, detail = TerminationReason.FAILED, Fault.TASK, str(error)
        except Exception as error:  # the boundary: what a script or renderer raises is data
            end, fault, detail = TerminationReason.FAILED, Fault.ENV, f"{type(error).__name__}: {error}"
        finally:
            with anyio.CancelScope(shield=True):
                for member in self.members:
                    await member.capture.close()
                    await forking.close(member)
        turns = [turn for member in self.members for turn in member.turns]
        return Trajectory(
            attempt=attempt,
            task=self.task,
            # One that opened a context and failed before its first turn has an empty one.
            segments=tuple(member.segment() for member in self.members) if turns else (),
            turns=tuple(sorted(turns, key=lambda turn: turn.calls[0] if turn.calls else len(self.events))),
            events=tuple(self.events),
            end=end,
            fault=fault,
            detail=detail,
            wall_s=time.monotonic() - began,
        )

    def _first(self) -> Member:
        role = self.rules.roles[0]
        spec = self.agents[role].spec
        if clash := sorted({*OWN, MERGE} & {tool.name for tool in self.task.tools}):
            raise _NoFit(f"the task has a tool {clash[0]!r}, which a team has too")
        if self.rules.forked and not forking.can_fork(self.session):
            raise _NoFit(f"agents in the role {self.rules.forked[0]!r} need a fork of a world that has none")
        member = Member(
            name=role,
            role=role,
            agent=self.agents[role],
            task=first_task(self.task, spec, self.rules),
            whole=self.task,
            depth=0,
            turns_left=limits_of(spec, self.task.limits),
            seed=self.seed,
            segment_id=0,
            world=self.session,
        )
        if not member.open():
            raise _NoFit(f"the opening leaves no room in a context of {self.task.limits.tokens} tokens")
        self.members.append(member)
        return member

    async def _work(self, member: Member) -> TerminationReason:
        """The turns of the agent that begins."""
        while member.turns_left > 0:
            if member.room < 1:
                return TerminationReason.TOKENS
            await member.sample()
            await self._act(member)
            if self.has_ended:
                return TerminationReason.SUBMITTED
            if self._calls_left <= 0:
                return TerminationReason.CALLS
        return TerminationReason.TURNS

    @property
    def _calls_left(self) -> int:
        return self.task.limits.calls - len(self.events)

    def _left(self, member: Member, num_calls: int = 0) -> Budget:
        return Budget(
            turns=member.turns_left,
            calls=self._calls_left - num_calls,
            tokens=max(member.task.limits.tokens - len(member.capture), 0),
        )

    async def _act(self, member: Member) -> None:
        """Carries out a turn, and shows the agent what came of it."""
        at: list[int] = []
        for name, run in groupby(member.calls(), lambda call: self._own_tool(member, call)):
            calls = tuple(run)[: self._calls_left]
            if name == SPAWN:
                at += await self._spawn(member, calls)
            elif name == MERGE:
                for call in calls:
                    at += await self._merge(member, call) if not self.has_ended else []
            elif name:
                at += [self._alone(member, name, call) for call in calls]
            else:
                at += await self._in_world(member, calls)
            if self.has_ended or member.is_done:
                break
        member.turns[-1] = replace(member.turns[-1], calls=tuple(at))
        if self.has_ended or member.is_done:
            return
        try:
            member.read([self.events[index] for index in at])
        except Exception:  # the boundary: what a renderer makes of a child's text is the child's own
            if member.depth == 0:
                raise
            member.failure = own_calls.FAILED

    def _own_tool(self, member: Member, call: Call) -> str:
        """The team's tool that a call is for; empty: the world answers."""
        if call.problem or call.tool not in {tool.name for tool in member.task.tools}:
            return ""
        return call.tool if call.tool in OWN or call.tool == MERGE else ""

    async def _in_world(self, member: Member, calls: tuple[Call, ...]) -> list[int]:
        session = session_of(member.agent.spec, member.world)
        return self._answered(await session.act(calls, self._left(member, len(calls))))

    def _answered(self, events: Sequence[Event]) -> list[int]:
        """What a world said, among the attempt's events."""
        first = len(self.events)
        self.events += [replace(event, index=first + at) for at, event in enumerate(events)]
        self.has_ended = bool(events) and events[-1].ended
        return list(range(first, first + len(events)))

    async def _merge(self, member: Member, call: Call) -> list[int]:
        """Takes over what a child changed."""
        child = forking.child_of(member, call)
        if isinstance(child, str):
            return self._answered(
                await member.world.act([replace(call, problem=child)], self._left(member, 1))
            )
        assert child.fork is not None
        overwrite = call.arguments.get("overwrite") is True
        event = await child.fork.merge(call, self._left(member, 1), overwrite=overwrite)
        if event.fault is None:
            child.is_merged = True
            await child.fork.close()
        return self._answered([event])

    def _alone(self, member: Member, name: str, call: Call) -> int:
        """A call that concerns nobody else."""
        limit, index, text = self.task.limits.observation_bytes, len(self.events), "ok"
        if name == REPORT:
            member.report = own_calls.reported(call, limit)
        elif name == NOTE:
            member.notes.append(own_calls.noted(call))
        else:
            text = own_calls.notes_text(self.notes_of(member), limit)
        self.events.append(Event(index=index, call=call, text=text, left=self._left(member, 1)))
        return index

    def notes_of(self, member: Member) -> Sequence[str]:
        return member.notes

    async def _spawn(self, parent: Member, calls: tuple[Call, ...]) -> list[int]:
        """Consecutive calls of one turn: all their children work side by side."""
        indices, children, refused = list[int](), dict[int, list[Member]](), dict[int, str]()
        for call in calls:
            indices.append(len(self.events))
            self.events.append(Event(index=indices[-1], call=call, text=own_calls.FAILED, fault=Fault.TOOL))
            order = own_calls.order_of(call, self.rules.spawnable(parent.depth), breadth=self.rules.breadth)
            if isinstance(order, str):
                refused[indices[-1]] = order
                continue
            num_live = sum(map(len, children.values()))
            turns = min(order.budget, parent.turns_left // len(order.briefs))
            if num_live + len(order.briefs) > self.rules.breadth:
                refused[indices[-1]] = own_calls.too_many(self.rules.breadth)
            elif turns < 1:
                refused[indices[-1]] = own_calls.NO_TURNS
            else:
                try:
                    children[indices[-1]] = await self._children(parent, order, turns, indices[-1])
                except Uncapturable:
                    refused[indices[-1]] = own_calls.NO_FORK
        await self._side_by_side([child for several in children.values() for child in several])
        for index, call in zip(indices, calls, strict=True):
            several = children.get(index, [])
            parent.turns_left += sum(child.turns_left for child in several)
            self.events[index] = self._answer(parent, index, call, several, refused.get(index, ""))
        return indices

    async def _children(self, parent: Member, order: Order, turns: int, index: int) -> list[Member]:
        """Raises `Uncapturable` where the parent's world cannot be forked as it is."""
        is_forked, forks = order.role in self.rules.forked, list[ForkedSession | None]()
        for _ in order.briefs:
            forks.append(await forking.fork(parent.world) if is_forked else None)
        found = list[Member]()
        for number, (brief, fork) in enumerate(zip(order.briefs, forks, strict=True)):
            found.append(self._child(parent, order, brief, turns, index, number, fork or parent.world))
            parent.children.append(Child(name=found[-1].name, fork=fork))
        await forking.close(parent, keep=self.rules.breadth)
        return found

    def _child(
        self, parent: Member, order: Order, brief: str, turns: int, index: int, number: int, world: Session
    ) -> Member:
        """Named after its role, the event of its spawning, and its place among those spawned there."""
        parent.turns_left -= turns
        agent, name = self.agents[order.role], f"{order.role}-{index}.{number}"
        own = min(turns, limits_of(agent.spec, self.task.limits))
        parent.turns_left += turns - own
        child = Member(
            name=name,
            role=order.role,
            agent=agent,
            task=self.told(parent, order.role, brief, own),
            whole=self.task,
            depth=parent.depth + 1,
            turns_left=own,
            seed=zlib.crc32(f"{self.seed}/{name}".encode()),
            segment_id=len(self.members),
            world=world,
            brief=brief,
            spawned_by=index,
        )
        if name == self.absent:
            child.failure = own_calls.FAILED
        elif child.open():
            self.members.append(child)
        else:
            child.failure = own_calls.TOO_LONG
        return child

    def told(self, parent: Member, role: str, brief: str, turns: int) -> Task:
        """What a child begins with."""
        spec, depth = self.agents[role].spec, parent.depth + 1
        return brief_task(self.task, spec, self.rules, role=role, brief=brief, turns=turns, depth=depth)

    async def _side_by_side(self, children: Sequence[Member]) -> None:
        """Rounds in which every child samples, then all act in order."""
        while live := [child for child in children if not self._is_over(child)]:
            try:
                async with anyio.create_task_group() as tasks:
                    for child in live:
                        tasks.start_soon(self._take_turn, child)
            except BaseExceptionGroup as group:
                raise first_error(group) from None
            for child in live:
                if not (child.failure or self._is_stopped(child)):
                    await self._act(child)

    def _is_over(self, child: Member) -> bool:
        """Whether it has nothing more to do; says why if it has handed nothing back."""
        if child.is_done or self._is_stopped(child):
            return True
        if child.turns_left <= 0:
            child.failure = own_calls.OUT_OF_TURNS
        elif child.room < 1:
            child.failure = own_calls.OUT_OF_TOKENS
        return child.is_done

    def _is_stopped(self, child: Member) -> bool:
        """Whether the attempt leaves it nothing to act with."""
        if self.has_ended:
            child.failure = own_calls.FAILED
        elif self._calls_left <= 0:
            child.failure = own_calls.OUT_OF_CALLS
        return child.is_done

    async def _take_turn(self, child: Member) -> None:
        try:
            await child.sample()
        except (WorkerDied, Diverged):
            raise
        except Exception:  # the boundary: its parent reads that it failed, and nothing of why
            child.failure = own_calls.FAILED

    def _answer(
        self, parent: Member, index: int, call: Call, children: Sequence[Member], refused: str
    ) -> Event:
        """The return of a `spawn` call, as its parent reads it."""
        text = (
            own_calls.refusal(refused) if refused else own_calls.BETWEEN.join(map(self.handed_back, children))
        )
        text = own_calls.clipped(text, self.task.limits.observation_bytes)
        fault = Fault.POLICY if refused else _fault_of(children)
        return Event(index=index, call=call, text=text, fault=fault, left=self._left(parent))

    def handed_back(self, child: Member) -> str:
        """All that a parent learns of a child."""
        return child.failure if child.report is None else child.report


def _fault_of(children: Sequence[Member]) -> Fault | None:
    """That of the first child that handed nothing back."""
    first = next((child.failure for child in children if child.report is None), "")
    if not first:
        return None
    if first == own_calls.TOO_LONG:
        return Fault.POLICY
    return Fault.TOOL if first == own_calls.FAILED else Fault.BUDGET


class _NoFit(Exception):
    """The task does not fit the team."""
