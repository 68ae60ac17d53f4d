"""The records of one path of data, from a task to a sample; standard library only.

In the order in which they are made: `Task` and `Target`, `Call`, `Event`, `Turn`, `Segment`, `Trajectory`, `Verdict`, `Group`,
`Sample`. Everything is frozen, tuples inside, lengths checked at birth. Text in these records is for people; training
reads token columns only.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import TypeAlias

Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"


class Fault(StrEnum):
    """Who or what is to blame when something did not work."""

    POLICY = "policy"  # the policy's own mistake: an unparsable call, an unknown tool
    TOOL = "tool"  # the tool failed, as tools do
    TIMEOUT = "timeout"  # the tool did not answer within its deadline
    BUDGET = "budget"  # tokens, calls or seconds are used up
    TASK = "task"  # the task itself is broken
    ENV = "env"  # the environment's own code failed
    INFRA = "infra"  # the machinery around it failed; the attempt is void


class Dialect(StrEnum):
    """How one latent task is put into words."""

    COMPACT = "compact"  # terse; learnable from random weights
    NATURAL = "natural"  # JSON tools and prose, for language models


class Effort(StrEnum):
    """How much thinking is asked for."""

    NONE = "none"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    AUTO = "auto"


class TokenSource(IntEnum):
    """Where a token came from; only `SAMPLED` and sampled `CONTROL` tokens are trained on."""

    OBSERVED = 0  # prompt and observations
    SAMPLED = 1  # drawn by the policy
    FORCED = 2  # put there by the system, such as a budget stop
    CONTROL = 3  # a sampled control token: end of turn, end of thinking


class Channel(IntEnum):
    """What a token is for."""

    TEXT = 0
    THINK = 1
    CALL = 2


class FinishReason(StrEnum):
    """Why the policy's turn ended."""

    END = "end"  # it sampled its end-of-turn token
    LENGTH = "length"  # its token budget was used up
    CANCELLED = "cancelled"


class Status(StrEnum):
    """Whether there is a verdict at all; void is never zero."""

    SCORED = "scored"
    VOID = "void"


