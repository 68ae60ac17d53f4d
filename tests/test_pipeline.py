"""The overlapped loop with real engine and trainer: bounded ages, nothing lost, no waiting for tools."""

from __future__ import annotations

import itertools
import os
import signal
from array import array
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import pytest
from tests.running import workers

from agito.errors import WorkerDied
from agito.protocols import Control
from agito.recipe import Recipe
from agito.render import learn
from agito.runtime.pool import WorkerPool
from agito.runtime.run_context import RunContext
from agito.scheduling.curriculum import Curriculum
from agito.testing import FakeEnvironment
from agito.testing.fakes import FakeWorld
from agito.training import async_loop
from agito.training.async_loop import Position, ages, oldest
from agito.training.loop import Step
from agito.types import (
    AttemptId,
    Budget,
    Call,
    EpisodeArtifacts,
    Event,
    Sample,
    Status,
    Target,
    Task,
    Verdict,
    VersionSpan,
)

pytestmark = pytest.mark.anyio


class SlowWorld(FakeWorld):
    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        if self._attempt.slot == 0:
            await anyio.sleep(0.05)
        return await super().act(calls, left)

    async def seal(self) -> EpisodeArtifacts:
        return replace(await super().seal(), submitted=str(self._attempt.slot))


class SlowEnvironment(FakeEnvironment):
    """The first attempt of every group has slow tools, and earns nothing; the second earns all: every group
    teaches.
    """

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        return SlowWorld(task, target, attempt, noise_seed)

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        reward = float(str(sealed.submitted))
        return Verdict(status=Status.SCORED, reward=reward, scores={"success": reward}, grade_seed=grade_seed)


@dataclass
class Run:
    steps: list[Step] = field(default_factory=list[Step])
    positions: list[Position] = field(default_factory=list[Position])
    weights: list[str] = field(default_factory=list[str])  # before and after


def recipe_of(mode: str, staleness: int, *, steps: int, ranks: int) -> Recipe:
    return Recipe.model_validate(
        {
            "env": {"levels": [1]},
            "model": {
                "vocab_size": 300,
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_layers": 1,
                "num_heads": 2,
                "num_kv_heads": 1,
            },
            "compute": {"ranks": ranks, "max_num_seqs": 16, "context": 96, "silence_s": 5.0},
            "rl": {"steps": steps, "groups": 2, "group_size": 2, "oversampling": 1.0},
            "pipeline": {"mode": mode, "max_staleness": staleness},
        }
    )


async def run(
    mode: str,
    staleness: int,
    *,
    steps: int = 6,
    start: int = 0,
    position: Position | None = None,
    ranks: int = 2,
    strike: Callable[[], object] = lambda: None,
    directory: Path | None = None,
    shared: WorkerPool | None = None,
) -> Run:
    """`strike` is called after every step. In workers of its own, unless some are `shared`."""
    recipe = recipe_of(mode, staleness, steps=steps, ranks=ranks)
    run_context, found, versions = RunContext(recipe, SlowEnvironment()), Run(), itertools.count(1)
    run_context.policies.use_vocabulary(learn(["open 0 submit 1"] * 20, size=300))
    run_context.policies.pool = shared

    async def on_step(step: Step, position: Position) -> None:
        found.steps.append(step)
        found.positions.append(position)
        strike()

    async def note_weights(name: str) -> None:
        if directory is not None:
            await run_context.policies.main.learner.save(directory / name, meta={}, tokenizer={})
            found.weights.append((directory / name / "model.safetensors").read_bytes().hex())

    try:
        await run_context.policies.open()
        if start:
            await run_context.policies.main.learner.begin_phase("rl", steps)
        await note_weights("before")
        with anyio.fail_after(120):
            await async_loop.train(
                run_context,
                Curriculum(len(run_context.cells)),
                start=start,
                position=position or Position(),
                on_step=on_step,
                new_version=lambda: next(versions),
            )
        await note_weights("after")
    finally:
        if run_context.policies.pool is not shared:
            await run_context.policies.aclose()
    return found


@pytest.fixture(scope="module")
async def pools(anyio_backend: str) -> AsyncGenerator[dict[int, WorkerPool]]:
    """Of two workers and of three; a run replaces the policy of the run before."""
    pools = {num: WorkerPool(num) for num in (2, 3)}
    yield pools
    for pool in pools.values():
        await pool.aclose()


def newest_workers() -> list[int]:
    """Processes by rank: the newest of each, as the module's own pools may be there too."""
    return [pid for _, pid in sorted(dict(workers(os.getpid())).items())]


