"""The natural dialect trains: every bundled environment and every world of `decisions`, in the smallest
possible run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import count, product

import pytest

from agito.envs import load
from agito.errors import BadRecipe
from agito.evaluation import policies as evaluation
from agito.models.recipe_sections import ModelSection
from agito.recipe import ComputeSection, EnvSection, Recipe, RlSection, SftSection, read
from agito.render import NaturalRenderer, learn, texts_of
from agito.runtime.pool import WorkerPool
from agito.runtime.run_context import RunContext
from agito.scheduling.curriculum import Curriculum
from agito.testing import FakeEnvironment
from agito.training import cold_start as coldstart
from agito.training import loop
from agito.types import Dialect, Fault, Target, Task

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]
DECISIONS = ["chain", "probe", "tooldag", "ledger", "fanout"]
REALISTIC = ["shell-realistic", "code-realistic", "desk-realistic", "thinking-realistic"]
WORLDS = ["shell", "code", "desk", "research", "web-text", "parallel", "replan", *REALISTIC, *DECISIONS]
CONTEXT = 1536


def recipe_for(world: str) -> Recipe:
    is_decision = world in DECISIONS
    return Recipe(
        env=EnvSection(
            name="decisions" if is_decision else world,
            families=(world,) if is_decision else (),
            levels=(1,),
            dialect=Dialect.NATURAL,
        ),
        model=ModelSection(hidden_size=64, intermediate_size=96, num_heads=2, num_kv_heads=2),
        compute=ComputeSection(ranks=1, max_num_seqs=8, context=CONTEXT),
        sft=SftSection(
            demos=96 if world == "parallel" else 48, epochs=2, batch=2, skill=1.0, tokenizer_episodes=16
        ),
        rl=RlSection(steps=1, groups=2, group_size=2, oversampling=1.0),
    )


@pytest.fixture(scope="module")
async def pool(anyio_backend: str) -> AsyncIterator[WorkerPool]:
    """One worker for all tests."""
    pool = WorkerPool(1)
    yield pool
    await pool.aclose()


@pytest.mark.parametrize("world", WORLDS)
async def test_a_run_in_the_natural_dialect_samples_acts_and_learns(pool: WorkerPool, world: str) -> None:
    recipe = recipe_for(world)
    run_context = RunContext(recipe, load(recipe.env.name))
    losses: list[float] = []
    steps: list[loop.Step] = []

    async def keep(step: loop.Step) -> None:
        steps.append(step)

    try:
        await coldstart.train_tokenizer(run_context)
        run_context.policies.pool = pool
        await run_context.policies.open()
        demos = await coldstart.run_sft(
            run_context, lambda _: None, lambda _, stats: losses.append(stats.values["sft/loss_nats"])
        )
        versions = count(1)
        await loop.train(
            run_context,
            Curriculum(len(run_context.cells)),
            start=0,
            on_step=keep,
            new_version=lambda: next(versions),
        )
        attempts = await evaluation.policy(run_context, "heldout", 8, temperature=0.5)
    finally:
        await run_context.environment.aclose()
    assert all(event.call.problem is None for demo in demos for event in demo.trajectory.events)
    assert sum(demo.verdict.reward > 0 for demo in demos) > len(demos) / 2
    first, last = sum(losses[:4]) / 4, sum(losses[-12:]) / 12
    assert last < first / 3, f"{first:.2f} -> {last:.2f}"
    acted = [*attempts, *(attempt for group in steps[0].groups for attempt in group.attempts)]
    assert all(attempt.is_scored and attempt.trajectory.num_sampled for attempt in acted), [
        (attempt.verdict.evidence, attempt.trajectory.detail) for attempt in acted if not attempt.is_scored
    ]
    carried_out = [
        event for attempt in acted for event in attempt.trajectory.events if event.fault is not Fault.POLICY
    ]
    assert len(carried_out) >= len(acted), (
        f"{len(carried_out)} calls were carried out in {len(acted)} attempts"
    )


@pytest.mark.parametrize("world", WORLDS)
def test_an_honest_attempt_has_room_in_the_natural_dialect_at_every_level(world: str) -> None:
    """The bundled tasks with a tokenizer of their own words: a prompt, and in every turn the longest call and
    observation."""
    recipe = recipe_for(world)
    environment = load(recipe.env.name)
    for family, level in product(recipe.env.families or environment.families, environment.levels):
        tasks = [
            environment.task(split="structural", index=index, seed=1, family=family, level=level)[0]
            for index in range(8)
        ]
        written = NaturalRenderer(
            learn([text for task in tasks for text in texts_of(Dialect.NATURAL, task, ())], size=1280)
        )
        for task in tasks:
            limits = task.in_dialect(Dialect.NATURAL).limits
            assert len(written.opening(task)) + 40 * limits.turns <= limits.tokens, task.id


class _Wordy(FakeEnvironment):
    """Its tasks' prompts are longer than their limits allow."""

    def task(
        self, *, split: str, index: int, seed: int, family: str | None = None, level: int | None = None
    ) -> tuple[Task, Target]:
        task, target = super().task(split=split, index=index, seed=seed, family=family, level=level)
        long = " ".join(f"word{number}" for number in range(200))
        return replace(
            task,
            prompt=dict.fromkeys(Dialect, long),
            limits=replace(task.limits, tokens=self.tokens, turn_tokens=32),
        ), target

    tokens = 4096


@pytest.mark.parametrize(
    ("tokens", "key"), [(4096, "set compute.context=4096"), (256, "Task.natural_limits.tokens, now 256")]
)
async def test_a_recipe_whose_openings_do_not_fit_is_refused_before_any_demonstration(
    tokens: int, key: str
) -> None:
    environment = _Wordy()
    environment.tokens = tokens
    run_context = RunContext(
        Recipe(env=EnvSection(dialect=Dialect.NATURAL), compute=ComputeSection(context=384)), environment
    )
    with pytest.raises(BadRecipe, match=key) as caught:
        await coldstart.train_tokenizer(run_context)
    family, level = run_context.cells[0]
    opening = len(run_context.policies.renderers["main"].opening(run_context.task("train", 0)[0]))
    for part in (f"{family}-{level}", f"{opening} tokens", f"may spend {min(tokens, 384)}"):
        assert part in str(caught.value)


def test_limits_are_those_of_the_dialect() -> None:
    task, _ = load("shell").task(split="train", index=0, seed=0)
    assert task.natural_limits is not None and task.natural_limits.tokens > 4 * task.limits.tokens
    assert task.in_dialect(Dialect.COMPACT).limits == task.limits
    assert task.in_dialect(Dialect.NATURAL).limits == task.natural_limits
    assert task.in_dialect(Dialect.NATURAL).in_dialect(Dialect.NATURAL).limits == task.natural_limits


def test_the_natural_dialect_has_a_longer_context_and_more_words_unless_the_recipe_says_otherwise() -> None:
    compact, natural = read("smoke"), read("smoke", ("env.dialect=natural",))
    assert (
        natural.compute.context > 4 * compact.compute.context
        and natural.model.vocab_size > 2 * compact.model.vocab_size
    )
    assert read("smoke", ("env.dialect=natural", "compute.context=900")).compute.context == 900
