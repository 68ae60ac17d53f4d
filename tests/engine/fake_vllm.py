"""A server that talks as vLLM does and samples from a hash of the past: `fake_vllm.py serve FOLDER --uds PATH
...`.

What it is told goes to FOLDER/log, a line each. A file FOLDER/faults/NAME makes one thing go wrong once.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from agito.testing.engines import SMALLEST_TEMPERATURE, log_softmax, logits_after, nucleus

VOCAB_SIZE = 32
BASE_SALT = 7


def salt_of(path: Path) -> int:
    """Of an adapter's folder, or of a file of weights."""
    file = path / "adapter_model.safetensors" if path.is_dir() else path
    return zlib.crc32(file.read_bytes()) >> 1


def logprobs_after(salt: int, past: Sequence[int], temperature: float = 1.0) -> list[float]:
    return log_softmax([logit / temperature for logit in logits_after([salt, *past], VOCAB_SIZE)])


class FakeVllm:
    def __init__(self, folder: Path, context: int) -> None:
        self.folder, self.context = folder, context
        self.salts, self.version, self.computed = {"base": BASE_SALT}, "default", 0
        self.resumed = anyio.Event()
        self.resumed.set()

    def note(self, line: str) -> None:
        with (self.folder / "log").open("a") as log:
            log.write(line + "\n")

    def goes_wrong(self, what: str) -> bool:
        try:
            (self.folder / "faults" / what).unlink()
        except FileNotFoundError:
            return False
        self.note(f"fault {what}")
        return True

    async def health(self, request: Request) -> Response:
        return Response()

    async def metrics(self, request: Request) -> Response:
        return PlainTextResponse(
            f'vllm:generation_tokens_total{{engine="0"}} {float(self.computed)}\nother 3\n'
        )

    async def load_adapter(self, request: Request) -> Response:
        body = await request.json()
        self.note(f"load {body['lora_name']}")
        if self.goes_wrong("endless update"):
            return await self._hang(request)
        if self.goes_wrong("refuse") or body["lora_name"] in self.salts:
            return JSONResponse({"error": "no"}, status_code=500)
        salt = salt_of(Path(body["lora_path"]))
        self.salts[body["lora_name"]] = [*self.salts.values()][-1] if self.goes_wrong("stale") else salt
        return Response()

    async def unload_adapter(self, request: Request) -> Response:
        name = (await request.json())["lora_name"]
        self.note(f"unload {name}")
        return Response() if self.salts.pop(name, None) is not None else JSONResponse({}, status_code=404)

    async def pause(self, request: Request) -> Response:
        self.resumed = anyio.Event()
        return JSONResponse({})

    async def resume(self, request: Request) -> Response:
        self.resumed.set()
        return JSONResponse({})

    async def rpc(self, request: Request) -> Response:
        body = await request.json()
        assert body["method"] == "agito_load_weights"
        if self.goes_wrong("endless update"):
            return await self._hang(request)
        if self.goes_wrong("refuse"):
            return JSONResponse({"error": "no"}, status_code=500)
        salt = salt_of(Path(body["args"][0]))
        self.salts["base"] = self.salts["base"] if self.goes_wrong("stale") else salt
        return JSONResponse({"results": ["1"]})

    async def update_version(self, request: Request) -> Response:
        self.version = (await request.json())["new_version"]
        self.note(f"weights {self.version}")
        return JSONResponse({"success": True})

    async def reset(self, request: Request) -> Response:
        return JSONResponse({"success": not self.goes_wrong("keep cache")})

    async def generate(self, request: Request) -> Response:
        body = await request.json()
        ids, how = body["token_ids"], body["sampling_params"]
        if len(ids) + how["max_tokens"] > self.context or max(ids) >= VOCAB_SIZE or min(ids) < 0:
            return JSONResponse({"error": {"message": "too long, or no token"}}, status_code=400)
        if body["model"] not in self.salts:
            return JSONResponse({"error": {"message": "no such model"}}, status_code=404)
        if self.goes_wrong("die") or int(os.environ.get("AGITO_FAKE_POISON", "-1")) in ids:
            os._exit(3)
        if "prompt_logprobs" not in how:
            self.note(f"sample {body['model']} {len(ids)}")
            if self.goes_wrong("hang"):
                return await self._hang(request)
        answer = await self._generated(body["model"], ids, how)
        if "prompt_logprobs" not in how:
            choice = answer["choices"][0]
            if self.goes_wrong("hollow"):
                answer = {"choices": []}
            elif self.goes_wrong("no answer"):
                return PlainTextResponse("<html>")
            elif self.goes_wrong("short"):
                choice["logprobs"]["content"].pop()
            elif self.goes_wrong("broken off"):
                choice["finish_reason"] = "abort"
            elif self.goes_wrong("no number"):
                choice["logprobs"]["content"][0]["logprob"] = -9999.0
        return JSONResponse(answer)

    async def _hang(self, request: Request) -> Response:
        while not await request.is_disconnected():  # noqa: ASYNC110 it has no event
            await anyio.sleep(0.01)
        self.note("aborted")
        return Response()

    async def _generated(self, model: str, ids: list[int], how: dict[str, Any]) -> dict[str, Any]:
        past, tokens, spans = list(ids), list[dict[str, Any]](), list[dict[str, Any]]()
        while len(tokens) < how["max_tokens"] and (
            not tokens or tokens[-1]["token_id"] not in how.get("stop_token_ids", [])
        ):
            await anyio.sleep(0.02 if self.goes_wrong("slow") or (self.folder / "slow").exists() else 0)
            while not self.resumed.is_set():  # last: no token falls between new weights and their version
                await self.resumed.wait()
            token, logprob = draw(self.salts[model], past, how, len(tokens))
            past.append(token)
            if not spans or spans[-1]["version"] != self.version:
                spans.append({"version": self.version, "start": len(tokens)})
            tokens.append({"token_id": token, "logprob": logprob, "rank": 1})
            spans[-1]["end"] = len(tokens)
            self.computed += 1
        given: list[Any] | None = None
        if "prompt_logprobs" in how:
            scored = [
                {token: {"logprob": logprobs_after(self.salts[model], ids[:at])[token]}}
                for at, token in enumerate(ids)
            ]
            given = [None, *scored[1:]]
        choice = {
            "token_ids": [token["token_id"] for token in tokens],
            "finish_reason": "length",
            "logprobs": {"content": tokens},
            "weight_versions": spans,
        }
        return {"choices": [choice], "prompt_logprobs": given}


