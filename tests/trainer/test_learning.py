"""Credit, loss and trainer together: does the policy get better at what is rewarded?"""

from __future__ import annotations

import math
from array import array

import pytest
import torch

from agito.learning.credit import leave_one_out
from agito.learning.trainer import LocalTrainer, TrainerConfig
from agito.learning.trainer.config import RlConfig
from agito.types import (
    Attempt,
    AttemptId,
    Dialect,
    FinishReason,
    Group,
    Segment,
    Status,
    Task,
    TerminationReason,
    Tokens,
    TokenSource,
    Trajectory,
    Turn,
    Verdict,
    span,
)

TASK = Task(id="t", env="fake", split="train", family="f", level=1, prompt={Dialect.COMPACT: "?"}, tools=())
TARGETS = {1: 5, 2: 9, 3: 5}  # which answer is right after which question
FAST = RlConfig(lr=5e-3, adam_lr=5e-3, decay=0.0)


def answers(model) -> torch.Tensor:
    """Log-probabilities of every answer to each question, in the order of `TARGETS`."""
    with torch.no_grad():
        hidden = model.hidden(
            torch.tensor([token for question in TARGETS for token in (0, question)]), [2] * len(TARGETS)
        )
        return torch.log_softmax(model.logits(hidden)[1::2], dim=-1)


def success(model) -> float:
    """The exact chance of a right answer, over questions."""
    return sum(
        float(row[target].exp()) for row, target in zip(answers(model), TARGETS.values(), strict=True)
    ) / len(TARGETS)


def attempt(
    logp: torch.Tensor,
    id_: AttemptId,
    question: int,
    version: int,
    generator: torch.Generator,
    *,
    is_lost: bool,
) -> Attempt:
    answer = int(torch.multinomial(logp.exp(), 1, generator=generator))
    columns = Tokens(
        ids=array("i", [0, question, answer]),
        logprobs=array("f", [math.nan, math.nan, float(logp[answer])]),
        kinds=bytes([TokenSource.OBSERVED, TokenSource.OBSERVED, TokenSource.CONTROL]),
        channels=bytes(3),
        versions=span(version, 3),
    )
    trajectory = Trajectory(
        attempt=id_,
        task=TASK,
        segments=(Segment(id=0, tokens=columns),),
        turns=(Turn(segment=0, start=2, stop=3, stopped=FinishReason.END),),
        events=(),
        end=TerminationReason.SUBMITTED,
    )
    scored = Verdict(status=Status.SCORED, reward=float(answer == TARGETS[question]))
    return Attempt(trajectory=trajectory, verdict=Verdict.void("lost") if is_lost else scored)


def learn(model, seed: int, *, num_lost: int, num_steps: int = 30) -> float:
    """How much success grows with groups of 12, of which `num_lost` are void."""
    generator = torch.Generator().manual_seed(seed)
    trainer = LocalTrainer(model, TrainerConfig(rl=FAST))  # the on-policy check is on
    trainer.begin_phase("rl", num_steps)
    before = success(model)
    for _ in range(num_steps):
        samples = []
        for group, (question, logp) in enumerate(zip(TARGETS, answers(model), strict=True)):
            ids = [AttemptId(group=group, slot=slot) for slot in range(12)]
            attempts = [
                attempt(logp, id_, question, trainer.version, generator, is_lost=id_.slot < num_lost)
                for id_ in ids
            ]
            samples += leave_one_out(Group(id=group, task=TASK, attempts=tuple(attempts)))
        trainer.step(samples)
    return success(model) - before


@pytest.mark.parametrize("num_lost", [0, 4])
def test_what_is_rewarded_is_learned_on_policy_though_attempts_are_lost(make_model, num_lost: int) -> None:
    gains = [learn(make_model(seed), seed, num_lost=num_lost) for seed in range(3)]
    mean = sum(gains) / len(gains)
    error = (sum((gain - mean) ** 2 for gain in gains) / (len(gains) - 1) / len(gains)) ** 0.5
    assert mean - 3 * error > 0.5, gains


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
def test_an_update_on_a_gpu_is_the_update_on_a_cpu(make_model, make_samples) -> None:
    weights = []
    for device in ("cpu", "cuda"):
        model = make_model().to(device)
        trainer = LocalTrainer(model, TrainerConfig(check_on_policy=False, muon_dtype="float32"))
        trainer.begin_phase("rl", 3)
        for seed in range(3):
            trainer.step(make_samples(6, seed=seed))
        weights.append([parameter.detach().cpu() for parameter in model.parameters()])
    assert max(float((a - b).abs().max()) for a, b in zip(*weights, strict=True)) <= 1e-4
