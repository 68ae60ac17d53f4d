"""The interface of an inference engine: rows that grow by what is read and what is sampled.

The embedded engine (`sampling/embedded`) and the vLLM server (`sampling/vllm`) implement it.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Protocol

from agito.types import FinishReason, VersionSpan


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
        sampling, its subclass `RequestRefused` for a request that the engine gave up after it had ended
        processes of ours, and `WorkerDied` when the engine is gone. Cancelling a request closes the row."""
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
