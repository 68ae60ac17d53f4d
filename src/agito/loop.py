"""Start here: attempt → grade → credit → learn → publish.

On-policy: every token is trained on by the weights that sampled it. The rollout process runs this; it never loads torch.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from agito.credit import leave_one_out
from agito.curriculum import Curriculum, Seen, draw
from agito.errors import BadRecipe, EnvironmentPaused
from agito.grading.monitor import Monitor
from agito.protocols import StepStats
from agito.record.trajectories import is_success
from agito.rollout import Collected
from agito.schedule import Quota
from agito.studio import Studio
from agito.types import Attempt, Group, Sample, mean

# Loads the last checkpoint that was made before a step, and returns which step it begins with.
RollBack: TypeAlias = Callable[[int], Awaitable[int]]

RL_BASE, _STRIDE = 10_000_000, 10_000  # group ids: a range for every step


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step of the loop came to."""

    index: int
    groups: tuple[Group, ...]
    trained: tuple[Sample, ...]
    figures: Mapping[str, float]
    paused: str = ""  # why nothing was learned from it, nor will be from the steps that would have followed


async def train(
    studio: Studio,
    curriculum: Curriculum,
    *,
    start: int,
    on_step: Callable[[Step], Awaitable[None]],
    new_version: Callable[[], int],
    monitor: Monitor | None = None,
    roll_back: RollBack | None = None,
) -> None:
    """RL from step `start` on; `on_step` is awaited after each. The optimizer's phase begins at step 0 and is restored later on.

    Nothing is learned from a step in which the monitor raises the alarm: it ends in `EnvironmentPaused`, or is followed by `roll_back`, as
    the recipe says.
    """
    recipe, compute, monitor = studio.recipe.rl, studio.compute, monitor or studio.new_monitor()
    assert compute is not None
    if start == 0:
        await compute.begin_phase("rl", max(recipe.steps, 1))
    await compute.publish(new_version())
    studio.take_busy_s()  # what was before is not ours
    for index in range(start, recipe.steps):
        began, cpu_s = time.monotonic(), time.process_time()
        collected = await attempt(studio, index, curriculum, monitor)
        acted = time.monotonic()
        groups, watched = monitor.see(index, collected.groups)
        collected = replace(collected, groups=groups)
        if monitor.is_paused:
            await on_step(pause := paused(studio, monitor, index, collected, watched))
            raise EnvironmentPaused(pause.paused)
        if recipe.follow:
            curriculum.learn(seen(group, len(studio.cells)) for group in groups if not group.is_void)
        is_rolled_back = roll_back is not None and monitor.masks and monitor.alarm_step == index
        if roll_back is not None and is_rolled_back:
            watched["monitor/rolled_back_to_step"] = float(await roll_back(monitor.rise_step))
        samples = () if is_rolled_back else tuple(sample for group in groups if group.is_mixed for sample in leave_one_out(group))
        rate = min(1.0, sum(group.is_mixed for group in groups) / recipe.groups)
        stats = await compute.step(samples, rate=rate) if samples else None
        await compute.publish(new_version())
        spent = {
            "time/rollout_s": acted - began,
            "time/train_s": time.monotonic() - acted,
            "engine/busy_ratio": studio.take_busy_s() / compute.num_ranks / (acted - began),
            "rollout/busy_ratio": (time.process_time() - cpu_s) / (time.monotonic() - began),
        }
        figures = figures_of(collected, samples, stats) | curriculum.figures(studio.cells) | watched | spent
        await on_step(Step(index=index, groups=groups, trained=samples, figures=figures))


async def attempt(studio: Studio, index: int, curriculum: Curriculum, monitor: Monitor) -> Collected:
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
    return await studio.attempts(studio.plan("train", RL_BASE), quotas, temperature=recipe.temperature, monitor=monitor)


def paused(studio: Studio, monitor: Monitor, index: int, collected: Collected, watched: dict[str, float]) -> Step:
    """A step that is recorded, and not learned from."""
    rate, num = monitor.rate.rise
    why = (
        f"environment {studio.environment.name} is paused at RL step {index}: an estimated {rate:.1%} of the last {num} attempts were paid "
        f"for what gold or proof denies (monitor.limit={monitor.config.limit:g}); nothing was learned from this step. Read them in "
        'report.html, close the hole, and go on with --resume; or set on_alarm = "quarantine" under [monitor] in the run\'s config.toml'
    )
    return Step(index=index, groups=collected.groups, trained=(), figures=figures_of(collected, (), None) | watched, paused=why)


def seen(group: Group, num_cells: int) -> Seen:
    """What the curriculum learns of a group."""
    solved = mean(float(bool(is_success(attempt))) for attempt in group.scored)
    return Seen(cell=(group.id - RL_BASE) % num_cells, is_mixed=group.is_mixed, solved=solved)


def figures_of(collected: Collected, samples: tuple[Sample, ...], stats: StepStats | None) -> dict[str, float]:
    attempts, groups = collected.attempts, collected.groups
    scored = [attempt for attempt in attempts if attempt.is_scored]
    sampled = [attempt.trajectory.num_sampled for attempt in attempts]
    figures = {
        "reward/mean": mean(attempt.verdict.reward for attempt in scored),
        "success/num": float(len(scored)),
        "success/successes": float(sum(bool(is_success(attempt)) for attempt in scored)),
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
