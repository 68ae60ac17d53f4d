"""A live world made of components: one episode's tools, injected faults, snapshots and end."""

from __future__ import annotations

import hashlib
import json
import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import anyio

from agito.errors import InvalidArguments, Uncapturable
from agito.protocols import Control, Session, WorldSnapshot
from agito.types import AttemptId, Budget, Call, EpisodeArtifacts, Event, Exactness, Fault, Task, ToolSpec
from agito.worlds.component import (
    NO_FAULTS,
    Answer,
    Component,
    FaultProfile,
    Mergeable,
    clip,
    spec,
    text_of,
    wrong,
)

SUBMIT = spec("submit", "End the episode with this answer.", ["answer"])
_ORDER = (Exactness.REPLAY, Exactness.FILESYSTEM, Exactness.EXACT)


class WorldSession:
    """The harness's handle on a world."""

    def __init__(self, world: World) -> None:
        self._world = world

    @property
    def tools(self) -> tuple[ToolSpec, ...]:
        return self._world.task.tools

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        events: list[Event] = []
        for call in calls:
            events.append(await self._world.act(call, left))
            if events[-1].ended:
                break
        return tuple(events)

    @property
    def can_fork(self) -> bool:
        return self._world.can_branch

    async def fork(self) -> WorldFork:
        return WorldFork(await self._world.branch(), of=self._world)


