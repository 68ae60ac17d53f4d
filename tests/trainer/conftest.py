from __future__ import annotations

import math
import random
from array import array
from collections.abc import Callable

import pytest
import torch

from agito.models import Qwen3, Qwen3Config
from agito.types import AttemptId, Sample, span

VOCAB = 17


@pytest.fixture
def make_model() -> Callable[..., Qwen3]:
    def make(seed: int = 0, *, tie_embeddings: bool = True) -> Qwen3:
        shape = Qwen3Config(
            vocab_size=VOCAB,
            hidden_size=16,
            intermediate_size=24,
            num_layers=2,
            num_heads=2,
            num_kv_heads=1,
            head_dim=8,
            max_position=64,
            tie_embeddings=tie_embeddings,
        )
        return Qwen3(shape, seed=seed)

    return make


@pytest.fixture
def make_samples() -> Callable[..., list[Sample]]:
    """Random samples; with a `model`, their log-probabilities are the model's own, at `temperature`."""

    def make(
        num: int, *, seed: int = 0, version: int = 0, model: Qwen3 | None = None, temperature: float = 1.0
    ) -> list[Sample]:
        rng = random.Random(seed)
        samples: list[Sample] = []
        for slot in range(num):
            n = rng.randint(3, 14)
            ids = [rng.randrange(VOCAB) for _ in range(n)]
            trainable = [0, 1, *(rng.randint(0, 1) for _ in range(n - 2))]
            logprobs = (
                _own_logprobs(model, ids, temperature) if model else [-rng.uniform(2, 4) for _ in range(n)]
            )
            advantage = rng.gauss(0, 1)
            sample = Sample(
                attempt=AttemptId(group=slot // 4, slot=slot % 4),
                segment=0,
                ids=array("i", ids),
                logprobs=array(
                    "f", [value if on else math.nan for value, on in zip(logprobs, trainable, strict=True)]
                ),
                trainable=bytes(trainable),
                advantages=array("f", [advantage if on else 0.0 for on in trainable]),
                versions=span(version, n),
                temperature=temperature,
            )
            samples.append(sample)
        return samples

    return make


@torch.no_grad()
def _own_logprobs(model: Qwen3, ids: list[int], temperature: float) -> list[float]:
    """One sequence at a time, every position: a slow reference for the trainer."""
    logits = model.logits(model.hidden(torch.tensor(ids), [len(ids)])) / temperature
    logp = torch.log_softmax(logits, dim=-1)
    return [0.0, *(float(logp[t - 1, ids[t]]) for t in range(1, len(ids)))]
