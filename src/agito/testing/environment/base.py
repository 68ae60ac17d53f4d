"""Shared parts of an environment's rules: how it is made, and which of its tasks are checked."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import product

import anyio

from agito.protocols import Environment, Renderer
from agito.testing.contract import Contract
from agito.types import Target, Task


class EnvironmentBase(Contract):
    seed: int = 20_250  # of the checked task streams
    num_tasks: int = 8  # per stream where a rule only builds tasks
    num_noise: int = 3  # noise seeds under which a solution must succeed
    num_episodes: int = 48  # per negative control and per demonstrator skill
    full_reward: float = 1.0

    async def make(self) -> Environment:
        """A fresh environment. Called several times; each is closed with `aclose`."""
        raise NotImplementedError("override make() to say which environment is tested")

    def renderers(self) -> Sequence[Renderer]:
        """One per dialect; without them the rule about dialects is skipped."""
        return ()

    @asynccontextmanager
    async def environment(self) -> AsyncGenerator[Environment]:
        env = await self.make()
        try:
            yield env
        finally:
            with anyio.CancelScope(shield=True):
                await env.aclose()

    def num_stream(self, env: Environment) -> int:
        """The number of tasks that covers every cell, and at least `num_tasks`."""
        return max(self.num_tasks, len(env.families) * len(env.levels))

    def sample(self, env: Environment, split: str) -> Iterator[tuple[Task, Target]]:
        """One task of every family and level."""
        for index, (family, level) in enumerate(product(env.families, env.levels)):
            yield env.task(split=split, index=index, seed=self.seed, family=family, level=level)

    def one_per_family(self, env: Environment, split: str = "train") -> Iterator[tuple[Task, Target]]:
        """The hardest task of every family."""
        for family in env.families:
            yield env.task(split=split, index=1, seed=self.seed, family=family, level=env.levels[-1])


def tail(successes: float, trials: int, chance: float) -> float:
    """P(X >= successes) for X ~ Binomial(trials, chance)."""
    least = math.ceil(successes - 1e-9)
    return sum(
        math.comb(trials, k) * chance**k * (1 - chance) ** (trials - k) for k in range(least, trials + 1)
    )
