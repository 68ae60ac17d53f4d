"""The five diagnostic worlds keep the contract."""

from __future__ import annotations

from collections.abc import Sequence

from agito.envs.decisions import DecisionsEnvironment
from agito.protocols import Environment, Renderer
from agito.render import learn, renderer
from agito.testing.environment import EnvironmentContract
from agito.types import Dialect


class TestDecisionsEnvironment(EnvironmentContract):
    async def make(self) -> Environment:
        return DecisionsEnvironment()

    def renderers(self) -> Sequence[Renderer]:
        vocabulary = learn(["get kol", "start dun let"], size=300)
        return [renderer(dialect, vocabulary) for dialect in Dialect]
