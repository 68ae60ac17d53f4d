"""A served model on an environment's tasks, in the natural dialect; worlds and verdicts are here.

The recipe has to speak that dialect."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import anyio

from agito.concurrency import first_error
from agito.errors import EndpointFailed
from agito.evaluation import policies as evaluation
from agito.evaluation.saved_policy import Evaluation, check, num_tasks_of
from agito.protocols import Harness
from agito.recipe import Recipe
from agito.record.events import EventLog, OnEvent
from agito.rollout import EpisodeDriver, scripted
from agito.rollout.episode import Act
from agito.runtime.run_context import RunContext, open_run_context
from agito.types import Attempt, AttemptId, Target, Task

_CONCURRENT = 8  # attempts


class Client(Harness, Protocol):
    """A harness whose policy is elsewhere."""

    num_answers: int
    failure: str  # the last, in plain words


async def attempts(
    client: Client,
    run_context: RunContext,
    split: str,
    num_tasks: int,
    *,
    num_attempts: int = 1,
    on_attempt: Callable[[Attempt], None] = lambda _: None,
) -> tuple[Attempt, ...]:
    """At the tasks of `policies.policy`, in order, with the same faults. One that the endpoint fails is void.

    Raises `EndpointFailed` as soon as it is clear that the endpoint never answers.
    """
    base, num_done = evaluation.base_of(split), 0
    ids = [AttemptId(group=base + at, slot=slot) for at in range(num_tasks) for slot in range(num_attempts)]

    def act(task: Task, target: Target, attempt: AttemptId) -> Act:
        return lambda session: client.run(task, session, {}, attempt, seed=0)

    def look(attempt: Attempt) -> None:
        nonlocal num_done
        num_done += 1
        on_attempt(attempt)
        if client.failure and not client.num_answers and num_done >= min(_CONCURRENT, len(ids)):
            raise EndpointFailed(client.failure)

    return await _driven(run_context, split, base, ids, act, look)


async def scripts(run_context: RunContext, split: str, num_tasks: int) -> dict[str, tuple[Attempt, ...]]:
    """`policies.scripts`, without the tokens that they would have cost: there is no tokenizer."""
    found: dict[str, tuple[Attempt, ...]] = {}
    ways = evaluation.ways(run_context, split, run_context.recipe.sft.skill)
    for number, (name, way) in enumerate(ways.items()):
        base = evaluation.BASELINE_BASE + number * 100_000

        def act(task: Task, target: Target, attempt: AttemptId, way: evaluation.Way = way) -> Act:
            return scripted(way(task, target, attempt), task, attempt)

        ids = [AttemptId(group=base + at, slot=0) for at in range(num_tasks)]
        found[name] = await _driven(run_context, split, base, ids, act)
    return found


async def _driven(
    run_context: RunContext,
    split: str,
    base: int,
    ids: Sequence[AttemptId],
    act: Callable[[Task, Target, AttemptId], Act],
    on_attempt: Callable[[Attempt], None] = lambda _: None,
) -> tuple[Attempt, ...]:
    limiter, found = anyio.CapacityLimiter(_CONCURRENT), dict[AttemptId, Attempt]()
    driver = EpisodeDriver(run_context.environment, noise_seed=run_context.recipe.seed)

    async def run(attempt: AttemptId) -> None:
        task, target = run_context.task(split, attempt.group - base)
        async with limiter:
            finished = await driver.run(task, target, attempt, act(task, target, attempt))
        found[attempt] = Attempt(trajectory=finished.trajectory, verdict=finished.verdict)
        on_attempt(found[attempt])

    try:
        async with anyio.create_task_group() as tasks:
            for attempt in ids:
                tasks.start_soon(run, attempt)
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None
    return tuple(found[attempt] for attempt in ids)


async def evaluate(
    client: Client,
    name: str,
    recipe: Recipe,
    on_event: OnEvent,
    *,
    split: str,
    num_tasks: int,
    temperature: float,
    baselines: bool = True,
    num_attempts: int = 1,
) -> Evaluation:
    """`name`: of the endpoint. Raises as `attempts`, and `BadRecipe` as `evaluate_checkpoint`."""
    began = time.monotonic()
    async with open_run_context(recipe) as run_context:
        environment = run_context.environment
        check(environment, recipe, split)
        num_tasks = num_tasks_of(environment, split, num_tasks)
        events = EventLog(on_event)
        events.begin("policy", num_tasks * num_attempts)
        own = await attempts(
            client,
            run_context,
            split,
            num_tasks,
            num_attempts=num_attempts,
            on_attempt=lambda attempt: events.advance(evaluation.metrics(attempt)),
        )
        events.emit(evaluation.finished("policy", "policy", own))
        others: Mapping[str, Sequence[Attempt]] = {}
        if baselines:
            events.begin("baselines", 0)
            others = await scripts(run_context, split, num_tasks)
            for script, each in others.items():
                events.emit(evaluation.finished("baselines", script, each))
        return Evaluation.of(
            name, recipe, environment, own, others, split=split, temperature=temperature, began=began
        )
