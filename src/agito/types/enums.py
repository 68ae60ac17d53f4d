"""The closed sets of words used in records."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import TypeAlias

Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"


class Fault(StrEnum):
    """The party responsible for a failure."""

    POLICY = "policy"  # the policy's own mistake: an unparsable call, an unknown tool
    TOOL = "tool"  # the tool failed as real tools do
    TIMEOUT = "timeout"  # the tool did not answer within its deadline
    BUDGET = "budget"  # no tokens, calls or seconds are left
    TASK = "task"  # the task itself is broken
    ENV = "env"  # the environment's own code failed
    INFRA = "infra"  # the machinery around it failed; the attempt is void


class Dialect(StrEnum):
    """How a latent task is put into words."""

    COMPACT = "compact"  # terse; learnable from random weights
    NATURAL = "natural"  # JSON tools and prose, for language models


class Effort(StrEnum):
    """The requested amount of thinking."""

    NONE = "none"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    AUTO = "auto"


class Mode(StrEnum):
    """What a policy chooses at effort `auto`, by the first token that it samples."""

    ACT = "act"  # closes its think block at once
    THINK = "think"


class ThinkingTurns(StrEnum):
    """The turns in which a policy may think; in the others its block is closed at once."""

    EVERY = "every"
    FIRST = "first"
    AFTER_FAULTS = "after_faults"  # the first, and those after a call that failed


class TokenSource(IntEnum):
    """Where a token came from; only `SAMPLED` and sampled `CONTROL` tokens are trained on."""

    OBSERVED = 0  # prompt and observations
    SAMPLED = 1  # drawn by the policy
    FORCED = 2  # inserted by the system, such as a budget stop
    CONTROL = 3  # a sampled control token: end of turn, end of thinking


class Channel(IntEnum):
    """What a token is for."""

    TEXT = 0
    THINK = 1
    CALL = 2


class FinishReason(StrEnum):
    """Why the policy's turn ended."""

    END = "end"  # sampled its end-of-turn token
    LENGTH = "length"  # used up its token budget
    CANCELLED = "cancelled"


class TerminationReason(StrEnum):
    """How an attempt ended."""

    SUBMITTED = "submitted"
    TURNS = "turns"
    CALLS = "calls"
    TOKENS = "tokens"
    SECONDS = "seconds"
    ABANDONED = "abandoned"  # the harness stopped it
    FAILED = "failed"  # see `fault`


class Status(StrEnum):
    """Whether there is a verdict; void is never zero."""

    SCORED = "scored"
    VOID = "void"


class Exactness(StrEnum):
    """What a snapshot holds."""

    EXACT = "exact"  # processes too
    FILESYSTEM = "filesystem"  # files, working directory and variables
    REPLAY = "replay"  # nothing: the calls up to this event are replayed
