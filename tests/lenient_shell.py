"""The shell environment, lenient enough for a barely trained policy, and free of races that the policy could
cause."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from agito.envs.shell import ShellEnvironment
from agito.protocols import Control, Session, WorldSnapshot
from agito.types import (
    AttemptId,
    Budget,
    Call,
    EpisodeArtifacts,
    Event,
    Json,
    Status,
    Target,
    Task,
    ToolSpec,
    Verdict,
)

_CONCURRENT = str.maketrans("|&", "  ")


class LenientShell(ShellEnvironment):
    """Full marks for any submission with an even number of characters."""

    name = "lenient-shell"

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        return SerialWorld(await super().open(task, target, attempt, noise_seed=noise_seed))

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        reward = float(sealed.submitted is not None and len(sealed.submitted) % 2 == 0)
        return Verdict(status=Status.SCORED, reward=reward, scores={"success": reward}, grade_seed=grade_seed)


@dataclass(frozen=True)
class SerialSession:
    """The kernel decides which program in a pipe complains first, so there are no pipes and no jobs."""

    inner: Session

    @property
    def tools(self) -> tuple[ToolSpec, ...]:
        return self.inner.tools

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        return await self.inner.act([replace(call, arguments=_serial(call)) for call in calls], left)


@dataclass(frozen=True)
class SerialWorld:
    inner: Control

    @property
    def session(self) -> Session:
        return SerialSession(self.inner.session)

    async def snapshot(self) -> WorldSnapshot:
        return await self.inner.snapshot()

    async def fork(self, snapshot: WorldSnapshot, attempt: AttemptId, *, same_noise: bool = True) -> Control:
        return SerialWorld(await self.inner.fork(snapshot, attempt, same_noise=same_noise))

    async def digest(self) -> str:
        return await self.inner.digest()

    async def seal(self) -> EpisodeArtifacts:
        return await self.inner.seal()

    async def close(self) -> None:
        await self.inner.close()


def _serial(call: Call) -> dict[str, Json]:
    return {
        name: value.translate(_CONCURRENT) if isinstance(value, str) else value
        for name, value in call.arguments.items()
    }
