"""Requests to a batching engine and its responses, one exchange at a time; torch-free, picklable.

An engine is a pure function of its exchanges: the same sequence of `EngineRequest` gives the same bits on the
same build.
"""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from agito.protocols import Sampled, SampleRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRequest:
    """Extend and sample row `key`, creating it if new. The row's random stream is keyed by `seed` and
    position."""

    key: int
    seed: int
    request: SampleRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBranch:
    """Row `child` starts as a copy of idle row `parent`."""

    parent: int
    child: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """One exchange: branch, close, admit, then run up to `steps` decode steps (fewer when nothing is left to
    decode).
    """

    closed: tuple[int, ...] = ()
    branched: tuple[RowBranch, ...] = ()
    requests: tuple[RowRequest, ...] = ()
    steps: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RowDone:
    """Row `key` has stopped sampling; `error` replaces `sampled` when the request could not be served."""

    key: int
    sampled: Sampled | None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineResponse:
    """What finished in one exchange, in order of key, and the engine's load."""

    done: tuple[RowDone, ...]
    live: int  # rows still sampling or queued
    steps: int  # decode steps run
    forwarded: int  # tokens computed, including prompts and observations
    busy_s: float  # wall time inside the exchange


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """Asks for log-probabilities of given tokens under the sampler's weights."""

    sequences: tuple[array[int], ...]  # of 'i', each at least one token
    temperature: float = 1.0
    num_top: int = 0  # of the most probable tokens; the vocabulary size asks for all


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of one sequence of T tokens: natural logarithms, at the requested temperature. Entry t belongs
    to token t + 1, given the tokens up to t."""

    logprobs: array[float]  # 'f', T - 1
    # (T - 1) x num_top, row by row, most probable first.
    top_ids: array[int] = field(default_factory=lambda: array("i"))
    top_logprobs: array[float] = field(default_factory=lambda: array("f"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreResponse:
    version: int  # of the weights
    scores: tuple[Scores, ...]  # in the order of the sequences


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineClient:
    """An engine, and the capacity of its rows in tokens."""

    advance: Callable[[EngineRequest], Awaitable[EngineResponse]]
    context: int
