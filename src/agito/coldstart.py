"""From nothing to a policy that can begin: a vocabulary, demonstrations through the same harness, supervised steps."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from agito.credit import demonstrations
from agito.curriculum import draw
from agito.protocols import ScriptFactory, StepStats
from agito.schedule import Quota
from agito.studio import Studio
from agito.types import Attempt, AttemptId, Key, Sample, Task

DEMO_BASE = 0
_BATCHES_A_CALL = 10
_SURVEY_BASE = 500_000  # of the training stream, so that no demonstration is surveyed


def demonstrator(studio: Studio) -> Callable[[Task, Key, AttemptId], ScriptFactory]:
    """The environment's imperfect script, at the recipe's skill."""
    environment, recipe = studio.environment, studio.recipe
    return lambda task, key, attempt: environment.demonstrator(task, key, skill=recipe.sft.skill, seed=recipe.seed << 32 | attempt.group)


async def survey(studio: Studio) -> None:
    """Learns the studio's vocabulary from what demonstrators say and read."""
    script = demonstrator(studio)
    studio.vocabulary = await studio.survey(
        studio.recipe.sft.survey, lambda task, key, index: script(task, key, AttemptId(group=_SURVEY_BASE + index, slot=0))
    )


async def demonstrate(studio: Studio, on_attempt: Callable[[Attempt], None]) -> tuple[Attempt, ...]:
    """Good and bad demonstrations alike, as many of each cell as the recipe says; void ones are left out."""
    numbers = draw(studio.weights(studio.recipe.sft.weights), studio.recipe.sft.demos)
    quota = Quota(ids=[DEMO_BASE + number for number in numbers], group_size=1, max_live=8)
    collected = await studio.attempts(studio.plan("train", DEMO_BASE, demonstrator(studio)), [quota], on_attempt=on_attempt)
    return tuple(attempt for attempt in collected.attempts if attempt.is_scored)


def batches(attempts: Sequence[Attempt], *, size: int, epochs: int, seed: int) -> list[list[Sample]]:
    """Every demonstration once an epoch, in an order of its own; the incomplete last batch of an epoch is left out."""
    samples = [sample for attempt in attempts for sample in demonstrations(attempt.trajectory)]
    rng = random.Random(f"sft/{seed}")
    ordered: list[list[Sample]] = []
    for _ in range(epochs):
        shuffled = rng.sample(samples, len(samples))
        ordered += [shuffled[at : at + size] for at in range(0, len(shuffled) - size + 1, size)]
    return ordered


async def imitate(studio: Studio, plan: Sequence[Sequence[Sample]], on_step: Callable[[int, StepStats], None]) -> None:
    """One supervised step a batch; `on_step` hears of them some at a time. Raises `ValueError` when there is less than one batch."""
    if not plan:
        raise ValueError("there is not one full batch of demonstrations: raise sft.demos or lower sft.batch")
    assert studio.compute is not None
    await studio.compute.begin_phase("sft", len(plan))
    for first in range(0, len(plan), _BATCHES_A_CALL):
        for step, stats in enumerate(await studio.compute.imitate(plan[first : first + _BATCHES_A_CALL]), first):
            on_step(step, stats)
