"""What samples, what renders, and who drives them."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from agito.protocols.world import Session
from agito.types import (
    AttemptId,
    Call,
    Dialect,
    Effort,
    Event,
    FinishReason,
    Task,
    ToolSpec,
    Trajectory,
    VersionSpan,
)

MAIN = "main"  # the policy that a run is about


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRequest:
    """Append `extend` to a row, then sample until `stop_ids` or `max_tokens`. Randomness is keyed (`seed`,
    position).
    """

    extend: array[int]  # 'i'; observed tokens
    max_tokens: int  # >= 1; enforced, not hinted
    stop_ids: tuple[int, ...]
    temperature: float = 1.0  # 0 is greedy; the log-probabilities are then those at temperature 1
    top_p: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """What was sampled in one request, stop token included. Log-probabilities: natural, at the sampling
    temperature.
    """

    ids: array[int]  # 'i'
    logprobs: array[float]  # 'f'
    stopped: FinishReason
    # over the extended and the sampled positions, counted from the first extended one
    versions: tuple[VersionSpan, ...]


class Row(Protocol):
    """One growing sequence in an engine: open, then extend-and-sample any number of times, branch, close."""

    async def sample(self, request: SampleRequest) -> Sampled:
        """Raises `ValueError` when the row would outgrow the engine's context, is closed, or samples already,
        and `WorkerDied` when the engine is gone. A request that is cancelled closes the row.
        """
        ...

    def branch(self, seed: int) -> Row:
        """A second row that shares everything so far, and lives on without this one. Raises `ValueError`
        while this one samples, and when it is closed.
        """
        ...

    async def close(self) -> None:
        """Frees the row. Idempotent."""
        ...


class Engine(Protocol):
    """Something that samples. Who calls `open` in which order is part of what is sampled in
    on-policy mode.
    """

    @property
    def context(self) -> int:
        """Tokens that one row can hold."""
        ...

    def open(self, seed: int) -> Row:
        """A new, empty row; `seed` keys its random stream."""
        ...


class Renderer(Protocol):
    """Messages to tokens and back, in one dialect. Nothing is ever tokenised twice."""

    @property
    def dialect(self) -> Dialect: ...
    @property
    def stop_ids(self) -> tuple[int, ...]: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def chat_template(self) -> str:
        """Jinja, for `transformers`: the same tokens for the same messages."""
        ...

    def files(self) -> Mapping[str, str]:
        """What `transformers` reads its tokenizer and chat template from, by name."""
        ...

    def opening(self, task: Task) -> array[int]:
        """The prompt, up to and including the token that opens the policy's first turn."""
        ...

    def observation(self, events: Sequence[Event]) -> array[int]:
        """What follows the policy's end of turn: the events, then the token that opens its next turn."""
        ...

    def action(self, calls: Sequence[Call], tools: Sequence[ToolSpec]) -> array[int]:
        """The tokens with which a policy would make these calls, its end of turn included. For demonstrations
        only.
        """
        ...

    def parse(self, ids: Sequence[int], tools: Sequence[ToolSpec]) -> tuple[Call, ...]:
        """The calls in one sampled turn, at least one: what cannot be parsed becomes a call with
        a `problem`.
        """
        ...

    def channels(self, ids: Sequence[int]) -> bytes:
        """A `Channel` for every sampled token of one turn."""
        ...

    def text(self, ids: Sequence[int]) -> str:
        """For people, special tokens included."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSpec:
    """A policy in one role: how it reads and writes, and how it is sampled."""

    renderer: Renderer
    policy: str = MAIN  # its id within the run; each segment that it samples says it
    temperature: float = 1.0
    top_p: float = 1.0
    effort: Effort = Effort.NONE
    tools: tuple[str, ...] | None = None  # those that the role may call; None: all of the task


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """A policy in one role, with the engine that it is sampled from."""

    spec: AgentSpec
    engine: Engine


class Harness(Protocol):
    """Drives agents through a world; deterministic given task, tokens and events."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Those that it asks agents for. A solo harness has one."""
        ...

    async def run(
        self, task: Task, session: Session, agents: Mapping[str, Agent], attempt: AttemptId, *, seed: int
    ) -> Trajectory:
        """One attempt, to its end, by an agent for each role. A failed attempt is a trajectory with a fault,
        never an exception.
        """
        ...
