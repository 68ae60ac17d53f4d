"""The interface of a harness, and the agents that it drives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from agito.protocols.engine import Engine
from agito.protocols.renderer import Renderer
from agito.protocols.world import Session
from agito.types import AttemptId, Task, Thinking, Trajectory

MAIN = "main"  # the policy being trained


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSpec:
    """A policy in one role: rendering and sampling parameters."""

    renderer: Renderer
    policy: str = MAIN  # the policy's id within the run, recorded in each segment that it samples
    temperature: float = 1.0
    top_p: float = 1.0
    thinking: Thinking | None = None  # None: thinking is neither asked for nor limited
    tools: tuple[str, ...] | None = None  # tools that the role may call; None: all of the task
    instructions: str = ""  # in a team: before the task, or a child's brief
    turns: int | None = None  # in a team: of one agent in this role


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """A policy in one role, with its engine."""

    spec: AgentSpec
    engine: Engine


class Harness(Protocol):
    """Drives agents through a world; deterministic given task, tokens and events."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles that need an agent. A solo harness has one."""
        ...

    async def run(
        self, task: Task, session: Session, agents: Mapping[str, Agent], attempt: AttemptId, *, seed: int
    ) -> Trajectory:
        """One attempt, from start to end, with one agent per role. A failed attempt is a trajectory with a
        fault, never an exception."""
        ...
