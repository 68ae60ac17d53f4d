"""What goes to a batching engine and what comes back, in one exchange; torch-free, picklable.

An engine is a pure function of its exchanges: the same sequence of `EngineRequest` gives the same bits on the
same build.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from agito.protocols import Sampled, SampleRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRequest:
    """Extend and sample row `key`, which is made if it is new. `seed` keys the row's random stream with the
    position in the row.
    """

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
    """What finished in one exchange, in order of key, and how busy the engine was."""

    done: tuple[RowDone, ...]
    live: int  # rows still sampling or queued
    steps: int  # decode steps run
    forwarded: int  # tokens computed, prompts and observations included
    busy_s: float  # wall time inside the exchange


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineClient:
    """An engine, wherever it runs, and the tokens that one of its rows can hold."""

    advance: Callable[[EngineRequest], Awaitable[EngineResponse]]
    context: int
