"""In every bundled environment, an agent that reads nothing stays at the declared chance level."""

from __future__ import annotations

from itertools import product

import anyio
import pytest

from agito.envs import load
from agito.record import clopper_pearson
from agito.render import learn, renderer, texts_of
from agito.testing.episodes import play
from agito.types import AttemptId, Dialect

pytestmark = pytest.mark.anyio
# Of each split; elsewhere 300.
COUNT = {"shell": 200, "code": 200, "shell-realistic": 60, "code-realistic": 60}


REALISTIC = ["shell-realistic", "code-realistic", "desk-realistic", "thinking-realistic"]
MEMORY = ["decisions", "thinking", "research", "desk", "parallel", "replan"]
ENVIRONMENTS = ["shell", "code", "web-text", *MEMORY, *REALISTIC]


@pytest.mark.parametrize("name", ENVIRONMENTS)
async def test_an_agent_that_never_reads_an_observation_succeeds_by_chance_alone(name: str) -> None:
    env = load(name)
    successes: dict[str, list[bool]] = {}
    limiter = anyio.CapacityLimiter(4)

    async def attempt(split: str, index: int) -> None:
        task, target = env.task(split=split, index=index, seed=31)
        async with limiter:
            played = await play(
                env,
                task,
                target,
                env.negative_controls(task)["open_loop"],
                AttemptId(group=index, slot=0),
                noise_seed=1,
            )
        is_right = played.verdict.scores["success"] == 1.0
        for part in (split, task.family, "all"):
            successes.setdefault(part, []).append(is_right)

    try:
        async with anyio.create_task_group() as group:
            for split in ("heldout", "structural"):
                for index in range(COUNT.get(name, 300)):
                    group.start_soon(attempt, split, index)
    finally:
        await env.aclose()
    for part, found in successes.items():
        low, _ = clopper_pearson(sum(found), len(found))
        # of one family, or of one split
        allowed = env.chance_level if part == "all" else env.chance_level + 0.02
        assert low <= allowed and sum(found) / len(found) <= allowed + 0.02, (
            f"{part}: {sum(found)} of {len(found)}"
        )


@pytest.mark.parametrize("name", ENVIRONMENTS)
async def test_every_impostor_can_be_said_in_each_dialect_of_its_words(name: str) -> None:
    """Otherwise its attempts would be void, and its column in a run's table empty."""
    env = load(name)
    try:
        for family, level in product(env.families, env.levels[:2]):
            task, target = env.task(split="heldout", index=3, seed=2, family=family, level=level)
            for impostor, script in env.negative_controls(task).items():
                events = (await play(env, task, target, script)).events
                for dialect in [Dialect.NATURAL] if name in REALISTIC else Dialect:
                    written = renderer(dialect, learn(texts_of(dialect, task, events), size=400))
                    for event in events:
                        (call,) = written.parse(written.action([event.call], task.tools), task.tools)
                        assert (call.tool, call.arguments) == (event.call.tool, event.call.arguments), (
                            family,
                            impostor,
                            dialect,
                        )
    finally:
        await env.aclose()
