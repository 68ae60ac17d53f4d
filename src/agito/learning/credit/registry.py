"""Credit estimators by name. A new one is a file beside this one, and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from agito import plugins
from agito.errors import BadRecipe
from agito.learning.credit.by_replay import by_replay
from agito.learning.credit.group_mean import group_mean
from agito.learning.credit.leave_one_out import leave_one_out
from agito.learning.credit.own_and_team import own_and_team
from agito.learning.credit.per_role import per_role, per_role_spread
from agito.protocols import Credit

CREDITS: Mapping[str, Credit] = {
    "leave_one_out": leave_one_out,
    "group_mean": group_mean,
    "by_replay": by_replay,
    "per_role": per_role,
    "per_role_spread": per_role_spread,
    "own_and_team": own_and_team,
}


def load(name: str) -> Credit:
    """The estimator of this name, or an instance of the class at `path.py:Class`.

    Raises `NotFound` for an unknown name, a missing file or class; `BadRecipe` for one that fails.
    """
    if name in CREDITS:
        return CREDITS[name]
    bundled = dict.fromkeys(CREDITS, "")
    return cast("Credit", plugins.make("credit", name, bundled, ("__call__",), BadRecipe))