class Exactness(StrEnum):
    """What a snapshot holds."""

    EXACT = "exact"  # processes too
    FILESYSTEM = "filesystem"  # files, working directory and variables
    REPLAY = "replay"  # nothing: the episode is acted again up to this event


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class AttemptId:
    """The ledger's key. `group` is unique within a run; a void slot is tried again."""

    group: int
    slot: int
    tries: int = 0

    def __str__(self) -> str:
        return f"{self.group}.{self.slot}.{self.tries}"

    @classmethod
    def parse(cls, text: str) -> AttemptId:
        """Raises `ValueError` unless `text` reads GROUP.SLOT or GROUP.SLOT.TRY."""
        parts = text.split(".")
        if len(parts) not in (2, 3) or not all(part.isdigit() for part in parts):
            raise ValueError(f"attempt={text!r}: write GROUP.SLOT or GROUP.SLOT.TRY, such as 12.3")
        group, slot, *rest = (int(part) for part in parts)
        return cls(group=group, slot=slot, tries=rest[0] if rest else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A tool as the policy sees it. `parameters` is a JSON schema of an object."""

    name: str
    description: str
    parameters: Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one attempt may spend. An attempt that reaches a limit ends there and is scored as it stands."""

    turns: int = 12
    calls: int = 12
    tokens: int = 384  # the whole context, observations included
    turn_tokens: int = 48  # sampled in one turn
    seconds: float = 60.0  # wall time that the world may take to answer, over the whole attempt
    call_seconds: float = 5.0  # one tool call
    observation_bytes: int = 2048  # what the policy reads of one result: head and tail


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What the policy may see. Seeds and answers are not part of it."""

    id: str  # unique within (env, version)
    env: str
    split: str
    family: str
    level: int
    prompt: Mapping[Dialect, str]
    tools: tuple[ToolSpec, ...]
    limits: Limits = field(default_factory=Limits)
    natural_limits: Limits | None = None  # in the natural dialect, which takes several times the tokens; None: as `limits`
    tags: tuple[str, ...] = ()  # what an analyst groups by, such as "fallback"; never rendered

    @property
    def cell(self) -> str:
        return f"{self.family}-{self.level}"

    def in_dialect(self, dialect: Dialect) -> Task:
        """This task with the limits of one dialect, which hold from here on."""
        limits = self.natural_limits if dialect is Dialect.NATURAL and self.natural_limits is not None else self.limits
        return replace(self, limits=limits, natural_limits=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What only the trusted side may see: how to build the world and how to judge it."""

    task_id: str
    seed: int
    data: Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One action. `raw` is the text that the policy sampled; `problem` says why it could not be parsed."""

    tool: str
    arguments: Mapping[str, Json]
    raw: str = ""
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What is left of an attempt."""

    turns: int
    calls: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What the world answered to one call."""

    index: int  # of the call within the attempt, from 0
    call: Call
    text: str  # what the policy reads
    exit_code: int | None = None
    fault: Fault | None = None
    left: Budget | None = None
    ended: bool = False  # the episode ended by this value
    truncated_bytes: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSpan:
    """Positions [start, stop) were processed by weights of this version."""

    start: int
    stop: int
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Columns of equal length, one entry a token."""

    ids: array[int]  # 'i'
    logprobs: array[float]  # 'f', natural log at the sampling temperature; NaN where nothing was sampled
    kinds: bytes  # TokenSource
    channels: bytes  # Channel
    versions: tuple[VersionSpan, ...]  # contiguous, from 0 to the end

    def __post_init__(self) -> None:
        n = len(self.ids)
        if not (len(self.logprobs) == len(self.kinds) == len(self.channels) == n):
            raise ValueError(f"token columns differ in length: {n}, {len(self.logprobs)}, {len(self.kinds)}, {len(self.channels)}")
        at = 0
        for span in self.versions:
            if span.start != at or span.stop <= span.start:
                raise ValueError(f"version spans leave a gap or overlap at position {at}: {self.versions}")
            at = span.stop
        if at != n:
            raise ValueError(f"version spans cover {at} of {n} tokens")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def is_sampled(self) -> list[bool]:
        return [kind in (TokenSource.SAMPLED, TokenSource.CONTROL) for kind in self.kinds]

    def version_at(self, position: int) -> int:
        for span in self.versions:
            if span.start <= position < span.stop:
                return span.version
        raise IndexError(position)

    def oldest_version(self) -> int:
        return min((span.version for span in self.versions), default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One stretch of sampling: positions [start, stop) of its segment."""

    segment: int
    start: int
    stop: int
    stopped: FinishReason
    effort: Effort = Effort.NONE
    hard_budget: int = 0  # sampled tokens allowed in this turn
    temperature: float = 1.0
    top_p: float = 1.0
    calls: tuple[int, ...] = ()  # indices into the trajectory's events


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """An append-only run of tokens by one agent. A solo agent has one; a rewritten history opens a new one."""

    id: int
    tokens: Tokens
    parent: int | None = None
    prefix_len: int = 0  # tokens shared with the parent
    agent: str = "solo"
    role: str = "solo"
    policy: str = "main"
    spawned_by: int | None = None  # event index


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Where a forked attempt came from."""

    parent: AttemptId
    event: int
    snapshot: str


class TerminationReason(StrEnum):
    """How an attempt ended."""

    SUBMITTED = "submitted"
    TURNS = "turns"
    CALLS = "calls"
    TOKENS = "tokens"
    SECONDS = "seconds"
    ABANDONED = "abandoned"  # the harness stopped it
    FAILED = "failed"  # see `fault`


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One attempt, as it happened."""

    attempt: AttemptId
    task: Task
    segments: tuple[Segment, ...]
    turns: tuple[Turn, ...]
    events: tuple[Event, ...]
    end: TerminationReason
    fault: Fault | None = None
    detail: str = ""  # one line for people when `fault` is set
    lineage: Lineage | None = None
    wall_s: float = 0.0

    @property
    def num_sampled(self) -> int:
        return sum(turn.stop - turn.start for turn in self.turns)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeArtifacts:
    """A finished world as data: what the grader reads after every process of the agent is dead.

    `digest` hashes `files`, `submitted` and the world's own state canonically.
    """

    task_id: str
    submitted: str | None
    files: Mapping[str, bytes]
    digest: str


ANSWER = "the answer"  # where a flag stands that is about what was submitted


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A sign of cheating that a grader saw. Proof is hard evidence, such as a canary in the answer; the rest is soft."""

    kind: str  # such as "canary", "forged_report", "forbidden_write"
    is_proof: bool
    detail: str = ""
    where: str = ""  # the graded file that it stands in, or `ANSWER`; empty: neither is known
    event: int | None = None  # the first call that it is about; None: no one call


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The judgement on one attempt. `reward` is meaningless when void."""

    status: Status
    reward: float = math.nan
    scores: Mapping[str, float] = field(default_factory=dict[str, float])
    evidence: str = ""
    grade_seed: int = 0
    flags: tuple[Flag, ...] = ()

    def __post_init__(self) -> None:
        if self.status is Status.SCORED and not math.isfinite(self.reward):
            raise ValueError(f"reward={self.reward}: a scored verdict needs a finite reward")
        if self.status is Status.VOID and not math.isnan(self.reward):
            raise ValueError(f"reward={self.reward}: a void verdict has none")

    @classmethod
    def void(cls, evidence: str) -> Verdict:
        return cls(status=Status.VOID, evidence=evidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalty:
    """What training takes for the reward of an attempt whose verdict is not believed, from one call on.

    Tokens of earlier turns keep the verdict's reward. The attempt is in nobody's baseline and is no success.
    """

    why: str  # proof of cheating, or what contradicts the verdict
    reward: float
    floor: float  # the environment's lowest reward: the baseline where nothing better is known
    event: int = 0  # index of the first call that it applies to


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A trajectory and what became of it."""

    trajectory: Trajectory
    verdict: Verdict
    penalty: Penalty | None = None
    gold: Verdict | None = None  # of the held-out validator, where it was asked; never a reward
    gold_chance: float = 1.0  # with which it was asked, in (0, 1]: such an attempt stands for 1 / gold_chance

    @property
    def is_scored(self) -> bool:
        return self.verdict.status is Status.SCORED

    @property
    def is_trusted(self) -> bool:
        """Scored, and the verdict is believed."""
        return self.is_scored and self.penalty is None

    @property
    def quarantine(self) -> str:
        """Why its reward is kept out of everybody's baseline, or nothing."""
        return self.penalty.why if self.penalty else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Attempts at one task. Void ones yield no sample; penalised ones are in nobody's baseline."""

    id: int
    task: Task
    attempts: tuple[Attempt, ...]

    @property
    def trusted(self) -> tuple[Attempt, ...]:
        return tuple(attempt for attempt in self.attempts if attempt.is_trusted)

    @property
    def penalised(self) -> tuple[Attempt, ...]:
        return tuple(attempt for attempt in self.attempts if attempt.is_scored and attempt.penalty)

    @property
    def is_void(self) -> bool:
        """Nothing can be learned from it, whatever the rewards were."""
        return len(self.trusted) < 2 and not self.penalised

    @property
    def is_mixed(self) -> bool:
        """Whether it teaches anything."""
        return is_mixed([attempt.verdict.reward for attempt in self.trusted], len(self.penalised))


def is_mixed(trusted: Sequence[float], num_penalised: int) -> bool:
    """Whether attempts at one task teach anything: two trusted ones earned different rewards, or somebody is penalised."""
    return num_penalised > 0 or (len(trusted) >= 2 and max(trusted) - min(trusted) > 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One segment as the trainer sees it; every column has one entry a token."""

    attempt: AttemptId
    segment: int
    ids: array[int]  # 'i'
    logprobs: array[float]  # 'f', log mu; NaN where nothing was sampled
    trainable: bytes  # 1 where the loss applies
    advantages: array[float]  # 'f'; 0 where not trainable
    versions: tuple[VersionSpan, ...]
    temperature: float = 1.0

    def __post_init__(self) -> None:
        n = len(self.ids)
        if not (len(self.logprobs) == len(self.trainable) == len(self.advantages) == n):
            raise ValueError(f"sample {self.attempt}: columns differ in length")

    @property
    def num_trainable(self) -> int:
        return sum(self.trainable)


def span(version: int, length: int) -> tuple[VersionSpan, ...]:
    """One span over `length` tokens, or none."""
    return (VersionSpan(start=0, stop=length, version=version),) if length else ()


def mean(values: Iterable[float]) -> float:
    """NaN for an empty input, never zero."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else math.nan
