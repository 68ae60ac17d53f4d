"""What the gateway costs, and whether it keeps its word.

    python benchmarks/gateway.py [--requests 12000] [--conversations 200] [--turns 8] [--short]

- parity: a client's loop over plain HTTP and the solo harness, the same task, policy, seed and temperature,
  a real network: the largest difference between two log-probabilities, infinite where a token differs.
- overhead: one client, one request at a time, an engine that answers at once: the whole of a call as the
  client sees it. `bare` is the same client with a route of the same server that answers a fixed body.
- peer: the same clients, one and many, through LiteLLM's proxy, before a server that answers a fixed
  completion at once, where `AGITO_LITELLM` names an environment with `litellm[proxy]`. What the proxy adds is
  a call through it less one to that server; ours is a whole call, with tokens and their capture.
- requests a second: many conversations at a time, each of which sends its growing history, from a process of
  their own.
- fuzz: request histories that were kept, compacted, cut, reordered, branched, retried, interleaved and hung
  up on; a violation is a token that would be trained under a prefix that the sampler did not see, or twice,
  and a prompt that is not what the client sent.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from array import array
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx
import torch
from anyio.streams.buffered import BufferedByteReceiveStream
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agito.gateway import Conversations, Gateway, Terms, listening
from agito.harness import SOLO, SoloHarness
from agito.models import Qwen3, Qwen3Config
from agito.protocols import Agent, AgentSpec, Engine, Renderer, Row, Sampled, SampleRequest
from agito.render import NaturalRenderer, learn
from agito.render.messages import answered
from agito.sampling.continuous_batching import ContinuousBatching
from agito.sampling.embedded import EmbeddedEngine
from agito.sampling.wire import EngineClient, EngineRequest, EngineResponse
from agito.testing import FakeEnvironment, FakeSession
from agito.testing.fakes import TOOLS, call
from agito.testing.histories import attempt
from agito.types import AttemptId, Budget, Call, Dialect, FinishReason, Limits, Trajectory, span
from harness import Json, report, spread

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from litellm_proxy import installed, proxy, version  # type: ignore[import-not-found]

KEY, SEED = "a-key", 77
LIMITS = Limits(turns=6, calls=12, tokens=3000, turn_tokens=24)
TASK = replace(FakeEnvironment().task(split="train", index=0, seed=0)[0], limits=LIMITS)
OFFERED = [
    {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)},
    }
    for tool in TOOLS
]


class Instant:
    """An engine that says one turn, at once."""

    context = 1 << 20

    def __init__(self, turn: array[int]) -> None:
        self.turn = turn

    def open(self, seed: int) -> Row:
        return _InstantRow(self.turn)


class _InstantRow:
    def __init__(self, turn: array[int]) -> None:
        self._turn = turn

    async def sample(self, request: SampleRequest) -> Sampled:
        logprobs, length = array("f", [-0.5]) * len(self._turn), len(request.extend) + len(self._turn)
        return Sampled(ids=self._turn, logprobs=logprobs, stopped=FinishReason.END, versions=span(0, length))

    def branch(self, seed: int) -> Row:
        return self

    async def close(self) -> None:
        return


@asynccontextmanager
async def network(vocab_size: int) -> AsyncGenerator[Engine]:
    """A small one, driven as in the decoupled mode."""
    shape = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        max_position=4096,
    )
    model = Qwen3(shape, seed=1)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(8.0)  # far from uniform, and still undecided
    embedded = EmbeddedEngine(model, rows=4, context=4096)

    async def advance(exchange: EngineRequest) -> EngineResponse:
        await anyio.lowlevel.checkpoint()
        return embedded.advance(exchange)

    engine = ContinuousBatching(EngineClient(advance=advance, context=4096))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(engine.run)
        yield engine
        engine.stop()


@asynccontextmanager
async def gateway(engine: Engine, renderer: Renderer) -> AsyncGenerator[tuple[Conversations, str]]:
    agent = Agent(spec=AgentSpec(renderer=renderer), engine=engine)
    conversations = Conversations(agent, seed=SEED, terms=Terms(overrides=False, most_rows=1 << 20))

    async def bare(request: Request) -> Response:
        await request.json()
        return JSONResponse({"id": "x" * 600})

    served = Gateway(lambda _: conversations, ["policy"], key=KEY, overrides=False)
    async with listening(served.app(Route("/bare", bare, methods=["POST"]))) as url:
        yield conversations, url


async def parity(renderer: NaturalRenderer) -> float:
    async with network(renderer.vocab_size) as engine:
        agent = Agent(spec=AgentSpec(renderer=renderer), engine=engine)
        solo = await SoloHarness().run(
            TASK, FakeSession(), {SOLO: agent}, AttemptId(group=0, slot=0), seed=SEED
        )
    async with network(renderer.vocab_size) as engine, gateway(engine, renderer) as (conversations, url):
        await loop(url)
        segments, turns = conversations.record()
    return difference(solo, replace(solo, segments=segments, turns=turns))


def difference(one: Trajectory, other: Trajectory) -> float:
    tokens = [each.segments[0].tokens for each in (one, other)]
    if len(other.segments) > 1 or tokens[0].ids != tokens[1].ids or tokens[0].versions != tokens[1].versions:
        return math.inf
    pairs = zip(tokens[0].logprobs, tokens[1].logprobs, strict=True)
    return max(abs(a - b) for a, b in pairs if not (math.isnan(a) and math.isnan(b)))


async def loop(url: str) -> None:
    """A client that acts as the solo harness does."""
    messages = [
        {"role": "system", "content": f"You have {LIMITS.turns} turns."},
        {"role": "user", "content": TASK.prompt[Dialect.NATURAL]},
    ]
    session = FakeSession()
    async with httpx.AsyncClient(headers={"x-api-key": KEY}, timeout=30) as client:
        for number in range(LIMITS.turns):
            body = {"model": "policy", "messages": messages, "tools": OFFERED, "seed": SEED, "max_tokens": 24}
            choice = (await client.post(f"{url}/v1/chat/completions", json=body)).json()["choices"][0]
            made = choice["message"].get("tool_calls", [])
            calls = [
                Call(tool=each["function"]["name"], arguments=json.loads(each["function"]["arguments"]))
                for each in made
            ]
            cut = (
                "the turn was cut off"
                if choice["finish_reason"] == "length"
                else "no <tool_call> in the turn"
            )
            left = Budget(turns=LIMITS.turns - number - 1, calls=9, tokens=0)
            events = await session.act(calls or [Call(tool="", arguments={}, problem=cut)], left)
            messages.append(choice["message"])
            ids = [each["id"] for each in made] or [""]
            messages += [
                {"role": "tool", "tool_call_id": each, "content": answered(event)}
                for each, event in zip(ids, events, strict=False)
            ]


async def converse(host: str, port: int, path: str, turns: int, asked: str, taken: list[float]) -> None:
    """One conversation over a connection of its own, timed request by request."""
    messages: list[dict[str, object]] = [{"role": "user", "content": asked}]
    async with await anyio.connect_tcp(host, port) as stream:
        reading = BufferedByteReceiveStream(stream)
        for number in range(turns):
            body = json.dumps({"model": "policy", "messages": messages, "tools": OFFERED}).encode()
            lines = [f"POST {path} HTTP/1.1", "host: x", f"authorization: Bearer {KEY}"]
            head = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""])
            began = time.perf_counter()
            await stream.send(head.encode() + body)
            answer = await reading.receive_until(b"\r\n\r\n", 1 << 16)
            length = int(answer.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            found: dict[str, Any] = json.loads(await reading.receive_exactly(length))
            taken.append(time.perf_counter() - began)
            assert answer.startswith(b"HTTP/1.1 200"), found
            silent: dict[str, Any] = {"role": "assistant", "content": "x"}
            message: dict[str, Any] = found["choices"][0]["message"] if "choices" in found else silent
            use = message["tool_calls"][0]["id"] if "tool_calls" in message else ""
            messages += [message, {"role": "tool", "tool_call_id": use, "content": f"empty; turn {number}"}]


async def many(url: str, path: str, conversations: int, at_a_time: int, turns: int) -> None:
    """The clients' process: prints the seconds of every request, and of all together."""
    host, _, port = url.removeprefix("http://").partition(":")
    taken: list[float] = []
    limiter = anyio.CapacityLimiter(at_a_time)

    async def one(number: int) -> None:
        async with limiter:
            await converse(host, int(port), path, turns, f"find coin {number} of {time.time()}", taken)

    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for number in range(conversations):
            tasks.start_soon(one, number)
    print(json.dumps({"taken": taken, "wall_s": time.perf_counter() - began}))


