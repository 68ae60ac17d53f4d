"""The shipped suites against the real parts: the sandbox, the shell environment, the embedded engine.

The solo harness is tested in test_harness_contract.py.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import anyio.lowlevel
import torch

from agito.engine.embedded import EmbeddedEngine
from agito.engine.wire import Advance, RowBranch, RowDone, RowRequest
from agito.envs.shell import ShellEnvironment
from agito.models import Qwen3, Qwen3Config
from agito.protocols import Engine, Environment, Renderer, Row, Sampled, SampleRequest, SandboxPool
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
        yield Direct(EmbeddedEngine(model, rows=4, context=96))


class Direct:
    """An `Engine` over exchanges: whoever asks first carries everybody's request there."""

    def __init__(self, embedded: EmbeddedEngine) -> None:
        self.embedded, self.context = embedded, embedded.context
        self.keys = itertools.count()
        self.requests: list[RowRequest] = []
        self.branched: list[RowBranch] = []
        self.closed: list[int] = []
        self.done: dict[int, RowDone] = {}

    def open(self, seed: int) -> Row:
        return DirectRow(self, seed, next(self.keys))

    def exchange(self) -> None:
        advanced = self.embedded.advance(Advance(closed=tuple(self.closed), branched=tuple(self.branched), requests=tuple(self.requests)))
        self.closed, self.branched, self.requests = [], [], []
        self.done |= {row.key: row for row in advanced.done}


class DirectRow:
    def __init__(self, engine: Direct, seed: int, key: int) -> None:
        self.engine, self.seed, self.key = engine, seed, key

    async def sample(self, request: SampleRequest) -> Sampled:
        self.engine.requests.append(RowRequest(key=self.key, seed=self.seed, request=request))
        while self.key not in self.engine.done:
            await anyio.lowlevel.checkpoint()
            self.engine.exchange()
        answer = self.engine.done.pop(self.key)
        if answer.sampled is None:
            raise ValueError(answer.error)
        return answer.sampled

    def branch(self, seed: int) -> Row:
        child = DirectRow(self.engine, seed, next(self.engine.keys))
        self.engine.branched.append(RowBranch(parent=self.key, child=child.key))
        return child

    async def close(self) -> None:
        self.engine.closed.append(self.key)
