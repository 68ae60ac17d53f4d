"""Start here: attempt → grade → credit → learn → publish.

Synchronous: a batch is sampled with the weights that its step starts from; where a step has minibatches,
the later ones are one update off. The rollout process runs this; it never loads torch.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from agito.errors import EnvironmentPaused
from agito.learning.credit import RunningMeans
from agito.monitor import Monitor
from agito.protocols import MAIN, Finite, StepStats
from agito.record.trajectories import is_success
from agito.rollout import Collected, DeadlineLog, Observed
from agito.runtime.run_context import RunContext
from agito.scheduling.curriculum import Curriculum, draw
from agito.scheduling.sync_scheduler import Quota
from agito.training.branching import fork_metrics, with_forks
from agito.training.components import score_metrics
from agito.training.effort_meters import effort_metrics
from agito.training.learn_step import Learned, LearnStep, RollBack
from agito.training.teacher import Teacher
from agito.training.team_meters import team_metrics
from agito.types import Attempt, Group, Sample, mean

RL_BASE = 10_000_000  # of group ids
_STRIDE = 10_000  # task numbers of a step, if they are enough


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The result of one step."""

    index: int
    groups: tuple[Group, ...]
    trained: tuple[Sample, ...]
    metrics: Mapping[str, float]
    notes: tuple[str, ...] = ()  # for people
    paused: str = ""  # why training stopped at this step; empty otherwise


async def train(
    run_context: RunContext,
    curriculum: Curriculum,
    *,
    start: int,
    on_step: Callable[[Step], Awaitable[None]],
    new_version: Callable[[], int],
    monitor: Monitor | None = None,
    means: RunningMeans | None = None,
    observed: DeadlineLog | None = None,
    roll_back: RollBack | None = None,
) -> None:
    """RL from step `start` on; `on_step` is awaited after each. The optimizer's phase begins at step 0 and is
    restored later on.

    Nothing is learned from a step in which the monitor raises the alarm: it ends in `EnvironmentPaused`, or
    is followed by `roll_back`, as the recipe says.
    """
    recipe, policies, monitor = (
        run_context.recipe.rl,
        run_context.policies,
        monitor or run_context.new_monitor(),
    )
    if start == 0:
        await policies.begin_rl(recipe.steps)
    step = learn_step(run_context, monitor=monitor, curriculum=curriculum, means=means, roll_back=roll_back)
    await policies.publish(new_version())
    run_context.take_busy_s()  # what was before is not ours
    for index in range(start, recipe.steps):
        began, cpu_s = time.monotonic(), time.process_time()
        collected = await collect_groups(run_context, index, curriculum, monitor, observed)
        plan = run_context.plan("train", RL_BASE)
        groups = await with_forks(run_context, collected.groups, plan, monitor=monitor, observed=observed)
        acted = time.monotonic()
        learned = await step.learn(index, groups, publish=lambda: policies.publish(new_version()))
        spent = {
            "time/rollout_s": acted - began,
            "engine/busy_ratio": run_context.take_busy_s() / len(policies.sampling_workers) / (acted - began),
            "rollout/busy_ratio": (time.process_time() - cpu_s) / (time.monotonic() - began),
        }
        await on_step(
            make_step(
                index,
                learned,
                retried=collected.retried,
                others=curriculum.metrics(run_context.cells) | spent,
            )
        )
        if learned.pause:
            raise EnvironmentPaused(paused(run_context, index, learned))


def learn_step(
    run_context: RunContext,
    *,
    monitor: Monitor | None = None,
    curriculum: Curriculum | None = None,
    means: RunningMeans | None = None,
    roll_back: RollBack | None = None,
) -> LearnStep:
    """The step of the run's recipe."""
    num_cells, distill = len(run_context.cells), run_context.recipe.distill
    return LearnStep(
        run_context.policies,
        run_context.recipe.rl,
        means=means or RunningMeans(),
        monitor=monitor,
        curriculum=curriculum,
        cell_of=lambda group: (group.id - RL_BASE) % num_cells,
        roll_back=roll_back,
        teacher=Teacher(run_context.policies, distill) if distill.teacher else None,
        effort=run_context.recipe.effort,
        prices=run_context.prices if run_context.prices.are_on else None,
    )


