"""The seams: how rooms that never import one another meet.

Two surfaces stand between a policy and a world. `Session` is all that a harness can reach. `Control` belongs to the
trusted side. They are never handed to the same code.
"""

from __future__ import annotations

import socket
from array import array
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

from agito.types import (
    AttemptId,
    Budget,
    Call,
    Dialect,
    Event,
    Exactness,
    Fault,
    Group,
    Key,
    Sample,
    Sealed,
    Stop,
    Task,
    ToolSpec,
    Trajectory,
    Verdict,
    VersionSpan,
)

# A scripted agent: yields a call, is sent the event that answers it, returns when it has nothing more to do.
Script: TypeAlias = Generator[Call, Event, None]
ScriptFactory: TypeAlias = Callable[[], Script]

OPEN_LOOP = "open_loop"  # the impostor that acts from the prompt alone: it looks at no event


# ---- policy and world ------------------------------------------------------------------------------------------------


class Session(Protocol):
    """What a harness can reach: the tools, and nothing else."""

    @property
    def tools(self) -> tuple[ToolSpec, ...]: ...

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        """Carries out `calls` in order; one event each, fewer when one of them ends the episode.

        A failing tool is an event with a fault, never an exception. Raises `SandboxFailure` only when the machinery itself
        broke, and `RuntimeError` after the end of the episode. A harness never sees the former: the driver ends the episode by an event.
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
    """The trusted side's hold on one live world. Every method has a deadline and raises `SandboxFailure` past it."""

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

    async def seal(self) -> Sealed:
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

    def task(self, *, split: str, index: int, seed: int, family: str | None = None, level: int | None = None) -> tuple[Task, Key]:
        """The `index`-th task of a stream. A pure function of its arguments.

        Families and levels rotate evenly with `index` unless fixed. Raises `ValueError` for an unknown split, family or level.
        """
        ...

    async def open(self, task: Task, key: Key, attempt: AttemptId, *, noise_seed: int) -> Control:
        """A live world. Fault randomness is keyed by (`noise_seed`, attempt, call). Raises `SandboxFailure`."""
        ...

    async def grade(self, sealed: Sealed, key: Key, grade_seed: int) -> Verdict:
        """A pure function of captured data. What the policy left there is judged as it stands; `Verdict.void` is for what the machinery
        could not judge, and is asked again beside a solved episode before it is believed. Raises `SandboxFailure`."""
        ...

    def solutions(self, task: Task, key: Key) -> Sequence[ScriptFactory]:
        """Scripts that must earn full marks whatever faults they meet; at least one."""
        ...

    def impostors(self, task: Task) -> Mapping[str, ScriptFactory]:
        """Scripts that must stay at the floor: doing nothing, guessing, claiming; `open_loop`: all that can be had without reading."""
        ...

    def demonstrator(self, task: Task, key: Key, *, skill: float, seed: int) -> ScriptFactory:
        """An imperfect script that covers every branch the task needs; `skill` in [0, 1] tunes its success."""
        ...

    async def aclose(self) -> None:
        """Releases pools and processes. Idempotent."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One figure of how a decision was made. `decision`: a, when to stop thinking and act; b, which tool in which order; c, integrating
    noisy observations; d, revising the plan after failure; e, staying coherent."""

    name: str
    decision: str
    title: str
    is_share: bool = False  # shown in per cent
    higher_is_better: bool = False
    optimum_is_best: bool = True  # False: it tells what was spent, not how well it was decided


@runtime_checkable
class Measured(Protocol):
    """An environment that also says how well each attempt decided, whatever came of it. Optional."""

    @property
    def measured(self) -> tuple[Measure, ...]: ...
    def measures(self, task: Task, key: Key, trajectory: Trajectory) -> Mapping[str, float]:
        """On the trusted side, from the events; by name. What an attempt says nothing about is left out."""
        ...


@runtime_checkable
class Informed(Protocol):
    """An environment whose tasks no script can solve without the target, not even its own. Optional: the audit refuses them otherwise."""

    @property
    def solutions_need_key(self) -> str:
        """Why, in a sentence."""
        ...


@runtime_checkable
class Validated(Protocol):
    """An environment that can judge an attempt in a second, better way, which no policy is ever rewarded by."""

    async def gold(self, sealed: Sealed, key: Key, grade_seed: int) -> Verdict:
        """As `Environment.grade`, on the same scale; it may cost more. Asked about a share of attempts: see `agito.grading.monitor`."""
        ...


