"""An in-memory environment, small enough to read at once, which satisfies the whole environment contract.

A coin lies in one of several boxes. `open` looks into one and sometimes times out; `submit` ends the episode.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from agito.protocols import Control, Script, ScriptFactory, Session, WorldSnapshot
from agito.types import (
    AttemptId,
    Budget,
    Call,
    Dialect,
    EpisodeArtifacts,
    Event,
    Exactness,
    Fault,
    Json,
    Limits,
    Status,
    Target,
    Task,
    ToolSpec,
    Verdict,
)


def tool(name: str, description: str) -> ToolSpec:
    parameters: dict[str, Json] = {
        "type": "object",
        "properties": {"box": {"type": "string"}},
        "required": ["box"],
    }
    return ToolSpec(name=name, description=description, parameters=parameters)


TOOLS = (tool("open", "Look into a box."), tool("submit", "Say where the coin is; ends the episode."))


def call(name: str, box: object) -> Call:
    return Call(tool=name, arguments={"box": str(box)}, raw=f"{name} {box}")


class FakeSession:
    """Answers every call with `answer(call)`; `submit` ends the episode. Requests are recorded in `asked`."""

    def __init__(
        self,
        answer: Callable[[Call], str | Exception] = lambda call: "ok",
        tools: tuple[ToolSpec, ...] = TOOLS,
    ) -> None:
        self.tools, self._answer = tools, answer
        self.asked: list[tuple[tuple[Call, ...], Budget]] = []
        self.num_events = 0

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        self.asked.append((tuple(calls), left))
        events: list[Event] = []
        for one in calls:
            said = self._answer(one)
            if isinstance(said, Exception):
                raise said
            event = Event(index=self.num_events, call=one, text=said, left=left)
            if one.problem or one.tool not in {spec.name for spec in self.tools}:
                event = replace(event, text=f"error: {one.problem or 'no such tool'}", fault=Fault.POLICY)
            events.append(replace(event, ended=event.fault is None and one.tool == "submit"))
            self.num_events += 1
            if events[-1].ended:
                break
        return tuple(events)


class FakeEnvironment:
    name, version = "coin", "1"
    families, levels = ("coin",), (1, 2)
    splits = ("train", "heldout", "structural")
    chance_level = 0.125  # one guess among at least eight boxes

    def task(
        self, *, split: str, index: int, seed: int, family: str | None = None, level: int | None = None
    ) -> tuple[Task, Target]:
        if (
            split not in self.splits
            or (family or "coin") not in self.families
            or (level or 1) not in self.levels
        ):
            raise ValueError(
                f"split={split!r} family={family!r} level={level!r}: coin has {self.splits}, "
                f"{self.families}, {self.levels}"
            )
        level = level or self.levels[index % len(self.levels)]
        drawn = random.Random(f"{split}/{seed}/{index}/{level}").getrandbits(40)
        boxes = 8 * level + {"train": 0, "heldout": 3, "structural": 5}[split]
        ask = f"coin among {boxes}"
        task = Task(
            id=f"coin-{split}-{level}-{seed}-{index}",
            env=self.name,
            split=split,
            family="coin",
            level=level,
            prompt={
                Dialect.COMPACT: ask,
                Dialect.NATURAL: f"A coin lies in one of {boxes} boxes, numbered from zero. Find it.",
            },
            tools=TOOLS,
            limits=Limits(turns=60, calls=60, tokens=1 << 12),
        )
        return task, Target(task_id=task.id, seed=drawn, data={"boxes": boxes, "coin": drawn % boxes})

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        return FakeWorld(task, target, attempt, noise_seed)

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        reward = float(sealed.submitted == str(target.data["coin"]))
        return Verdict(status=Status.SCORED, reward=reward, scores={"success": reward}, grade_seed=grade_seed)

    def solutions(self, task: Task, target: Target) -> Sequence[ScriptFactory]:
        return (lambda: search(task, 1.0, 0),)

    def negative_controls(self, task: Task) -> Mapping[str, ScriptFactory]:
        boxes, rng = int(task.prompt[Dialect.COMPACT].split()[-1]), random.Random(task.id)
        few, any_of_them = rng.randrange(8), rng.randrange(boxes)
        return {
            "first": lambda: submit(0),
            "guess": lambda: submit(few),
            "open_loop": lambda: submit(any_of_them),
        }

    def demonstrator(self, task: Task, target: Target, *, skill: float, seed: int) -> ScriptFactory:
        return lambda: search(task, skill, seed)

    async def aclose(self) -> None:
        return


def submit(box: int) -> Script:
    yield call("submit", box)


def search(task: Task, skill: float, seed: int) -> Script:
    """Opens box after box, retrying timeouts; gives up with a total probability of 1 - `skill`."""
    rng = random.Random(seed)
    gives_up_at = rng.randrange(8) if rng.random() >= skill else None
    for box in range(1000):
        if box == gives_up_at:
            yield call("submit", "unknown")
            return
        event = yield call("open", box)
        while event.fault is Fault.TIMEOUT:
            event = yield call("open", box)
        if event.text == "coin":
            yield call("submit", box)
            return


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a snapshot of a fake world holds."""

    opened: tuple[str, ...]
    num_calls: int
    submitted: str | None
    attempt: AttemptId


