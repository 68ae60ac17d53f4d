"""Start here: attempt → grade → credit → learn → publish.

On-policy: every token is trained on by the weights that sampled it. The rollout process runs this; it never loads torch.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from agito.credit import leave_one_out
from agito.curriculum import Curriculum, Seen, draw
from agito.errors import BadRecipe
from agito.protocols import StepStats
from agito.rollout import Collected
from agito.schedule import Quota
from agito.studio import Studio
from agito.types import Attempt, Group, Sample, mean

RL_BASE, _STRIDE = 10_000_000, 10_000  # group ids: a range for every step


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step of the loop came to."""

    index: int
    groups: tuple[Group, ...]
    trained: tuple[Sample, ...]
    figures: Mapping[str, float]


async def train(
    studio: Studio, curriculum: Curriculum, *, start: int, on_step: Callable[[Step], Awaitable[None]], new_version: Callable[[], int]
) -> None:
    """RL from step `start` on; `on_step` is awaited after each. The optimizer's phase begins at step 0 and is restored later on."""
    recipe, compute = studio.recipe.rl, studio.compute
    assert compute is not None
    if start == 0:
        await compute.begin_phase("rl", max(recipe.steps, 1))
    await compute.publish(new_version())
    studio.take_busy_s()  # what was before is not ours
    for index in range(start, recipe.steps):
        began = time.monotonic()
        collected = await attempt(studio, index, curriculum)
        acted = time.monotonic()
        if recipe.follow:
            curriculum.learn(seen(group, len(studio.cells)) for group in collected.groups if not group.is_void)
        samples = tuple(sample for group in collected.groups if group.is_mixed for sample in leave_one_out(group))
        rate = min(1.0, sum(group.is_mixed for group in collected.groups) / recipe.groups)
        stats = await compute.step(samples, rate=rate) if samples else None
        await compute.publish(new_version())
        figures = (
            figures_of(collected, samples, stats)
            | curriculum.figures(studio.cells)
            | {
                "time/rollout_s": acted - began,
                "time/train_s": time.monotonic() - acted,
                "engine/busy_ratio": studio.take_busy_s() / compute.num_ranks / (acted - began),
            }
        )
        await on_step(Step(index=index, groups=collected.groups, trained=samples, figures=figures))


async def attempt(studio: Studio, index: int, curriculum: Curriculum) -> Collected:
    """Enough groups in which not everybody earned the same, or as many as the recipe allows; each rank has its own share."""
    recipe, ranks = studio.recipe.rl, studio.recipe.compute.ranks
    share = recipe.groups // ranks
    most = int(share * recipe.refill)
    numbers = draw(curriculum.weights(), most * ranks, seed=str(studio.recipe.seed), first=index * _STRIDE)
    if max(numbers) >= (index + 1) * _STRIDE:
        raise BadRecipe(f"rl.groups={recipe.groups}, rl.refill={recipe.refill}: the groups of one step must come from {_STRIDE} tasks")
    quotas = [
        Quota(
            ids=[RL_BASE + number for number in numbers[rank * most :][:most]], group_size=recipe.group_size, mixed=share,
            max_live=studio.recipe.compute.rows,
        )
        for rank in range(ranks)
    ]  # fmt: skip
    return await studio.attempts(studio.plan("train", RL_BASE), quotas, temperature=recipe.temperature)


def seen(group: Group, num_cells: int) -> Seen:
    """What the curriculum learns of a group."""
    solved = mean(attempt.verdict.scores.get("success", attempt.verdict.reward) for attempt in group.scored)
    return Seen(cell=(group.id - RL_BASE) % num_cells, is_mixed=group.is_mixed, solved=solved)


def figures_of(collected: Collected, samples: tuple[Sample, ...], stats: StepStats | None) -> dict[str, float]:
    attempts, groups = collected.attempts, collected.groups
    scored = [attempt for attempt in attempts if attempt.is_scored]
    sampled = [attempt.trajectory.num_sampled for attempt in attempts]
    figures = {
        "reward/mean": mean(attempt.verdict.reward for attempt in scored),
        "success/num": float(len(scored)),
        "success/successes": sum(attempt.verdict.scores.get("success", attempt.verdict.reward) for attempt in scored),
        "group/num": float(len(groups)),
        "group/mixed_ratio": sum(group.is_mixed for group in groups) / max(len(groups), 1),
        "attempt/void_num": float(len(attempts) - len(scored)),
        "attempt/retried_num": float(collected.retried),
        "length/sampled_tokens_mean": mean(map(float, sampled)),
        "length/turns_mean": mean(float(len(attempt.trajectory.turns)) for attempt in attempts),
        "tokens/sampled_num": float(sum(sampled)),
        "tokens/trained_num": float(sum(sample.num_trainable for sample in samples)),
        **tool_figures(attempts),
    }
    return figures | (dict(stats.values) if stats else {})


def tool_figures(attempts: tuple[Attempt, ...]) -> dict[str, float]:
    """What the tools cost; calls that never reached a tool (submissions, injected faults, unknown tools) are not counted."""
    ran = [event for attempt in attempts for event in attempt.trajectory.events if event.wall_s > 0]
    figures = {"tool/calls_num": float(len(ran))}
    if ran:
        figures["tool/cpu_ms_p50"] = 1e3 * statistics.median(event.cpu_s for event in ran)
        figures["tool/wall_ms_p50"] = 1e3 * statistics.median(event.wall_s for event in ran)
    return figures
