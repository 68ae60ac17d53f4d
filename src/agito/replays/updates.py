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
from agito.recipe import Recipe
from agito.record import read_trajectories
from agito.runtime.roles import PolicyHandle
from agito.runtime.run_context import open_run_context
from agito.training.learn import LearnStep
from agito.training.loop import learn_step
from agito.types import Group

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
        raise AgitoError(
            f"{run}: an alarm took its weights back; what was learned and unlearned again is not repeated"
        )
    checked: list[str] = []
    async with open_run_context(recipe) as run_context:
        await run_context.open_policy(run / _START)
        policy = run_context.policy
        await policy.learner.begin_phase("rl", max(recipe.rl.steps, 1))
        version, step = 0, learn_step(run_context)
        for index, path in enumerate(files):
            version = await _step(policy, step, index, path, version)
            on_step(index + 1)
            for name in (f"step-{index + 1}", *(("final",) if index + 1 == recipe.rl.steps else ())):
                if not (run / "checkpoints" / name).is_dir():
                    continue
                if differs := await _difference(policy, run / "checkpoints" / name):
                    return UpdatesReplay(
                        steps=index + 1, checked=tuple(checked), differs=f"{name}: {differs}"
                    )
                checked.append(name)
    return UpdatesReplay(steps=len(files), checked=tuple(checked))


async def _step(policy: PolicyHandle, step: LearnStep, index: int, path: Path, version: int) -> int:
    """Returns the version at the start of the step."""
    found = read_trajectories(path)
    attempts = [recorded.attempt for recorded in found]
    groups = [
        Group(id=number, task=(each := tuple(members))[0].trajectory.task, attempts=each)
        for number, members in groupby(attempts, key=lambda attempt: attempt.trajectory.attempt.group)
    ]
    versions = [
        span.version
        for attempt in attempts
        for segment in attempt.trajectory.segments
        for span in segment.tokens.versions
    ]
    version = max([version + 1, *versions])
    await policy.publish(version)  # the trainer must be as new as its data

    async def nothing() -> None:
        return

    untouched = {
        group.id
        for group in groups
        if not any(recorded.stats for recorded in found if recorded.attempt in group.attempts)
    }
    await step.learn(index, groups, publish=nothing, revoked=untouched)
    return version


async def _difference(policy: PolicyHandle, checkpoint: Path) -> str:
    """The first tensor that differs from the checkpoint; empty if none."""
    with tempfile.TemporaryDirectory(prefix="agito-replay_updates-") as directory:
        await policy.learner.save(Path(directory) / "again", meta={}, tokenizer={})
        was, now = (
            json.loads((where / "manifest.json").read_text())["tensors"]
            for where in (checkpoint, Path(directory) / "again")
        )
    return next((name for name in was if was[name] != now.get(name)), "")
