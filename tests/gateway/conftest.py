"""A gateway on a port, an engine with a real network, and loops of clients."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
import torch

from agito.gateway import Conversations, Gateway, Terms, listening
from agito.models import Qwen3, Qwen3Config
from agito.protocols import Agent, AgentSpec, Engine, Renderer
from agito.render import Vocabulary, learn
from agito.sampling.continuous_batching import ContinuousBatching
from agito.sampling.embedded import EmbeddedEngine
from agito.sampling.wire import EngineClient, EngineRequest, EngineResponse
from agito.testing import ByteRenderer
from agito.testing.fakes import TOOLS
from agito.types import Dialect, ToolSpec

KEY = "a-key"


def offers(tools: Sequence[ToolSpec] = TOOLS) -> list[dict[str, Any]]:
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": dict(tool.parameters),
            },
        }
        for tool in tools
    ]


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    return learn(
        ["open submit box empty coin turns left", '{"name": "open", "arguments": {"box": "1"}}'] * 9, size=300
    )


@asynccontextmanager
async def real_engine(
    vocab_size: int, *, context: int = 4096, model: Qwen3 | None = None
) -> AsyncGenerator[Engine]:
    """A small network, driven as in the decoupled mode."""
    model = model or small_network(vocab_size, context=context)
    embedded = EmbeddedEngine(model, rows=4, context=context)

    async def advance(exchange: EngineRequest) -> EngineResponse:
        await anyio.lowlevel.checkpoint()
        return embedded.advance(exchange)

    engine = ContinuousBatching(EngineClient(advance=advance, context=context))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(engine.run)
        try:
            yield engine
        finally:
            engine.stop()


def small_network(vocab_size: int, *, context: int = 4096) -> Qwen3:
    """Far from uniform, and still undecided."""
    shape = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        max_position=context,
    )
    model = Qwen3(shape, seed=1)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(8.0)
    return model


@dataclass
class Served:
    """A gateway, what is behind it, and a client."""

    conversations: Conversations
    client: httpx.AsyncClient
    url: str

    async def ask(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[ToolSpec] = TOOLS, **more: Any
    ) -> dict[str, Any]:
        body = {
            "model": "policy",
            "messages": list(messages),
            **({"tools": offers(tools)} if tools else {}),
            **more,
        }
        response = await self.client.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        return response.json()


@asynccontextmanager
async def serving(
    engine: Engine,
    renderer: Renderer | None = None,
    *,
    seed: int = 5,
    terms: Terms | None = None,
    temperature: float = 1.0,
) -> AsyncGenerator[Served]:
    agent = Agent(
        spec=AgentSpec(renderer=renderer or ByteRenderer(Dialect.NATURAL), temperature=temperature),
        engine=engine,
    )
    terms = terms or Terms(overrides=False)
    conversations = Conversations(agent, seed=seed, terms=terms)
    gateway = Gateway(lambda _: conversations, ["policy"], key=KEY, overrides=terms.overrides)
    try:
        async with (
            listening(gateway.app()) as url,
            httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=20) as client,
        ):
            yield Served(conversations, client, url)
    finally:
        await conversations.aclose()
