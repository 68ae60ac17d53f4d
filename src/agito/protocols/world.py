"""Policy and world: the two surfaces between them, and what an environment is."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from agito.types import (
    AttemptId,
    Budget,
    Call,
    EpisodeArtifacts,
    Event,
    Exactness,
    Target,
    Task,
    ToolSpec,
    Verdict,
)

# A scripted agent: yields a call, is sent the event that answers it, returns when it has nothing more to do.
Script: TypeAlias = Generator[Call, Event, None]


ScriptFactory: TypeAlias = Callable[[], Script]


OPEN_LOOP = "open_loop"  # the negative control that acts from the prompt alone: it looks at no event


class Session(Protocol):
    """What a harness can reach: the tools, and nothing else."""

    @property
    def tools(self) -> tuple[ToolSpec, ...]: ...

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        """Carries out `calls` in order; one event each, fewer when one of them ends the episode.

        A failing tool is an event with a fault, never an exception. Raises `SandboxFailure` only when the
        machinery itself broke, and `RuntimeError` after the end of the episode. A harness never sees the
        former: the driver ends the episode by an event.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldSnapshot:
    """A live world, frozen. `token` is the environment's own handle."""

    id: str
    exactness: Exactness
    digest: str
    token: object


class Control(Protocol):
    """The trusted side's hold on one live world. Every method has a deadline and raises `SandboxFailure` past
    it.
    """

    @property
    def session(self) -> Session: ...

    async def snapshot(self) -> WorldSnapshot:
        """Freezes, copies and thaws; the episode goes on."""
        ...

    async def fork(self, snapshot: WorldSnapshot, attempt: AttemptId, *, same_noise: bool = True) -> Control:
        """A new world that continues from `snapshot`. `same_noise=False` draws the faults to come afresh."""
        ...

    async def digest(self) -> str:
        """A canonical hash of the world's state: equal states, equal digests."""
        ...

    async def seal(self) -> EpisodeArtifacts:
        """Kills the agent's processes, captures the declared artefacts, destroys the world. Idempotent."""
        ...

    async def close(self) -> None:
        """Destroys the world. Idempotent; never raises."""
        ...


@runtime_checkable
class Environment(Protocol):
    """A distribution of tasks, their worlds and their verdicts."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def families(self) -> tuple[str, ...]: ...
    @property
    def levels(self) -> tuple[int, ...]: ...
    @property
    def splits(self) -> tuple[str, ...]:
        """At least `train`, `heldout` (other seeds) and `structural` (another structure)."""
        ...

    @property
    def chance_level(self) -> float:
        """The declared success of guessing, which is the floor; the environment's page justifies it."""
        ...

    def task(
        self, *, split: str, index: int, seed: int, family: str | None = None, level: int | None = None
    ) -> tuple[Task, Target]:
        """The `index`-th task of a stream. A pure function of its arguments.

        Families and levels rotate evenly with `index` unless fixed. Raises `ValueError` for an unknown split,
        family or level.
        """
        ...

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        """A live world. Fault randomness is keyed by (`noise_seed`, attempt, call). Raises
        `SandboxFailure`.
        """
        ...

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        """A pure function of captured data. What the policy left there is judged as it stands; `Verdict.void`
        is for what the machinery could not judge, and is asked again beside a solved episode before it is
        believed. Raises `SandboxFailure`.
        """
        ...

    def solutions(self, task: Task, target: Target) -> Sequence[ScriptFactory]:
        """Scripts that must earn full marks whatever faults they meet; at least one."""
        ...

    def negative_controls(self, task: Task) -> Mapping[str, ScriptFactory]:
        """Scripts that must stay at the floor: doing nothing, guessing, claiming; `open_loop`: all that can
        be had without reading.
        """
        ...

    def demonstrator(self, task: Task, target: Target, *, skill: float, seed: int) -> ScriptFactory:
        """An imperfect script that covers every branch the task needs; `skill` in [0, 1] tunes
        its success.
        """
        ...

    async def aclose(self) -> None:
        """Releases pools and processes. Idempotent."""
        ...