async def measured(
    url: str, path: str, conversations: int, at_a_time: int, turns: int
) -> tuple[list[float], float]:
    """Milliseconds of every request, and requests a second."""
    words = [url, path, str(conversations), str(at_a_time), str(turns)]
    done = await anyio.run_process([sys.executable, __file__, "--clients", *words], stderr=subprocess.PIPE)
    found = json.loads(done.stdout)
    return [1000 * each for each in found["taken"]], len(found["taken"]) / found["wall_s"]


async def peer(conversations: int, turns: int, at_a_time: int) -> dict[str, Json] | None:
    """One client through the peer's proxy, and without it; many, as ours are. None where there is none."""
    program = installed()
    if program is None:
        return None
    use = {"id": "call_1", "type": "function", "function": {"name": "open", "arguments": '{"box": "1"}'}}
    message: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [use]}
    usage = {"prompt_tokens": 90, "completion_tokens": 9, "total_tokens": 99}
    fixed: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "policy"}
    fixed |= {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}], "usage": usage}

    async def answer(request: Request) -> Response:
        await request.json()
        return JSONResponse(fixed)

    path = "/v1/chat/completions"
    async with listening(Starlette(routes=[Route(path, answer, methods=["POST"])])) as upstream:
        opened = proxy(program, upstream, KEY)
        url = await anyio.to_thread.run_sync(opened.__enter__)
        try:
            await measured(url, path, 3, 1, turns)
            through, _ = await measured(url, path, conversations, 1, turns)
            direct, _ = await measured(upstream, path, conversations, 1, turns)
            at_once, rate = await measured(url, path, at_a_time * 2, at_a_time, turns)
        finally:
            await anyio.to_thread.run_sync(opened.__exit__, None, None, None)
    added = sorted(through)[len(through) // 2] - sorted(direct)[len(direct) // 2]
    return {
        "name": f"litellm {version(program)}",
        "call_ms": spread(through),
        "upstream_call_ms": spread(direct),
        "overhead_ms_p50": round(added, 3),
        "call_ms_at_once": spread(at_once),
        "requests_per_s": round(rate, 1),
    }


async def fuzz(requests: int) -> tuple[int, int, dict[str, int]]:
    num, violations, ways, seed = 0, 0, Counter[str](), 0
    while num < requests:
        client = await attempt(seed, 20)
        num, violations, seed = num + client.num_requests, violations + len(client.violations), seed + 1
        ways.update({str(way): count for way, count in client.conversations.tree.meter.turns.items()})
    return num, violations, dict(ways)


async def main(arguments: argparse.Namespace) -> None:
    renderer = NaturalRenderer(
        learn(["open submit box empty coin turns left", json.dumps(OFFERED)] * 9, size=400)
    )
    largest = await parity(renderer)
    async with gateway(Instant(renderer.action([call("open", 1)], TOOLS)), renderer) as (conversations, url):
        one = max(arguments.conversations // 4, 10)
        await measured(url, "/v1/chat/completions", 5, 1, arguments.turns)
        alone, _ = await measured(url, "/v1/chat/completions", one, 1, arguments.turns)
        bare, _ = await measured(url, "/bare", one, 1, arguments.turns)
        began = time.process_time()
        at_once, rate = await measured(
            url, "/v1/chat/completions", arguments.conversations * 2, arguments.conversations, arguments.turns
        )
        cpu_ms = 1000 * (time.process_time() - began) / len(at_once)
        kept = conversations.tree.meter.share_of_turns
        await conversations.aclose()
    beside = await peer(one, arguments.turns, arguments.conversations)
    began = time.process_time()
    num, violations, ways = await fuzz(arguments.requests)
    report(
        "gateway",
        {
            "parity_max_diff": largest,
            "overhead_ms_p50": round(sorted(alone)[len(alone) // 2], 3),
            "peer_overhead_ms_p50": beside and beside["overhead_ms_p50"],
            "requests_per_s": round(rate, 1),
            "peer_requests_per_s": beside and beside["requests_per_s"],
            "fuzz_violations": violations,
        },
        {
            "call_ms": spread(alone),
            "bare_call_ms": spread(bare),
            "peer": beside,
            "call_ms_at_once": spread(at_once),
            "server_cpu_ms_per_request": round(cpu_ms, 3),
            "conversations_at_once": arguments.conversations,
            "share_of_turns_kept": kept,
            "fuzz_requests": num,
            "fuzz_ways": ways,
            "fuzz_cpu_s": round(time.process_time() - began, 2),
        },
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=12_000)
    parser.add_argument("--conversations", type=int, default=200)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--short", action="store_true", help="seconds; the figures are coarse")
    parser.add_argument("--clients", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.clients:
        url, path, conversations, at_a_time, turns = given.clients
        anyio.run(many, url, path, int(conversations), int(at_a_time), int(turns))
    else:
        if given.short:
            given.requests, given.conversations = 2000, 40
        anyio.run(main, given)