@runtime_checkable
class Ranged(Protocol):
    """An environment whose rewards are not between 0 and 1. Optional."""

    @property
    def reward_range(self) -> tuple[float, float]:
        """The lowest and the highest reward that a verdict can give."""
        ...


@runtime_checkable
class Isolated(Protocol):
    """An environment that knows what keeps its episodes in. Optional."""

    @property
    def isolation_tier(self) -> str:
        """Such as `native+cgroup` or `in memory`; `unknown` before an episode has been opened."""
        ...


@runtime_checkable
class Answered(Protocol):
    """An environment that says which texts would give a task away, so that an attempt which read one is flagged. Optional."""

    def answers(self, task: Task, key: Key) -> Sequence[str]:
        """What no observation should hold word for word before the agent has said it itself. Those under six characters are not looked
        for: they turn up by chance."""
        ...


# ---- policy ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRequest:
    """Append `extend` to a row, then sample until `stop_ids` or `max_tokens`. Randomness is keyed (`seed`, position)."""

    extend: array[int]  # 'i'; observed tokens
    max_tokens: int  # >= 1; enforced, not hinted
    stop_ids: tuple[int, ...]
    temperature: float = 1.0  # 0 is greedy; the log-probabilities are then those at temperature 1
    top_p: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """What was sampled in one request, stop token included. Log-probabilities: natural, at the sampling temperature."""

    ids: array[int]  # 'i'
    logprobs: array[float]  # 'f'
    stopped: Stop
    versions: tuple[VersionSpan, ...]  # over the extended and the sampled positions, counted from the first extended one


class Row(Protocol):
    """One growing sequence in an engine: open, then extend-and-sample any number of times, branch, close."""

    async def sample(self, request: SampleRequest) -> Sampled:
        """Raises `ValueError` when the row would outgrow the engine's context, is closed, or samples already, and `WorkerDied` when the
        engine is gone. A request that is cancelled closes the row."""
        ...

    def branch(self, seed: int) -> Row:
        """A second row that shares everything so far, and lives on without this one. Raises `ValueError` while this one samples, and when
        it is closed."""
        ...

    async def close(self) -> None:
        """Frees the row. Idempotent."""
        ...


class Engine(Protocol):
    """Something that samples. Who calls `open` in which order is part of what is sampled in on-policy mode."""

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

    def opening(self, task: Task) -> array[int]:
        """The prompt, up to and including the token that opens the policy's first turn."""
        ...

    def observation(self, events: Sequence[Event]) -> array[int]:
        """What follows the policy's end of turn: the events, then the token that opens its next turn."""
        ...

    def action(self, calls: Sequence[Call], tools: Sequence[ToolSpec]) -> array[int]:
        """The tokens with which a policy would make these calls, its end of turn included. For demonstrations only."""
        ...

    def parse(self, ids: Sequence[int], tools: Sequence[ToolSpec]) -> tuple[Call, ...]:
        """The calls in one sampled turn, at least one: what cannot be parsed becomes a call with a `problem`."""
        ...

    def channels(self, ids: Sequence[int]) -> bytes:
        """A `Channel` for every sampled token of one turn."""
        ...

    def text(self, ids: Sequence[int]) -> str:
        """For people, special tokens included."""
        ...


class Harness(Protocol):
    """Drives a policy through a world; deterministic given task, tokens and events."""

    async def run(self, task: Task, session: Session, engine: Engine, renderer: Renderer, attempt: AttemptId, *, seed: int) -> Trajectory:
        """One attempt, to its end. A failed attempt is a trajectory with a fault, never an exception."""
        ...


# ---- learning --------------------------------------------------------------------------------------------------------


