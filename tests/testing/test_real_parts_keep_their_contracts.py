"""The shipped suites against the real parts: the sandbox, the shell environment, the embedded engine under
each of its drivers.

The solo harness is tested in test_harness_contract.py.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar

import anyio
import anyio.lowlevel
import torch

from agito.envs.shell import ShellEnvironment
from agito.models import NativeQwen3, Qwen3, Qwen3Config
from agito.protocols import MAIN, Engine, Environment, Renderer, SandboxPool
from agito.render import learn, renderer
from agito.sampling.continuous_batching import ContinuousBatching
from agito.sampling.embedded import EmbeddedEngine
from agito.sampling.embedded.steps import RecordedSteps
from agito.sampling.lockstep import Lockstep
from agito.sampling.wire import EngineClient, EngineRequest, EngineResponse
from agito.testing import EngineContract, EnvironmentContract, SandboxContract
from agito.types import Dialect
from agito.worlds.sandbox import Pool


class TestTheSandbox(SandboxContract):
    async def make(self) -> SandboxPool:
        return await Pool.open()


class TestTheShellEnvironment(EnvironmentContract):
    async def make(self) -> Environment:
        return ShellEnvironment()

    def renderers(self) -> Sequence[Renderer]:
        vocabulary = learn(["find repair submit grep cat ls"], size=300)
        return [renderer(dialect, vocabulary) for dialect in Dialect]


class EmbeddedEngineContract(EngineContract):
    """Four rows for twelve, in each way of computing and of driving."""

    vocab_size = 61
    is_native, is_replayed, in_lockstep = True, False, False
    behind: ClassVar[dict[Engine, EmbeddedEngine]] = {}
    num_interleavings = 4

    def embedded(self) -> EmbeddedEngine:
        shape = Qwen3Config(
            vocab_size=self.vocab_size,
            hidden_size=32,
            intermediate_size=48,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            head_dim=16,
            max_position=256,
        )
        model = Qwen3(shape, seed=1)
        with torch.no_grad():
            model.model.embed_tokens.weight.mul_(8.0)  # far from uniform, and still undecided
        steps = (
            RecordedSteps(slots=4, context=96, device=torch.device("cpu"), record=lambda run, _: Rerun(run))
            if self.is_replayed
            else None
        )
        return EmbeddedEngine(model, rows=4, context=96, native=self.is_native, steps=steps)

    @asynccontextmanager
    async def make(self) -> AsyncGenerator[Engine]:
        embedded = self.embedded()
        assert isinstance(embedded._network, NativeQwen3) == self.is_native, "a C compiler is needed"  # pyright: ignore[reportPrivateUsage]

        async def advance(exchange: EngineRequest) -> EngineResponse:
            await anyio.lowlevel.checkpoint()
            return embedded.advance(exchange)

        async def nobody(orders: Sequence[int]) -> None:
            return

        async with anyio.create_task_group() as tasks:
            if self.in_lockstep:
                lockstep = Lockstep({MAIN: EngineClient(advance=advance, context=embedded.context)})
                lane = lockstep.lane()
                engine, done = lane.engines[MAIN], lane.finish
                tasks.start_soon(lockstep.run, nobody)
            else:
                engine = ContinuousBatching(EngineClient(advance=advance, context=embedded.context))
                done = engine.stop
                tasks.start_soon(engine.run)
            self.behind[engine] = embedded
            yield engine
            done()
        assert embedded.num_rows == 0 or not self.in_lockstep, "a lane that is finished leaves nothing behind"

    def num_held(self, engine: Engine) -> int:
        return self.behind[engine].num_rows


@dataclass
class Rerun:
    """A recording for a device that has none."""

    replay: Callable[[], None]


class TestTheEmbeddedEngineInCompiledCode(EmbeddedEngineContract):
    pass


class TestTheEmbeddedEngineOnTorch(EmbeddedEngineContract):
    is_native = False


class TestTheEmbeddedEngineWithRecordedSteps(EmbeddedEngineContract):
    is_native, is_replayed = False, True


class TestTheEmbeddedEngineInLockstep(EmbeddedEngineContract):
    in_lockstep = True


class TestTheEmbeddedEngineInLockstepOnTorch(EmbeddedEngineContract):
    is_native, in_lockstep = False, True
