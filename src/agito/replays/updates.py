"""Replays a run's RL updates from its recorded tokens: the same batches, the same updates, the same weights.

Nothing acts and nothing is sampled, so this checks that the recorded tokens are the trained ones.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from agito import config
from agito.errors import AgitoError, NotFound
from agito.protocols import MAIN
from agito.recipe import Recipe
from agito.record import read_trajectories
from agito.runtime.policies import Policies
from agito.runtime.policy_sources import beside
from agito.runtime.run_context import open_run_context
from agito.training.learn_step import LearnStep
from agito.training.loop import learn_step
from agito.types import Attempt, Group

_START = "checkpoints/step-0"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatesReplay:
    """`checked`: number of checkpoints with identical weights; `differs`: the first other one, and its first
    different tensor."""

    steps: int
    checked: tuple[str, ...]
    differs: str = ""


async def replay_updates(run: Path, *, on_step: Callable[[int], None] = lambda step: None) -> UpdatesReplay:
    """Raises `NotFound` for a run without its cold start or without RL, and `AgitoError` for one whose
    weights were rolled back."""
    if not (run / _START).is_dir():
        raise NotFound(f"{run}: no {_START}; give the directory of a run that has begun with RL")
    recipe = config.read(Recipe, run / "config.toml")
    files = sorted((run / "trajectories").glob("rl-*.parquet"))
    if not files:
        raise NotFound(f"{run}: no RL step is recorded")
    if "monitor/rolled_back_to_step" in (run / "metrics.jsonl").read_text(encoding="utf-8"):
        raise AgitoError(f"{run}: an alarm rolled its weights back; such a run cannot be replayed")
    checked: list[str] = []
    async with open_run_context(recipe) as run_context:
        policies = run_context.policies
        await policies.open(run / _START)
        await policies.begin_rl(recipe.rl.steps)
        version, step = 0, learn_step(run_context)
        for index, path in enumerate(files):
            version = await _step(policies, step, index, path, version)
            on_step(index + 1)
            for name in (f"step-{index + 1}", *(("final",) if index + 1 == recipe.rl.steps else ())):
                if not (run / "checkpoints" / name).is_dir():
                    continue
                if differs := await _difference(policies, run / "checkpoints" / name):
                    return UpdatesReplay(
                        steps=index + 1, checked=tuple(checked), differs=f"{name}: {differs}"
                    )
                checked.append(name)
    return UpdatesReplay(steps=len(files), checked=tuple(checked))


async def _step(policies: Policies, step: LearnStep, index: int, path: Path, version: int) -> int:
    """Returns the version that it began with."""
    found = read_trajectories(path)
    attempts = [recorded.attempt for recorded in found]
    groups = [
        _group(number, tuple(members))
        for number, members in groupby(attempts, key=lambda attempt: attempt.trajectory.attempt.group)
    ]
    versions = [
        span.version
        for attempt in attempts
        for segment in attempt.trajectory.segments
        for span in segment.tokens.versions
    ]
    version = max([version + 1, *versions])
    await policies.publish(version)  # the trainer must be as new as what it trains on

    async def nothing() -> None:
        return

    untouched = {
        group.id
        for group in groups
        if not any(recorded.stats for recorded in found if recorded.attempt in group.attempts)
    }
    await step.learn(index, groups, publish=nothing, revoked=untouched)
    return version


def _group(number: int, attempts: tuple[Attempt, ...]) -> Group:
    own = tuple(attempt for attempt in attempts if attempt.trajectory.lineage is None)
    forks = tuple(attempt for attempt in attempts if attempt.trajectory.lineage is not None)
    return Group(id=number, task=own[0].trajectory.task, attempts=own, forks=forks)


async def _difference(policies: Policies, checkpoint: Path) -> str:
    """The first tensor that is not the checkpoint's; empty when all are."""
    with tempfile.TemporaryDirectory(prefix="agito-replay-") as directory:
        again = Path(directory) / "checkpoints" / "again"
        await policies.save(again, {})
        for name in policies.learning:
            places = [each if name == MAIN else beside(each, name) for each in (checkpoint, again)]
            was, now = (json.loads((each / "manifest.json").read_text())["tensors"] for each in places)
            if differs := next((tensor for tensor in was if was[tensor] != now.get(tensor)), ""):
                return differs if name == MAIN else f"{name}: {differs}"
    return ""
