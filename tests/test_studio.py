"""What a recipe's words mean for an environment."""

from __future__ import annotations

import pytest

from agito.errors import BadRecipe
from agito.recipe import EnvSection, Recipe
from agito.studio import Studio
from agito.testing import FakeEnvironment


def studio(*, levels: tuple[int, ...] = ()) -> Studio:
    return Studio(Recipe(env=EnvSection(levels=levels)), FakeEnvironment())


def test_weights_are_one_where_no_cell_is_named() -> None:
    found = studio()
    family, level = found.cells[0]
    assert found.weights({f"{family}-{level}": 0.25}) == [0.25] + [1.0] * (len(found.cells) - 1)


def test_a_weight_of_what_is_no_cell_is_refused_whatever_stands_beside_it() -> None:
    found = studio()
    family, level = found.cells[0]
    with pytest.raises(BadRecipe, match="there is no cell elsewhere-1"):
        found.weights({"elsewhere-1": 3.0})
    with pytest.raises(BadRecipe, match="there is no cell elsewhere-1; there are "):
        found.weights({"elsewhere-1": 3.0, f"{family}-{level}": 1.0})
