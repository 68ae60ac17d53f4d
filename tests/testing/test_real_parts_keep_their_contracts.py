"""The shipped suites against the real parts: the sandbox, the shell environment, the embedded engine running free.

The solo harness is tested in test_harness_contract.py.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import torch

from agito.engine.embedded import EmbeddedEngine
from agito.engine.freerun import Freerun
from agito.engine.wire import Advance, Advanced
from agito.envs.shell import ShellEnvironment
from agito.models import Qwen3, Qwen3Config
from agito.protocols import Engine, Environment, Renderer, SandboxPool
from agito.render import learn, renderer
from agito.testing import EngineContract, EnvironmentContract, SandboxContract
from agito.types import Dialect
from agito.world.sandbox import Pool


class TestTheSandbox(SandboxContract):
    async def make(self) -> SandboxPool:
        return await Pool.open()


class TestTheShellEnvironment(EnvironmentContract):
    async def make(self) -> Environment:
        return ShellEnvironment()

    def renderers(self) -> Sequence[Renderer]:
        vocabulary = learn(["find repair submit grep cat ls"], size=300)
        return [renderer(dialect, vocabulary) for dialect in Dialect]


class TestTheEmbeddedEngine(EngineContract):
    vocab_size = 61

    @asynccontextmanager
    async def make(self) -> AsyncGenerator[Engine]:
        shape = Qwen3Config(
            vocab_size=self.vocab_size,
            hidden_size=32,
            intermediate_size=48,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            head_dim=12,
            max_position=256,
        )
        model = Qwen3(shape, seed=1)
        with torch.no_grad():
            model.model.embed_tokens.weight.mul_(8.0)  # far from uniform, and still undecided
        embedded = EmbeddedEngine(model, rows=4, context=96)

        async def advance(exchange: Advance) -> Advanced:
            await anyio.lowlevel.checkpoint()
            return embedded.advance(exchange)

        engine = Freerun(advance, context=embedded.context)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(engine.run)
            yield engine
            engine.stop()
