"""A mixture satisfies the environment contract and the weights of its recipe."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from agito.envs import Mixture
from agito.protocols import Environment, Renderer
from agito.recipe import EnvSection, MixSection, Recipe
from agito.runtime.run_context import open_run_context
from agito.testing import ByteRenderer, EnvironmentContract, FakeEnvironment
from agito.types import Dialect


class Medal(FakeEnvironment):
    """A second environment with other levels."""

    name, levels = "medal", (2, 3)


class TestMixture(EnvironmentContract):
    async def make(self) -> Environment:
        return Mixture([FakeEnvironment(), Medal()])

    def renderers(self) -> Sequence[Renderer]:
        return [ByteRenderer(dialect) for dialect in Dialect]


def test_an_environment_cannot_be_mixed_with_itself() -> None:
    with pytest.raises(ValueError, match="each once"):
        Mixture([FakeEnvironment(), FakeEnvironment()])


@pytest.mark.anyio
async def test_the_recipe_says_which_cells_are_mixed_and_how_much_of_each_environment_is_trained_on() -> None:
    mix = (
        MixSection(name="decisions", families=("fanout", "probe"), levels=(1,), weight=3),
        MixSection(name="agito.testing:FakeEnvironment", levels=(2,)),
    )
    async with open_run_context(Recipe(env=EnvSection(mix=mix))) as run_context:
        assert run_context.cells == (("decisions.fanout", 1), ("decisions.probe", 1), ("coin.coin", 2))
        assert run_context.weights({}) == [1.5, 1.5, 1.0]
        assert run_context.weights({"decisions.probe-1": 3.0}) == [0.75, 2.25, 1.0]
        task, _ = run_context.task("heldout", 2)
        assert (task.env, task.cell) == ("mixture", "coin.coin-2")
