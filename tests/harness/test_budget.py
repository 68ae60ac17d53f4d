"""Hard budgets of thinking: what is over the budget is never sampled, whatever a policy does."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest
import torch

from agito.harness import SOLO, SoloHarness
from agito.learning.credit.segments import trainable_mask
from agito.models import Qwen3, Qwen3Config
from agito.protocols import Agent, AgentSpec, Engine
from agito.sampling.continuous_batching import ContinuousBatching
from agito.sampling.embedded import EmbeddedEngine
from agito.sampling.forked import ForkedEngine
from agito.sampling.thinking_budget import whole_turns
from agito.sampling.wire import EngineClient, EngineRequest, EngineResponse
from agito.testing import FakeEnvironment, FakeSession
from agito.testing.renderers import END, END_THINK, THINK, ThinkingByteRenderer
from agito.types import (
    AttemptId,
    Channel,
    Effort,
    Limits,
    TerminationReason,
    Thinking,
    TokenSource,
    Trajectory,
)

pytestmark = pytest.mark.anyio
TASK, _ = FakeEnvironment().task(split="train", index=0, seed=0)
LIMITS = Limits(turns=24, calls=24, tokens=900, turn_tokens=12)
CONTEXT = LIMITS.tokens


def new_engine(rows: int) -> EmbeddedEngine:
    """A random network that ends turns, and opens and closes blocks, far more often than chance."""
    renderer = ThinkingByteRenderer()
    shape = Qwen3Config(
        vocab_size=renderer.vocab_size,
        hidden_size=16,
        intermediate_size=24,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        max_position=CONTEXT,
    )
    model = Qwen3(shape, seed=3)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(0.5)
        model.model.embed_tokens.weight[[END, THINK, END_THINK]] *= 12.0
    return EmbeddedEngine(model, rows=rows, context=CONTEXT, native=True)


async def attempts(
    num: int, thinking: Thinking, forks: tuple[Trajectory, int] | None = None
) -> list[Trajectory]:
    """`forks`: an attempt that they repeat, up to its turn of this number."""
    engine = new_engine(64)

    async def advance(exchange: EngineRequest) -> EngineResponse:
        return engine.advance(exchange)

    free, found = (
        ContinuousBatching(EngineClient(advance=advance, context=CONTEXT), steps=8),
        list[Trajectory](),
    )
    spec = AgentSpec(renderer=ThinkingByteRenderer(), thinking=thinking)
    task = replace(TASK, limits=LIMITS)

    async def run(slot: int) -> None:
        acts: Engine = free
        if forks is not None:
            acts = ForkedEngine(free, forks[0], {0: forks[1]}, "main", seed=1)
        agents = {SOLO: Agent(spec=spec, engine=acts)}
        attempt = AttemptId(group=1, slot=slot)
        found.append(await SoloHarness().run(task, FakeSession(), agents, attempt, seed=slot))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(free.run)
        async with anyio.create_task_group() as acting:
            for slot in range(num):
                acting.start_soon(run, slot)
        free.stop()
    return found


def recounted(trajectory: Trajectory) -> list[int]:
    """Think tokens of each turn, from the recorded tokens alone: what stands between the tags."""
    (segment,) = trajectory.segments
    found = list[int]()
    for turn in whole_turns(trajectory.turns):
        inside = segment.tokens.ids[turn[0].start - 1] == THINK
        found.append(0)
        for at in range(turn[0].start, turn[-1].stop):
            token, was = segment.tokens.ids[at], inside
            inside = (token == THINK or inside) and token != END_THINK
            found[-1] += was and inside and token != END
    return found


@pytest.mark.parametrize("effort", [Effort.NONE, Effort.AUTO, Effort.HIGH])
async def test_no_turn_and_no_attempt_is_over_its_budget_of_think_tokens(effort: Effort) -> None:
    """5,000 turns at `high`."""
    thinking = Thinking(effort=effort, turn_tokens=4, attempt_tokens=50)
    found = await attempts(264 if effort is Effort.HIGH else 24, thinking)
    assert not [each.detail for each in found if each.fault]
    counts = [recounted(each) for each in found]
    assert max(max(each) for each in counts) == (0 if effort is Effort.NONE else 4)
    assert max(sum(each) for each in counts) <= 50
    turns = [turn for each in found for turn in whole_turns(each.turns)]
    assert [turn[0].num_thought for turn in turns] == [count for each in counts for count in each]
    forced = sum(each.segments[0].tokens.kinds.count(TokenSource.FORCED) for each in found)
    if effort is Effort.HIGH:
        assert len(turns) >= 5000 and forced > 1000
        assert max(sum(each) for each in counts) == 50
        assert any(len(turn) > 2 for turn in turns), "some turns open a second block"


async def test_what_closes_a_block_by_force_is_marked_and_never_trained_on() -> None:
    found = await attempts(4, Thinking(effort=Effort.HIGH, turn_tokens=2))
    for trajectory in found:
        (segment,) = trajectory.segments
        trainable, kinds = trainable_mask(segment), segment.tokens.kinds
        sampled = {at for turn in trajectory.turns for at in range(turn.start, turn.stop)}
        assert {at for at, each in enumerate(trainable) if each} == sampled
        closed = [at for at, kind in enumerate(kinds) if kind == TokenSource.FORCED and at not in sampled]
        assert closed and all(segment.tokens.ids[at] in (END_THINK, END) for at in closed)
        after = [turn for turn in trajectory.turns if turn.continues]
        assert after and all(turn.stop > turn.start for turn in after), "sampling goes on in the same turn"


async def test_a_recount_would_see_a_turn_that_is_over_its_budget() -> None:
    """Without the budget the same network thinks on."""
    found = await attempts(8, Thinking(effort=Effort.HIGH))
    assert max(max(recounted(each)) for each in found) > 4
    assert {TerminationReason.TURNS, TerminationReason.TOKENS} >= {each.end for each in found}


async def test_tokens_of_a_thought_are_on_the_channel_for_thinking() -> None:
    (found, *_) = await attempts(2, Thinking(effort=Effort.HIGH, turn_tokens=4))
    (segment,) = found.segments
    for turn, count in zip(whole_turns(found.turns), recounted(found), strict=True):
        channels = segment.tokens.channels[turn[0].start : turn[-1].stop]
        tags = sum(token in (THINK, END_THINK) for token in segment.tokens.ids[turn[0].start : turn[-1].stop])
        assert count <= channels.count(Channel.THINK) <= count + tags + 1
