"""A folder of a pre-trained kind through the real loop: its own tokenizer and template, a real shell, an
engine, a LoRA learner.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.render.test_chat import CHATML, QWEN, ModelTokenizer, write

from agito.envs.shell import ShellEnvironment
from agito.harness import SoloHarness, solo
from agito.learning.credit.demonstrations import demonstrations
from agito.learning.credit.segments import samples_of
from agito.learning.trainer import LocalTrainer, TrainerConfig
from agito.models import Decoder, DecoderConfig, LoraConfig, adapt, load, save
from agito.protocols import MAIN
from agito.render import ChatRenderer, read_chat
from agito.rollout import AttemptRunner, Plan, collect
from agito.sampling.embedded import EmbeddedEngine
from agito.sampling.lockstep import Lockstep
from agito.sampling.wire import EngineClient, EngineRequest, EngineResponse
from agito.scheduling.sync_scheduler import Quota
from agito.types import Attempt, Dialect, Target, Task, TerminationReason


def task(index: int) -> tuple[Task, Target]:
    """One whose texts cost as many tokens as a tokenizer of four hundred entries makes of them."""
    found, key = ShellEnvironment().task(split="train", index=index, seed=0, level=1)
    found = found.in_dialect(Dialect.NATURAL)
    return replace(found, limits=replace(found.limits, tokens=9000, turn_tokens=400)), key


async def scripted(renderer: ChatRenderer, num: int) -> list[Attempt]:
    environment = ShellEnvironment()
    plan = Plan(task=task, script=lambda task, target, attempt: environment.solutions(task, target)[0])
    try:
        runner = AttemptRunner(environment, SoloHarness(), solo(renderer), seed=0)
        return list(
            (await collect(runner, plan, Quota(ids=range(num), group_size=1, max_live=2), None)).attempts
        )
    finally:
        await environment.aclose()


@pytest.mark.parametrize("template", [CHATML, QWEN], ids=["hermes around it", "its own tools"])
async def test_a_solution_earns_full_marks_through_a_models_own_template(
    template: str, tmp_path: Path
) -> None:
    attempts = await scripted(read_chat(write(tmp_path, "byte level", template)), 4)
    assert [attempt.verdict.reward for attempt in attempts] == [1.0] * 4
    assert not any(event.call.problem for attempt in attempts for event in attempt.trajectory.events)


async def test_a_folder_samples_in_a_real_shell_and_a_lora_policy_learns_from_just_those_tokens(
    tmp_path: Path,
) -> None:
    """Sampler and learner agree on every log-probability, or the RL step raises."""
    folder = write(tmp_path, "byte level", CHATML)
    config = DecoderConfig(
        vocab_size=ModelTokenizer.read(folder).largest_id + 7,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        max_position=4096,
        family="llama",
        qk_norm=False,
    )
    save(Decoder(config, seed=1), folder)
    model, renderer = load(folder, dtype=torch.float32), read_chat(folder)
    assert renderer.vocab_size == config.vocab_size
    adapt(model, LoraConfig(rank=4, alpha=8), seed=0)
    trainer = LocalTrainer(model, TrainerConfig(minibatches=1))
    samples = [
        sample for attempt in await scripted(renderer, 2) for sample in demonstrations(attempt.trajectory)
    ]
    trainer.begin_phase("sft", 3)
    losses = [trainer.sft_step(samples).values["sft/loss_nats"] for _ in range(3)]
    assert losses[-1] < losses[0]

    engine, environment = (
        EmbeddedEngine(model, rows=2, context=4096, version=trainer.version),
        ShellEnvironment(),
    )

    def short(index: int) -> tuple[Task, Target]:
        found, key = task(index)
        return replace(found, limits=replace(found.limits, turns=2, turn_tokens=12, tokens=4096)), key

    async def advance(exchange: EngineRequest) -> EngineResponse:
        return engine.advance(exchange)

    runner = AttemptRunner(environment, SoloHarness(), solo(renderer), seed=0)
    lockstep = Lockstep({MAIN: EngineClient(advance=advance, context=4096)}, steps=4)
    attempts = (
        await collect(runner, Plan(task=short), Quota(ids=range(1), group_size=2, max_live=2), lockstep)
    ).attempts
    await environment.aclose()
    assert [(attempt.is_scored, attempt.trajectory.end) for attempt in attempts] == [
        (True, TerminationReason.TURNS)
    ] * 2
    learned = [
        sample
        for sign, attempt in zip((1.0, -1.0), attempts, strict=True)
        for sample in samples_of(attempt.trajectory, sign)
    ]
    trainer.begin_phase("rl", 1)
    assert trainer.step(learned).values["policy/tokens"] == sum(
        attempt.trajectory.num_sampled for attempt in attempts
    )