class WorldFork(WorldSession):
    """Implements `ForkedSession`."""

    def __init__(self, world: World, *, of: World) -> None:
        super().__init__(world)
        self._of = of

    async def merge(self, call: Call, left: Budget, *, overwrite: bool) -> Event:
        return await self._of.merge(call, left, self._world, overwrite=overwrite)

    async def close(self) -> None:
        await self._world.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What a snapshot holds."""

    tokens: tuple[object, ...]
    num_calls: int
    had_fault: bool
    submitted: str | None


class World:
    """Implements `Control`. `task.tools` are the components' tools, plus `SUBMIT` unless one of them ends the
    episode itself.

    Faults are keyed by (`noise_seed`, attempt, call number), so the same calls meet the same faults. Raises
    `ValueError` if two components, tools or captures have the same name.
    """

    def __init__(
        self,
        task: Task,
        components: Sequence[Component],
        attempt: AttemptId,
        *,
        noise_seed: int,
        faults: Mapping[str, FaultProfile] | None = None,
    ) -> None:
        self.task = task
        self._components, self._attempt, self._noise_seed = tuple(components), attempt, noise_seed
        self._faults = faults or {}
        _refuse_twice(task.id, "component", [component.name for component in self._components])
        _refuse_twice(
            task.id, "tool", [tool.name for component in self._components for tool in component.tools]
        )
        _refuse_twice(
            task.id,
            "capture",
            [_captures(component) or "(the whole workspace)" for component in self._components],
        )
        self._offers = {tool.name: component for component in self._components for tool in component.tools}
        self._known = {tool.name for tool in task.tools}
        self._num_calls, self._num_branches, self._had_fault = 0, 0, False
        self._submitted: str | None = None
        self._is_branch = False
        self._sealed: EpisodeArtifacts | None = None

    @property
    def session(self) -> Session:
        return WorldSession(self)

    @property
    def components(self) -> tuple[Component, ...]:
        """What it is made of."""
        return self._components

    async def act(self, call: Call, left: Budget) -> Event:
        """Raises `RuntimeError` after the end of the episode."""
        self._require_live()
        return self._event(call, await self._answer(call), left)

    @property
    def can_branch(self) -> bool:
        """Whether a fork of it can be merged again: it is one workspace and nothing else."""
        return len(self._components) == 1 and isinstance(self._components[0], Mergeable)

    async def branch(self) -> World:
        """A world that goes its own way from this state on, in which the episode cannot be ended; faults are
        drawn anew. Raises `Uncapturable`.
        """
        self._require_live()
        (component,) = self._components
        assert isinstance(component, Mergeable)
        self._num_branches += 1
        noise_seed = zlib.crc32(f"{self._noise_seed}/branch/{self._num_calls}/{self._num_branches}".encode())
        branch = await component.branch()
        child = World(self.task, [branch], self._attempt, noise_seed=noise_seed, faults=self._faults)
        child._is_branch = True
        return child

    async def merge(self, call: Call, left: Budget, branch: World, *, overwrite: bool) -> Event:
        """Takes over what a branch changed, as the answer to `call`."""
        self._require_live()
        (own,), (other,) = self._components, branch.components
        assert isinstance(own, Mergeable) and isinstance(other, Mergeable)
        found = await own.merge(other, overwrite=overwrite)
        if found.problem:
            answer = Answer(text=f"error: {found.problem}", fault=Fault.TOOL)
        elif found.conflicts:
            answer = Answer(text=f"conflict: {' '.join(found.conflicts)}", fault=Fault.TOOL)
        else:
            answer = Answer(text="merged" if found.num else "nothing to merge")
        return self._event(call, answer, left)

    def _require_live(self) -> None:
        if self._submitted is not None or self._sealed is not None:
            raise RuntimeError(f"{self.task.id}: the episode has ended; no call can follow")

    def _event(self, call: Call, answer: Answer, left: Budget) -> Event:
        text, cut = _readable(answer.text), 0
        if len(text) * 4 > self.task.limits.observation_bytes:
            text, cut = clip(text.encode(), self.task.limits.observation_bytes)
        self._submitted = answer.submitted
        self._num_calls += 1
        return Event(
            index=self._num_calls - 1,
            call=call,
            text=text,
            exit_code=answer.exit_code,
            fault=answer.fault,
            left=left,
            ended=answer.submitted is not None,
            truncated_bytes=answer.truncated_bytes + cut,
            wall_s=answer.wall_s,
            cpu_s=answer.cpu_s,
        )

    async def _answer(self, call: Call) -> Answer:
        if call.problem:
            return wrong(call.problem)
        if call.tool not in self._known:
            return wrong(f"{call.tool}: the tools are {', '.join(tool.name for tool in self.task.tools)}")
        try:
            component = self._offers.get(call.tool)
            if component is None and self._is_branch:
                return wrong(f"{SUBMIT.name}: only the world that this one was forked from can end")
            if component is None:
                return Answer(text="", submitted=text_of(call, "answer").strip())
            return await self._with_faults(component, call)
        except InvalidArguments as error:
            return wrong(error)

    async def _with_faults(self, component: Component, call: Call) -> Answer:
        timeout_s = self.task.limits.call_seconds
        faults = self._faults.get(call.tool, NO_FAULTS)
        if faults == NO_FAULTS:
            self._had_fault = False
            return await component.call(call, timeout_s=timeout_s)
        rng = random.Random(
            f"{self._noise_seed}/{self._attempt.group}.{self._attempt.slot}/{self._num_calls}"
        )
        fault, delay_s = faults.draw(rng)
        fault = None if self._had_fault else fault
        self._had_fault = fault is not None
        if delay_s:
            await anyio.sleep(min(delay_s, timeout_s))
        fault = "timeout" if delay_s >= timeout_s else fault
        if fault == "error":
            return Answer(text=faults.says, fault=Fault.TOOL)
        if fault != "timeout":
            answer = await component.call(call, timeout_s=timeout_s)
            if fault is None or answer.submitted is not None:
                return answer
        return Answer(text="timeout", fault=Fault.TIMEOUT)

    async def snapshot(self) -> WorldSnapshot:
        digest = await self.digest()
        tokens = tuple([await component.snapshot() for component in self._components])
        state = _State(
            tokens=tokens, num_calls=self._num_calls, had_fault=self._had_fault, submitted=self._submitted
        )
        exactness = min(
            (component.exactness for component in self._components), key=_ORDER.index, default=Exactness.EXACT
        )
        return WorldSnapshot(
            id=f"{digest}/{self._num_calls}", exactness=exactness, digest=digest, token=state
        )

    async def fork(self, snapshot: WorldSnapshot, attempt: AttemptId, *, same_noise: bool = True) -> Control:
        state = snapshot.token
        assert isinstance(state, _State)
        components = [
            await component.fork(token)
            for component, token in zip(self._components, state.tokens, strict=True)
        ]
        child = World(
            self.task,
            components,
            self._attempt if same_noise else attempt,
            noise_seed=self._noise_seed,
            faults=self._faults,
        )
        child._num_calls, child._had_fault, child._submitted = (
            state.num_calls,
            state.had_fault,
            state.submitted,
        )
        return child

    async def digest(self) -> str:
        if self._sealed is not None:
            return self._sealed.digest
        parts = {component.name: await _digest(component) for component in self._components}
        state = [self.task.id, self._submitted, parts]
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:32]

    async def seal(self) -> EpisodeArtifacts:
        if self._sealed is None:
            files: dict[str, bytes] = {}
            # Captures with fixed names come last, so that no file of a policy hides them.
            for component in sorted(self._components, key=lambda each: _captures(each) != ""):
                files |= await _capture(component)
            digest = await self.digest()
            await self.close()
            self._sealed = EpisodeArtifacts(
                task_id=self.task.id, submitted=self._submitted, files=files, digest=digest
            )
        return self._sealed

    async def close(self) -> None:
        for component in self._components:
            await component.close()


async def _capture(component: Component) -> Mapping[str, bytes]:
    """Empty if the policy left something that cannot be captured."""
    try:
        return await component.capture()
    except Uncapturable:
        return {}


async def _digest(component: Component) -> str:
    """Works for any state, also one that cannot be captured."""
    try:
        return await component.digest()
    except Uncapturable:
        return "uncapturable"


def _captures(component: Component) -> str:
    """Name or folder of its captured files: its own name by default; empty if the policy chooses them."""
    return str(getattr(component, "captures", component.name))


def _refuse_twice(task: str, what: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{task}: more than one {what} {', '.join(twice)}; give each a name of its own")


def _readable(text: str) -> str:
    """Replaces lone surrogates, which a policy can put into an argument and a message can repeat, but nothing
    can encode.
    """
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
