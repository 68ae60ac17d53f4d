"""HTTP client of one vLLM server: token ids in, token ids and their log-probabilities out.

A request can fail in three ways. `ValueError`: it cannot be served, and the server is fine. `VllmFailed`: the
server can no longer be trusted. No answer at all: the caller's deadline applies.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from agito.errors import WorkerFailed
from agito.protocols import Sampled, SampleRequest
from agito.types import FinishReason, Json, VersionSpan

_CONNECT_S = 10.0
_LOOK_S = 10.0  # for requests that a server answers immediately
_BAD_REQUEST = 400
_ERROR = 500
_COUNTERS = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:iteration_tokens_total_count")


Body = TypeVar("Body", bound=BaseModel)


class VllmFailed(WorkerFailed):
    """A server that is gone or in an unknown state."""


class _Token(BaseModel):
    token_id: int
    logprob: float


class _Logprobs(BaseModel):
    content: list[_Token]


class _Span(BaseModel):
    version: str
    start: int
    end: int


class _Choice(BaseModel):
    token_ids: list[int]
    finish_reason: str | None
    logprobs: _Logprobs | None = None
    weight_versions: list[_Span] | None = None


class _Logprob(BaseModel):
    logprob: float


class _Answer(BaseModel):
    choices: list[_Choice]
    prompt_logprobs: list[dict[int, _Logprob] | None] | None = None


class _Reset(BaseModel):
    success: bool


class VllmClient:
    """One server, behind a socket of this machine."""

    def __init__(self, socket: Path) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        # Callers set their own deadlines.
        timeout = httpx.Timeout(None, connect=_CONNECT_S)
        transport = httpx.AsyncHTTPTransport(uds=str(socket), limits=limits)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://vllm", timeout=timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def is_up(self) -> bool:
        try:
            return (await self._http.get("/health", timeout=_LOOK_S)).is_success
        except httpx.HTTPError:
            return False

    async def progress(self, most_s: float) -> tuple[float, ...] | None:
        """Counters that grow while the server computes; None without an answer within `most_s`."""
        try:
            answer = await self._http.get("/metrics", timeout=min(most_s, _LOOK_S))
        except httpx.HTTPError:
            return None
        lines = [line for line in answer.text.splitlines() if line.startswith(_COUNTERS)]
        return tuple(float(line.rpartition(" ")[2]) for line in lines)

    async def sample(
        self,
        ids: Sequence[int],
        request: SampleRequest,
        *,
        model: str,
        version: int,
        is_adapter: bool,
        seed: int | None,
    ) -> Sampled:
        """`ids`: the whole row, including the request's extension. `version`: the adapter's; the server's own
        weights report theirs."""
        body: dict[str, Json] = {
            "model": model,
            "token_ids": list(ids),
            "sampling_params": {
                "max_tokens": request.max_tokens,
                "temperature": request.temperature,
                "top_p": request.top_p,
                "logprobs": 0,
                **({} if seed is None else {"seed": seed}),
                "stop_token_ids": list(request.stop_ids),
                "ignore_eos": True,
                "detokenize": False,
            },
        }
        answer = _parsed(_Answer, await self._post("/inference/v1/generate", body))
        if len(answer.choices) != 1:
            raise VllmFailed(f"vLLM answered with {len(answer.choices)} choices")
        return _sampled(answer.choices[0], request, version=version if is_adapter else None)

    async def score(self, ids: Sequence[int], *, model: str) -> array[float]:
        """Log-probabilities at temperature 1 of all ids but the first, without cache. Raises as `sample`."""
        params: dict[str, Json] = {
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": 0,
            "detokenize": False,
        }
        body: dict[str, Json] = {"model": model, "token_ids": list(ids), "sampling_params": params}
        answer = _parsed(_Answer, await self._post("/inference/v1/generate", body))
        given = answer.prompt_logprobs or []
        if len(given) != len(ids):
            raise VllmFailed(f"vLLM scored {len(given)} of {len(ids)} tokens")
        try:
            found = array(
                "f", [(at or {})[token].logprob for token, at in zip(ids[1:], given[1:], strict=True)]
            )
        except KeyError as error:
            raise VllmFailed(f"vLLM scored another token than {error}") from None
        if not all(map(math.isfinite, found)):
            raise VllmFailed("vLLM gave a log-probability that is no number")
        return found

    async def load_adapter(self, name: str, directory: Path) -> None:
        """Loads an adapter. Raises `VllmFailed` if that fails, or if the name exists, since names are never
        reused."""
        await self._change("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(directory)})

    async def unload_adapter(self, name: str) -> None:
        await self._change("/v1/unload_lora_adapter", {"lora_name": name})

    async def load_weights(self, path: Path, version: int) -> None:
        """Loads all weights from a file, between two steps. Running requests continue with them and recompute
        their past; earlier cached results are discarded."""
        await self._change("/pause?mode=keep", {})
        await self._change("/collective_rpc", {"method": "agito_load_weights", "args": [str(path)]})
        await self._change("/update_weight_version", {"new_version": str(version)})
        reset = _parsed(_Reset, await self._change("/reset_prefix_cache?reset_running_requests=true", {}))
        if not reset.success:
            raise VllmFailed("vLLM kept what it had computed with the weights before")
        await self._change("/resume", {})

    async def _change(self, path: str, body: Mapping[str, Json]) -> httpx.Response:
        try:
            return await self._post(path, body)
        except ValueError as error:
            raise VllmFailed(f"vLLM refused {path}: {error}") from None

    async def _post(self, path: str, body: Mapping[str, Json]) -> httpx.Response:
        try:
            answer = await self._http.post(path, json=body)
        except httpx.HTTPError as error:
            raise VllmFailed(f"vLLM did not answer {path}: {error or type(error).__name__}") from error
        if answer.is_success:
            return answer
        said = f"{path}: {answer.status_code} {' '.join(answer.text.split())[:300]}"
        if answer.status_code == _BAD_REQUEST:
            raise ValueError(said)
        raise VllmFailed(f"vLLM answered {said}")


def _sampled(choice: _Choice, request: SampleRequest, *, version: int | None) -> Sampled:
    ids, tokens = array("i", choice.token_ids), choice.logprobs.content if choice.logprobs else []
    if choice.finish_reason not in ("stop", "length"):
        raise VllmFailed(f"vLLM broke off: {choice.finish_reason}")
    if not ids or [token.token_id for token in tokens] != choice.token_ids or len(ids) > request.max_tokens:
        raise VllmFailed(
            f"vLLM sampled {len(ids)} of at most {request.max_tokens} tokens, with {len(tokens)} "
            "log-probabilities"
        )
    logprobs = array("f", [token.logprob for token in tokens])
    if not all(-9999.0 < each <= 1e-5 for each in logprobs):
        raise VllmFailed("vLLM gave a log-probability that is none")
    num_extended = len(request.extend)
    spans = (
        [_Span(version=str(version), start=0, end=len(ids))]
        if version is not None
        else choice.weight_versions or []
    )
    if (
        not spans
        or spans[0].start != 0
        or spans[-1].end != len(ids)
        or any(a.end != b.start for a, b in pairwise(spans))
    ):
        raise VllmFailed(f"vLLM did not say which weights sampled its {len(ids)} tokens: {spans}")
    try:
        versions = tuple(
            VersionSpan(
                start=0 if at == 0 else num_extended + each.start,
                stop=num_extended + each.end,
                version=int(each.version),
            )
            for at, each in enumerate(spans)
        )
    except ValueError:
        raise VllmFailed(f"vLLM sampled with weights that were never published: {spans}") from None
    stopped = FinishReason.END if ids[-1] in request.stop_ids else FinishReason.LENGTH
    return Sampled(ids=ids, logprobs=logprobs, stopped=stopped, versions=versions)


def _parsed(kind: type[Body], answer: httpx.Response) -> Body:
    try:
        return kind.model_validate_json(answer.content)
    except ValidationError as error:
        raise VllmFailed(f"vLLM gave an answer that cannot be read: {str(error).splitlines()[0]}") from error
