"""Policy and world: the two surfaces between them, and the protocol of an environment."""

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

# A scripted agent: yields a call, is sent the answering event, and returns when it is done.
Script: TypeAlias = Generator[Call, Event, None]


ScriptFactory: TypeAlias = Callable[[], Script]


@runtime_checkable
class TeamScript(Protocol):
    """Scripted agents of a team. Called like any script, it is the agent that begins."""

    def __call__(self) -> Script: ...
    def member(self, role: str, brief: str) -> Script:
        """A spawned agent, which knows its brief and nothing else."""
        ...


OPEN_LOOP = "open_loop"  # the negative control that acts from the prompt alone and ignores events


class Session(Protocol):
    """All that a harness can reach: the tools."""

    @property
    def tools(self) -> tuple[ToolSpec, ...]: ...

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        """Carries out `calls` in order; one event each, fewer when one of them ends the episode.

        A failing tool is an event with a fault, never an exception. Raises `RuntimeError` after the end of
        the episode, and `SandboxFailure` only when the machinery broke; a harness never sees the latter,
        because the driver ends the episode with an event.
        """
        ...


@runtime_checkable
class ForkingSession(Session, Protocol):
    """A session whose world may be forked, so that another agent works on a copy of it."""

    @property
    def can_fork(self) -> bool:
        """Whether its world is one that can be merged again."""
        ...

    async def fork(self) -> ForkedSession:
        """A world that goes its own way from this state on; processes are not carried over. Raises
        `Uncapturable` where the policy left something that cannot be copied.
        """
        ...


class ForkedSession(ForkingSession, Protocol):
    """The session of a fork. It has the world's tools, but cannot end the episode."""

    async def merge(self, call: Call, left: Budget, *, overwrite: bool) -> Event:
        """Takes over into the world that was forked what was changed in this one since: all of it or nothing.
        Where both changed the same, nothing is merged unless `overwrite`; the event of `call` names the
        paths, which are all that it tells of the fork.
        """
        ...

    async def close(self) -> None:
        """Destroys the fork. Idempotent; never raises."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldSnapshot:
    """A frozen live world. `token` is the environment's own handle."""

    id: str
    exactness: Exactness
    digest: str
    token: object


class Control(Protocol):
    """The trusted side's handle on one live world. Every method has a deadline, after which it raises
    `SandboxFailure`."""

    @property
    def session(self) -> Session: ...

    async def snapshot(self) -> WorldSnapshot:
        """Freezes, copies and thaws; the episode goes on."""
        ...

    async def fork(self, snapshot: WorldSnapshot, attempt: AttemptId, *, same_noise: bool = True) -> Control:
        """A new world that continues from `snapshot`. `same_noise=False` draws new faults from here on."""
        ...

    async def digest(self) -> str:
        """A canonical hash of the world's state: equal states have equal digests."""
        ...

    async def seal(self) -> EpisodeArtifacts:
        """Kills the agent's processes, captures the declared artefacts, and destroys the world.
        Idempotent."""
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
        """The declared success rate of guessing, which is the floor; the environment's page justifies it."""
        ...

    def task(
        self, *, split: str, index: int, seed: int, family: str | None = None, level: int | None = None
    ) -> tuple[Task, Target]:
        """The `index`-th task of a stream. A pure function of its arguments.

        Families and levels cycle evenly with `index` unless given. Raises `ValueError` for an unknown split,
        family or level.
        """
        ...

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        """A live world. Fault randomness is keyed by (`noise_seed`, attempt, call). Raises
        `SandboxFailure`."""
        ...

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        """A pure function of captured data. Whatever the policy left is judged as it stands. `Verdict.void`
        is only for failures of the machinery; it is confirmed beside a solved episode before it counts.
        Raises `SandboxFailure`."""
        ...

    def solutions(self, task: Task, target: Target) -> Sequence[ScriptFactory]:
        """Scripts that must earn full marks despite any faults; at least one."""
        ...

    def negative_controls(self, task: Task) -> Mapping[str, ScriptFactory]:
        """Scripts that must stay at the floor: doing nothing, guessing, claiming success; `open_loop`: the
        best that is possible without reading."""
        ...

    def demonstrator(self, task: Task, target: Target, *, skill: float, seed: int) -> ScriptFactory:
        """An imperfect script that covers every branch the task needs; `skill` in [0, 1] sets its success
        rate."""
        ...

    async def aclose(self) -> None:
        """Releases pools and processes. Idempotent."""
        ...
