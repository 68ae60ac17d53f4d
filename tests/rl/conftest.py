from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence

import pytest

from agito.types import AttemptId, Sample, span

SampleMaker = Callable[..., Sample]


@pytest.fixture
def make_sample() -> SampleMaker:
    def make(
        ids: Sequence[int],
        trainable: Sequence[int],
        *,
        logprob: float | Sequence[float] = -1.0,
        advantage: float | Sequence[float] = 1.0,
        slot: int = 0,
        version: int = 0,
        temperature: float = 1.0,
    ) -> Sample:
        n = len(ids)
        logprobs = [logprob] * n if isinstance(logprob, float | int) else list(logprob)
        advantages = [advantage] * n if isinstance(advantage, float | int) else list(advantage)
        return Sample(
            attempt=AttemptId(group=0, slot=slot),
            segment=0,
            ids=array("i", ids),
            logprobs=array(
                "f", [value if on else math.nan for value, on in zip(logprobs, trainable, strict=True)]
            ),
            trainable=bytes(trainable),
            advantages=array(
                "f", [value if on else 0.0 for value, on in zip(advantages, trainable, strict=True)]
            ),
            versions=span(version, n),
            temperature=temperature,
        )

    return make
