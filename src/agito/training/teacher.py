"""On-policy distillation: samples credited by a frozen teacher."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from agito.learning.credit.distilled import distilled
from agito.models.recipe_sections import DistillSection
from agito.protocols import MAIN
from agito.runtime.policies import Policies
from agito.sampling.wire import ScoreRequest
from agito.types import Sample, mean


class Teacher:
    """Credits the samples of `main`; those of other policies stay as they are."""

    def __init__(self, policies: Policies, recipe: DistillSection) -> None:
        self._policies, self._recipe = policies, recipe

    async def credit(self, samples: Sequence[Sample]) -> tuple[tuple[Sample, ...], dict[str, float]]:
        """The samples, and metrics."""
        found = list(samples)
        places = sorted(
            (at for at, sample in enumerate(samples) if sample.policy == MAIN),
            key=lambda at: samples[at].temperature,
        )
        gaps: list[float] = []
        for temperature, same in groupby(places, key=lambda at: samples[at].temperature):
            listed = list(same)
            request = ScoreRequest(sequences=tuple(samples[at].ids for at in listed), temperature=temperature)
            for at, scores in zip(
                listed, await self._policies.score(self._recipe.teacher, request), strict=True
            ):
                found[at] = distilled(
                    samples[at],
                    scores.logprobs,
                    weight=self._recipe.weight,
                    keeps_reward=self._recipe.keeps_reward,
                )
                gaps += [
                    samples[at].logprobs[place] - scores.logprobs[place - 1]
                    for place, is_trainable in enumerate(samples[at].trainable)
                    if is_trainable
                ]
        return tuple(found), {"distill/reverse_kl_nats": mean(gaps)}
