"""Engines that sample, renderers, and harnesses that drive them."""

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
    Event,
    FinishReason,
    Task,
    Thinking,
    ToolSpec,
    Trajectory,
    VersionSpan,
)

MAIN = "main"  # the policy being trained


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstToken:
    """The first token is this one, or any other: drawn from the rest of the distribution. Its log-probability
    is that of the whole distribution, as if nothing had been asked."""

    id: int
    is_wanted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRequest:
    """Append `extend` to a row, then sample until `stop_ids` or `max_tokens`. Randomness is keyed by (`seed`,
    position)."""

    extend: array[int]  # 'i'; observed tokens
    max_tokens: int  # >= 1; a hard limit
    stop_ids: tuple[int, ...]
    temperature: float = 1.0  # 0 is greedy, with log-probabilities at temperature 1
    top_p: float = 1.0
    first: FirstToken | None = None  # what is known of the first token; None: nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """The tokens of one request, including the stop token, with natural log-probabilities at the sampling
    temperature."""

    ids: array[int]  # 'i'
    logprobs: array[float]  # 'f'
    stopped: FinishReason
    # Over the extended and the sampled positions, counted from the first extended one.
    versions: tuple[VersionSpan, ...]


class Row(Protocol):
    """One growing sequence in an engine: open, then extend-and-sample any number of times, branch, close."""

    async def sample(self, request: SampleRequest) -> Sampled:
        """Raises `ValueError` when the row would exceed the engine's context, is closed, or is already
        sampling, and `WorkerDied` when the engine is gone. Cancelling a request closes the row."""
        ...

    def branch(self, seed: int) -> Row:
        """A second row with the same content that outlives this one. Raises `ValueError` while this one is
        sampling or after it is closed."""
        ...

    async def close(self) -> None:
        """Frees the row. Idempotent."""
        ...


class Engine(Protocol):
    """Samples tokens. In on-policy mode the order of `open` calls determines what is sampled."""

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
        """A Jinja template with which `transformers` renders the same messages to the same tokens."""
        ...

    def files(self) -> Mapping[str, str]:
        """Files from which `transformers` reads tokenizer and chat template, by name."""
        ...

    def opening(self, task: Task) -> array[int]:
        """The prompt, up to and including the token that opens the policy's first turn."""
        ...

    def observation(self, events: Sequence[Event]) -> array[int]:
        """The tokens after the policy's end of turn: the events, then the token that opens its next turn."""
        ...

    def action(self, calls: Sequence[Call], tools: Sequence[ToolSpec]) -> array[int]:
        """The tokens by which a policy would make these calls, including its end of turn. For demonstrations
        only."""
        ...

    def parse(self, ids: Sequence[int], tools: Sequence[ToolSpec]) -> tuple[Call, ...]:
        """The calls in one sampled turn, at least one; text that cannot be parsed becomes a call with a
        `problem`."""
        ...

    def channels(self, ids: Sequence[int]) -> bytes:
        """A `Channel` for every sampled token of one turn."""
        ...

    def text(self, ids: Sequence[int]) -> str:
        """For people, special tokens included."""
        ...


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