@pytest.mark.parametrize(
    ("mode", "staleness", "ranks"), [("decoupled", 0, 2), ("decoupled", 2, 3), ("concurrent", 5, 2)]
)
async def test_every_group_is_learned_from_once_and_no_token_is_too_old(
    mode: str, staleness: int, ranks: int, tmp_path: Path, pools: dict[int, WorkerPool]
) -> None:
    """Whatever is trained on is checked against the weights that it says it was sampled by: see
    `agito.learning.losses.sampler_agreement`.
    """
    found = await run(mode, staleness, ranks=ranks, directory=tmp_path, shared=pools[ranks])
    assert [step.index for step in found.steps] == list(range(6))
    groups = [group.id for step in found.steps for group in step.groups]
    assert len(groups) == len(set(groups)) == 12
    fresh = 0.0
    for step in found.steps:
        assert all(group.has_variance for group in step.groups)
        assert {sample.attempt.group for sample in step.trained} == {group.id for group in step.groups}
        assert step.metrics["tokens/trained_num"] > 0 and step.metrics["policy/loss"] != 0
        assert step.metrics["age/max_versions"] <= (staleness if mode == "decoupled" else 0)
        fresh += step.metrics.get("age/v0_ratio", 0.0)
        for group in step.groups:
            assert len(group.attempts) == 2
            assert step.index + 1 - oldest(group) <= (staleness if mode == "decoupled" else 0)
    assert fresh > 0, "nothing was new enough to be checked"
    assert found.weights[0] != found.weights[1], "nothing was learned"
    assert found.positions[-1].outstanding == ()
    for name in (
        "trainer/idle_ratio",
        "trainer/gate_wait_ratio",
        "engine/busy_ratio",
        "engine/publish_pause_ratio",
    ):
        assert all(0 <= step.metrics[name] <= 1.001 for step in found.steps), name


async def test_a_resumed_run_takes_up_the_groups_that_were_out(pools: dict[int, WorkerPool]) -> None:
    first = await run("decoupled", 2, steps=4, shared=pools[2])
    position = first.positions[1]
    assert position.outstanding
    second = await run("decoupled", 2, steps=4, start=2, position=position, shared=pools[2])
    seen = {group.id for step in first.steps[:2] for group in step.groups}
    again = {group.id for step in second.steps for group in step.groups}
    assert not seen & again
    assert set(position.outstanding) <= again
    assert [step.index for step in second.steps] == [2, 3]


@pytest.mark.parametrize("rank", [0, 1])
async def test_a_role_that_is_killed_ends_the_run_and_is_named(rank: int) -> None:
    with pytest.raises(WorkerDied, match=f"worker {rank}"):
        await run("decoupled", 2, strike=lambda: os.kill(newest_workers()[rank], signal.SIGKILL))


async def test_one_of_two_engines_that_falls_silent_ends_the_run_and_is_named() -> None:
    with pytest.raises(WorkerDied, match=r"worker 2 has not answered .*: it is stopped"):
        await run("decoupled", 2, ranks=3, strike=lambda: os.kill(newest_workers()[2], signal.SIGSTOP))


async def test_two_policies_learn_side_by_side_each_from_its_own_engines(
    tmp_path: Path, pools: dict[int, WorkerPool]
) -> None:
    """Two sets of workers in one process: what one does is nothing to the other."""
    found: dict[str, Run] = {}

    async def train(name: str, mode: str, staleness: int, ranks: int) -> None:
        found[name] = await run(
            mode, staleness, steps=3, ranks=ranks, directory=tmp_path / name, shared=pools[ranks]
        )

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(train, "one", "decoupled", 1, 2)
        tasks.start_soon(train, "other", "decoupled", 0, 3)
    for each in found.values():
        assert [step.index for step in each.steps] == [0, 1, 2]
        assert all(step.metrics["tokens/trained_num"] > 0 for step in each.steps)
    assert found["one"].weights[0] == found["other"].weights[0], "they began alike"
    assert len({each.weights[1] for each in found.values()} | {found["one"].weights[0]}) == 3


def test_ages_are_shares_of_trained_tokens() -> None:
    sample = Sample(
        attempt=AttemptId(group=0, slot=0),
        segment=0,
        ids=array("i", range(6)),
        logprobs=array("f", [0.0] * 6),
        trainable=bytes([0, 1, 1, 0, 1, 1]),
        advantages=array("f", [0.0] * 6),
        versions=(VersionSpan(start=0, stop=3, version=4), VersionSpan(start=3, stop=6, version=5)),
    )
    assert ages([sample], 6) == {"age/v1_ratio": 0.5, "age/v2_ratio": 0.5, "age/max_versions": 2.0}
