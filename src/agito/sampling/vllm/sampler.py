"""One policy of a vLLM server, as an `Engine`: rows keep their own tokens and send all of them with each
request.

The server's prefix cache makes that cheap. A row continues with the newest version at its next request;
sampled tokens keep the version that sampled them. Draws do not repeat bit for bit: sums depend on the batch.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from pathlib import Path

from agito.protocols import Row, Sampled, SampleRequest
from agito.sampling.capabilities import SamplerCapabilities
from agito.sampling.row_states import Handle
from agito.sampling.vllm.known_text import Difference, KnownLogprobs
from agito.sampling.vllm.server import VllmServer


class VllmSampler:
    """Implements `Engine`. Several may share a server with adapters; without adapters there is one."""

    def __init__(self, server: VllmServer, policy: str) -> None:
        self._server, self.policy = server, policy
        has_adapters = server.spec.adapters is not None
        self.capabilities = SamplerCapabilities(
            keyed_determinism=False, in_flight_update=not has_adapters, adapters=has_adapters
        )

    @property
    def context(self) -> int:
        return self._server.spec.context

    @property
    def version(self) -> int | None:
        """The newest published version."""
        return self._server.version(self.policy)

    def open(self, seed: int) -> Row:
        return _VllmRow(self._server, self.policy, seed)

    async def score(self, ids: Sequence[int]) -> Sequence[float]:
        """Log-probabilities at temperature 1 of all ids but the first. Raises as `Row.sample`."""
        return await self._server.score(self.policy, ids)

    async def publish(self, version: int, path: Path, known: KnownLogprobs) -> Difference:
        """See `VllmServer.publish`."""
        return await self._server.publish(self.policy, version, path, known)


class _VllmRow(Handle):
    def __init__(self, server: VllmServer, policy: str, seed: int, ids: array[int] | None = None) -> None:
        super().__init__(is_known=ids is not None)
        self._server, self._policy, self._seed = server, policy, seed
        self._ids = array("i") if ids is None else ids

    async def _sample(self, request: SampleRequest) -> Sampled:
        whole = self._ids + request.extend
        _require_possible(whole, request, self._server.spec.context)
        sampled = await self._server.sample(self._policy, whole, request, _seed(self._seed, len(whole)))
        self._ids = whole + sampled.ids
        return sampled

    def _open(self, seed: int) -> Row:
        return _VllmRow(self._server, self._policy, seed)

    def _branch(self, seed: int) -> Row:
        return _VllmRow(self._server, self._policy, seed, self._ids[:])

    def _close(self) -> None:
        """Nothing to free: the server keeps only its cache, and cancelling a request closes its
        connection."""


def _require_possible(whole: array[int], request: SampleRequest, context: int) -> None:
    if not (request.max_tokens >= 1 and request.temperature >= 0 and 0 < request.top_p <= 1):
        raise ValueError(
            f"max_tokens={request.max_tokens}, temperature={request.temperature}, top_p={request.top_p}: "
            "need at least 1, at least 0, and within (0, 1]"
        )
    if request.first is not None:
        raise ValueError(f"first={request.first}: a vLLM server is not told what to begin with")
    if not whole:
        raise ValueError("an empty row cannot be sampled from: extend it with at least one token")
    if len(whole) + request.max_tokens > context:
        raise ValueError(f"{len(whole)} tokens + {request.max_tokens} to sample: the context is {context}")


def _seed(row: int, position: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{row}/{position}".encode(), digest_size=8).digest(), "big") >> 1