def draw(salt: int, past: list[int], how: dict[str, Any], number: int) -> tuple[int, float]:
    if how["temperature"] < SMALLEST_TEMPERATURE:
        logprobs = logprobs_after(salt, past)
        token = max(range(VOCAB_SIZE), key=lambda token: logprobs[token])
        return token, logprobs[token]
    logprobs = logprobs_after(salt, past, how["temperature"])
    kept = nucleus(logprobs, how["top_p"])
    mass = sum(math.exp(logprobs[token]) for token in kept)
    point = (
        int.from_bytes(hashlib.sha256(f"{how['seed']}/{number}".encode()).digest()[:8], "big") / 2**64 * mass
    )
    for token in kept:
        point -= math.exp(logprobs[token])
        if point < 0:
            break
    return token, logprobs[token] - math.log(mass)


def main() -> None:
    arguments = sys.argv[1:]
    folder, context = Path(arguments[1]), int(arguments[arguments.index("--max-model-len") + 1])
    (folder / "command").write_text(json.dumps(arguments))
    fake = FakeVllm(folder, context)
    fake.note("start")
    if fake.goes_wrong("no start"):
        sys.exit("there is no such model")
    posts = {
        "/v1/load_lora_adapter": fake.load_adapter,
        "/v1/unload_lora_adapter": fake.unload_adapter,
        "/pause": fake.pause,
        "/resume": fake.resume,
        "/collective_rpc": fake.rpc,
        "/update_weight_version": fake.update_version,
        "/reset_prefix_cache": fake.reset,
        "/inference/v1/generate": fake.generate,
    }
    routes = [Route(path, handler, methods=["POST"]) for path, handler in posts.items()]
    routes += [Route("/health", fake.health), Route("/metrics", fake.metrics)]
    uvicorn.run(Starlette(routes=routes), uds=arguments[arguments.index("--uds") + 1], log_level="warning")


if __name__ == "__main__":
    main()
