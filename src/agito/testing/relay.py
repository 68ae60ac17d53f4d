"""A world whose tools only take time, to measure how well waiting overlaps with computing.

Every episode has the same number of turns whatever the policy says, and every other attempt of a group is
rewarded, so the work is the same in every run. A share `zero_variance` of the groups has equal rewards and
teaches nothing. The latency of a call is keyed by (seed, attempt, call): runs with the same seed wait equally
long.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import anyio

from agito.protocols import Control, Script, ScriptFactory, Session, WorldSnapshot
from agito.types import (
    AttemptId,
    Budget,
    Call,
    Dialect,
    EpisodeArtifacts,
    Event,
    Limits,
    Status,
    Target,
    Task,
    ToolSpec,
    Verdict,
)

HEAVY_MEDIAN_S, HEAVY_RATIO = 0.2, 20.0  # p99 over median
_SIGMA = math.log(HEAVY_RATIO) / 2.3263


def latency_s(name: str, attempt: AttemptId, call: int, *, seed: int = 0) -> float:
    """`0`, `0.05`, `1`: constant seconds. `heavy`: log-normal, median 0.2 s, p99 20 times the median."""
    if name != "heavy":
        return float(name)
    return HEAVY_MEDIAN_S * math.exp(_SIGMA * random.Random(f"{seed}/{attempt}/{call}").gauss())


_TOOL = ToolSpec(
    name="sh",
    description="Waits.",
    parameters={"type": "object", "properties": {"command": {"type": "string"}}},
)


class Relay:
    name, version = "relay", "1"
    families, levels = ("relay",), (1,)
    splits = ("train", "heldout", "structural")
    chance_level = 0.5

    def __init__(
        self,
        latency: str = "0",
        *,
        turns: int = 6,
        turn_tokens: int = 16,
        words: int = 8,
        zero_variance: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._turns, self._turn_tokens, self._words, self._zero_variance = (
            turns,
            turn_tokens,
            words,
            zero_variance,
        )
        self._latency_s = partial(latency_s, latency, seed=seed)

    def task(
        self, *, split: str, index: int, seed: int, family: str | None = None, level: int | None = None
    ) -> tuple[Task, Target]:
        task = Task(
            id=f"relay-{split}-{seed}-{index}",
            env=self.name,
            split=split,
            family="relay",
            level=1,
            prompt={Dialect.COMPACT: f"relay {index}", Dialect.NATURAL: f"Relay {index}."},
            tools=(_TOOL,),
            limits=Limits(
                turns=self._turns,
                calls=self._turns * 8,
                tokens=1 << 12,
                turn_tokens=self._turn_tokens,
                seconds=600.0,
            ),
        )
        has_none = math.floor((index + 1) * self._zero_variance) > math.floor(index * self._zero_variance)
        return task, Target(task_id=task.id, seed=seed, data={"zero_variance": has_none})

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        return _World(task, attempt, self._latency_s, self._words)

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        reward = 1.0 if target.data["zero_variance"] else float(sealed.submitted or 0)
        return Verdict(status=Status.SCORED, reward=reward, scores={"success": reward}, grade_seed=grade_seed)

    def solutions(self, task: Task, target: Target) -> Sequence[ScriptFactory]:
        return (lambda: _wait(self._turns),)

    def negative_controls(self, task: Task) -> Mapping[str, ScriptFactory]:
        return {}

    def demonstrator(self, task: Task, target: Target, *, skill: float, seed: int) -> ScriptFactory:
        return lambda: _wait(self._turns)

    async def aclose(self) -> None:
        return


def _wait(turns: int) -> Script:
    for _ in range(turns):
        yield Call(tool="sh", arguments={"command": "wait"})


class _World:
    def __init__(
        self, task: Task, attempt: AttemptId, latency_s: Callable[[AttemptId, int], float], words: int
    ) -> None:
        self._task, self._attempt, self._latency_s, self._words = task, attempt, latency_s, words
        self._num_calls = self._num_acts = 0

    @property
    def session(self) -> Session:
        return _Session(self, self._task.tools)

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        await anyio.sleep(self._latency_s(self._attempt, self._num_acts))
        self._num_acts += 1
        text = " ".join(f"word{(self._attempt.slot + number) % 7}" for number in range(self._words))
        events = [
            Event(index=self._num_calls + at, call=call, text=text, left=left)
            for at, call in enumerate(calls[:1])
        ]
        self._num_calls += len(events)
        return tuple(events)

    async def snapshot(self) -> WorldSnapshot:
        raise NotImplementedError("nothing to keep")

    async def fork(self, snapshot: WorldSnapshot, attempt: AttemptId, *, same_noise: bool = True) -> Control:
        raise NotImplementedError("nothing to go on from")

    async def digest(self) -> str:
        return f"{self._task.id}/{self._attempt}/{self._num_acts}"

    async def seal(self) -> EpisodeArtifacts:
        return EpisodeArtifacts(
            task_id=self._task.id, submitted=str(self._attempt.slot % 2), files={}, digest=await self.digest()
        )

    async def close(self) -> None:
        return


class _Session:
    def __init__(self, world: _World, tools: tuple[ToolSpec, ...]) -> None:
        self._world, self.tools = world, tools

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        return await self._world.act(calls, left)