class Credit(Protocol):
    """Group to token advantages."""

    def __call__(self, group: Group, *, running_mean: float) -> tuple[Sample, ...]:
        """Samples of the scored attempts. `running_mean` is of the trusted rewards in the group's cell, NaN where there were none: the
        baseline of a penalised attempt without a trusted peer. Raises `ValueError` for a void group."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStats:
    """Figures of one optimizer step, already reduced over ranks; names are `area/name_unit`."""

    version: int
    values: Mapping[str, float]


class Trainer(Protocol):
    """Owns the weights that learn. Knows nothing of ranks, groups or worlds."""

    def step(self, samples: Sequence[Sample]) -> StepStats: ...
    def imitate(self, samples: Sequence[Sample]) -> StepStats:
        """One supervised step on the trainable tokens; advantages and log-probabilities are ignored."""
        ...


# ---- the sandbox -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSpec:
    """What one sandbox looks like and may use. Sizes in MiB, times in seconds."""

    work_mb: int = 64
    tmp_mb: int = 16
    mem_mb: int = 512
    procs: int = 64
    fsize_mb: int = 32
    cpu_s: float = 60.0
    output_bytes: int = 64_000  # kept of one result: head and tail
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    base: str | None = None  # a read-only lower directory under the workspace
    path: str | None = None  # PATH inside; None: /usr/local/bin:/usr/bin:/bin
    tools: tuple[str, ...] | None = None  # only these programs are on PATH; None: all


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one action in a sandbox did. Everything in it is controlled by the episode, the exit code included."""

    exit_code: int | None  # None when it was killed from outside
    output: bytes  # stdout and stderr, interleaved; head and tail when truncated
    total_bytes: int
    fault: Fault | None = None
    killed_by: str | None = None  # "deadline", "memory", "signal 9", "pid 1 silent", ...
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_mb: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A process that runs on inside, by the host's ends of its pipes: non-blocking descriptors. Whoever asked for it closes them."""

    stdin: int
    stdout: int
    stderr: int


class Standing(Protocol):
    """A workspace as it stood at one moment."""

    def is_as_it_was(self) -> bool:
        """Whether nothing was made, changed, renamed, linked, touched or removed since. Kill everything first."""
        ...


class Sandbox(Protocol):
    """One episode's box. Methods raise `SandboxFailure` when the box itself is gone or silent."""

    async def sh(self, command: str, *, timeout_s: float = 30.0) -> Result:
        """A fresh `bash -c`; working directory and exported variables carry over."""
        ...

    async def py(self, code: str, *, timeout_s: float = 30.0, cpu_s: float | None = None) -> Result:
        """A snippet in a fresh fork of the warm interpreter. With `cpu_s`, the processor time of the whole process tree is bounded."""
        ...

    async def read(self, path: str, *, limit_bytes: int = 1 << 20) -> bytes:
        """A regular file beneath the workspace, read by the host. Raises `NotFound`; `ValueError` for a link, a device, a path outside."""
        ...

    async def write(self, files: Mapping[str, bytes | str], *, executable: Sequence[str] = ()) -> None:
        """Writes files beneath the workspace, making directories. Raises `ValueError` for a path outside."""
        ...

    async def files(self, *, limit_bytes: int = 1 << 22, under: str = "") -> dict[str, bytes]:
        """Every regular file beneath the workspace, or beneath its folder `under`, read by the host, links never followed.

        Raises `Uncapturable` for what the policy left too large, too deep or too long to be captured whole.
        """
        ...

    async def standing(self) -> Standing:
        """What stands in the workspace now, to be compared with later."""
        ...

    async def kill(self) -> None:
        """Kills everything inside but pid 1, services too."""
        ...

    async def launch(self, command: str) -> Service:
        """`bash -c`, kept until it ends, the sandbox does, or everything inside is killed."""
        ...

    async def connect(self, port: int, *, timeout_s: float = 5.0) -> socket.socket:
        """A TCP connection to a server inside, waiting until one listens. Raises `TimeoutError`. The caller closes it."""
        ...

    async def listen(self, port: int = 0) -> socket.socket:
        """A TCP listener inside, which the host accepts on; nothing outside can connect to it. Raises `OSError`: the port is taken."""
        ...

    async def snapshot(self) -> str:
        """Freezes, copies, thaws; returns a layer's id. Raises `Uncapturable` where what runs inside cannot be frozen."""
        ...

    async def close(self) -> None:
        """Idempotent; never raises."""
        ...


class SandboxPool(Protocol):
    """Where sandboxes come from."""

    @property
    def tier(self) -> str:
        """Such as `native+cgroup` or `native+watchdog`."""
        ...

    async def start(self, spec: SandboxSpec) -> Sandbox:
        """Raises `NoIsolation` or `SandboxFailure`."""
        ...

    async def fork(self, snapshot: str) -> Sandbox: ...
    async def drop(self, snapshot: str) -> None: ...
    async def aclose(self) -> None: ...
