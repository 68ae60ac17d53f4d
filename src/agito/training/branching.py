"""Forks of a step's attempts, for credit by replay: sampled with the same weights, before the update."""

from __future__ import annotations

from collections.abc import Sequence

from agito.learning.credit import agent_credits, turn_credits
from agito.monitor import Monitor
from agito.rollout import DeadlineLog, ForkRunner, Plan, fork_points, numbered
from agito.runtime.run_context import RunContext
from agito.scheduling.sync_scheduler import Quota
from agito.types import Group, mean

BY_REPLAY = "by_replay"


async def with_forks(
    run_context: RunContext,
    groups: tuple[Group, ...],
    plan: Plan,
    *,
    monitor: Monitor | None = None,
    observed: DeadlineLog | None = None,
) -> tuple[Group, ...]:
    """The groups with forks of attempts whose group has a gradient, where the recipe's credit asks for
    them. They are checked as their parents are.
    """
    recipe, ranks = run_context.recipe.rl, run_context.recipe.compute.ranks
    if recipe.credit != BY_REPLAY:
        return groups
    teaching = [group for group in groups if group.has_variance]
    points = fork_points(teaching, ratio=recipe.fork_ratio, seed=run_context.recipe.seed)
    quotas = [
        Quota(
            ids=range(len(points))[rank::ranks],
            group_size=recipe.fork_times,
            max_live=run_context.recipe.compute.max_num_seqs,
        )
        for rank in range(ranks)
    ]
    runner = ForkRunner(
        run_context.harness,
        points,
        lambda harness: run_context.runner(temperature=recipe.temperature, monitor=monitor, harness=harness),
        observed=observed,
    )
    collected = await run_context.attempts(plan, quotas, temperature=recipe.temperature, runner=runner)
    return numbered(collected.attempts, groups)


def fork_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """What forks cost and found; nothing where there are none."""
    forks = [fork for group in groups for fork in group.forks]
    if not forks:
        return {}
    sizes = [
        abs(credit)
        for group in groups
        for attempt in group.trusted
        for credit in turn_credits(attempt, group).values()
    ]
    return {
        "fork/num": float(len(forks)),
        "fork/void_num": float(sum(not fork.is_scored for fork in forks)),
        "fork/tokens_num": float(sum(fork.trajectory.num_sampled for fork in forks)),
        "fork/turns_num": float(len(sizes)),
        **({"fork/credit_abs_mean": mean(sizes)} if sizes else {}),
        **_of_agents(groups),
    }


def _of_agents(groups: Sequence[Group]) -> dict[str, float]:
    """The difference that spawned agents made, by role."""
    found: dict[str, list[float]] = {}
    for group in groups:
        for attempt in group.trusted:
            roles = {segment.agent: segment.role for segment in attempt.trajectory.segments}
            for agent, credit in agent_credits(attempt, group).items():
                found.setdefault(roles[agent], []).append(credit)
    return {f"fork/{role}_credit_mean": mean(each) for role, each in found.items()}