class CoinSession:
    """All that a harness can reach of a world."""

    tools = TOOLS

    def __init__(self, world: FakeWorld) -> None:
        self._world = world

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        return await self._world.act(calls, left)


class FakeWorld:
    def __init__(self, task: Task, target: Target, attempt: AttemptId, noise_seed: int) -> None:
        self._task, self._key, self._attempt, self._noise_seed = task, target, attempt, noise_seed
        self._opened: tuple[str, ...] = ()
        self._num_calls = 0
        self._submitted: str | None = None
        self._sealed: EpisodeArtifacts | None = None

    @property
    def session(self) -> Session:
        return CoinSession(self)

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        events: list[Event] = []
        for one in calls:
            if self._submitted is not None or self._sealed is not None:
                raise RuntimeError(f"{self._task.id} has ended")
            event = self._answer(one)
            events.append(replace(event, index=self._num_calls, left=left))
            self._num_calls += 1
            if event.ended:
                break
        return tuple(events)

    def _answer(self, one: Call) -> Event:
        box = one.arguments.get("box")
        if one.problem or one.tool not in ("open", "submit") or not isinstance(box, str):
            return Event(
                index=0, call=one, text=one.problem or "write open BOX or submit BOX", fault=Fault.POLICY
            )
        if one.tool == "submit":
            self._submitted = box
            return Event(index=0, call=one, text="", ended=True)
        noise = random.Random(f"{self._noise_seed}/{self._attempt}/{self._num_calls}")
        if noise.random() < 0.2:
            return Event(index=0, call=one, text="timeout", fault=Fault.TIMEOUT)
        self._opened = (*self._opened, box)
        return Event(index=0, call=one, text="coin" if box == str(self._key.data["coin"]) else "empty")

    async def snapshot(self) -> WorldSnapshot:
        digest = await self.digest()
        state = State(
            opened=self._opened, num_calls=self._num_calls, submitted=self._submitted, attempt=self._attempt
        )
        return WorldSnapshot(id=digest, exactness=Exactness.EXACT, digest=digest, token=state)

    async def fork(self, snapshot: WorldSnapshot, attempt: AttemptId, *, same_noise: bool = True) -> Control:
        state = snapshot.token
        assert isinstance(state, State)
        child = FakeWorld(self._task, self._key, state.attempt if same_noise else attempt, self._noise_seed)
        child._opened, child._num_calls, child._submitted = state.opened, state.num_calls, state.submitted
        return child

    async def digest(self) -> str:
        state = [self._task.id, sorted(set(self._opened)), self._submitted]
        return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:32]

    async def seal(self) -> EpisodeArtifacts:
        if self._sealed is None:
            self._sealed = EpisodeArtifacts(
                task_id=self._task.id, submitted=self._submitted, files={}, digest=await self.digest()
            )
        return self._sealed

    async def close(self) -> None:
        return
