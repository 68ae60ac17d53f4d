"""A small policy, and samples that it can learn from."""

from __future__ import annotations

import math
import random
from array import array

from agito.learning.trainer.config import TrainerConfig
from agito.models.config import Qwen3Config
from agito.runtime.pool import PolicyPlan
from agito.runtime.wire import ModelSpec
from agito.types import AttemptId, Sample, span

VOCAB_SIZE = 40


def plan(*, vocab_size: int = VOCAB_SIZE, seed: int = 3, learns_alone: bool = False) -> PolicyPlan:
    model = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=24,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        max_position=64,
    )
    return PolicyPlan(
        model=ModelSpec(source=model, seed=seed),
        trainer=TrainerConfig(muon_dtype="float32"),
        device="cpu",
        context=64,
        max_num_seqs=4,
        learns_alone=learns_alone,
    )


def sample(slot: int, length: int, *, seed: int = 0) -> Sample:
    """Of a demonstration."""
    rng = random.Random(f"{seed}/{slot}")
    return Sample(
        attempt=AttemptId(group=0, slot=slot),
        segment=0,
        ids=array("i", [rng.randrange(VOCAB_SIZE) for _ in range(length)]),
        logprobs=array("f", [math.nan] * length),
        trainable=bytes([0] + [1] * (length - 1)),
        advantages=array("f", [0.0] * length),
        versions=span(0, length),
    )