def make_step(index: int, learned: Learned, *, retried: int, others: Mapping[str, float]) -> Step:
    """The step, with its metrics."""
    collected = Collected(groups=learned.groups, retried=retried)
    metrics = metrics_of(collected, learned.samples, learned.stats) | learned.metrics | dict(others)
    return Step(
        index=index,
        groups=learned.groups,
        trained=learned.samples,
        metrics=metrics,
        notes=learned.notes,
        paused=learned.pause,
    )


async def collect_groups(
    run_context: RunContext,
    index: int,
    curriculum: Curriculum,
    monitor: Monitor,
    observed: Observed | None = None,
) -> Collected:
    """Collects groups until enough have nonzero variance (dynamic sampling, arXiv:2503.14476), up to `groups`
    x `oversampling`; each rank its own share.
    """
    recipe, ranks = run_context.recipe.rl, run_context.recipe.compute.ranks
    share = recipe.groups // ranks
    most = int(share * recipe.oversampling)
    is_finite = isinstance(run_context.environment, Finite)
    first = index * stride(most * ranks, len(run_context.cells), is_finite=is_finite)
    numbers = draw(curriculum.weights(), most * ranks, seed=str(run_context.recipe.seed), first=first)
    quotas = [
        Quota(
            ids=[RL_BASE + number for number in numbers[rank * most :][:most]],
            group_size=recipe.group_size,
            nonzero_variance=share,
            max_live=run_context.recipe.compute.max_num_seqs,
        )
        for rank in range(ranks)
    ]
    return await run_context.attempts(
        run_context.plan("train", RL_BASE),
        quotas,
        temperature=recipe.temperature,
        monitor=monitor,
        observed=observed,
    )


def stride(num_groups: int, num_cells: int, *, is_finite: bool = False) -> int:
    """Task numbers that are set aside for a step of so many groups: enough for all of them to come from one
    cell. A finite set of tasks leaves none out, so that it is gone through in turn.
    """
    return num_groups if is_finite and num_cells == 1 else max(_STRIDE, num_groups * num_cells)


def paused(run_context: RunContext, index: int, learned: Learned) -> str:
    """Why the run stops before its end."""
    return f"environment {run_context.environment.name} is paused at RL step {index}: {learned.pause}"


def metrics_of(
    collected: Collected, samples: tuple[Sample, ...], stats: Mapping[str, StepStats]
) -> dict[str, float]:
    """What a learner says of its step stands under its policy's name, but for that of `main`."""
    attempts, groups = collected.attempts, collected.groups
    scored = [attempt for attempt in attempts if attempt.is_scored]
    sampled = [attempt.trajectory.num_sampled for attempt in attempts]
    metrics = {
        "reward/mean": mean(attempt.verdict.reward for attempt in scored),
        "success/num": float(len(scored)),
        "success/successes": float(sum(bool(is_success(attempt)) for attempt in scored)),
        "group/num": float(len(groups)),
        "group/mixed_ratio": sum(group.has_variance for group in groups) / max(len(groups), 1),
        "attempt/void_num": float(len(attempts) - len(scored)),
        "attempt/retried_num": float(collected.retried),
        "success/all_num": float(len(attempts)),  # void ones are failures here
        "length/sampled_tokens_mean": mean(map(float, sampled)),
        "length/turns_mean": mean(float(attempt.trajectory.num_turns) for attempt in attempts),
        "tokens/sampled_num": float(
            sum(each.trajectory.num_sampled for group in groups for each in group.all_attempts)
        ),
        "tokens/trained_num": float(sum(sample.num_trainable for sample in samples)),
        **tool_metrics(attempts),
        **effort_metrics(groups),
        **score_metrics(attempts),
        **team_metrics(attempts),
        **fork_metrics(groups),
    }
    learned = {
        name if policy == MAIN else f"{policy}/{name}": value
        for policy, each in stats.items()
        for name, value in each.values.items()
    }
    return metrics | learned


def tool_metrics(attempts: tuple[Attempt, ...]) -> dict[str, float]:
    """What the tools cost; calls that never reached a tool (submissions, injected faults, unknown tools) are
    not counted.
    """
    ran = [event for attempt in attempts for event in attempt.trajectory.events if event.wall_s > 0]
    metrics = {"tool/calls_num": float(len(ran))}
    if ran:
        metrics["tool/cpu_ms_p50"] = 1e3 * statistics.median(event.cpu_s for event in ran)
        metrics["tool/wall_ms_p50"] = 1e3 * statistics.median(event.wall_s for event in ran)
    return metrics
