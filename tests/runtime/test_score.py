"""Samplers say how probable tokens are, under the weights that they sample from."""

from __future__ import annotations

import math
from array import array
from pathlib import Path

import pytest
import torch

from agito.learning.trainer.config import TrainerConfig
from agito.learning.trainer.reducer import OneRank
from agito.models import Decoder, DecoderConfig, LoraConfig, save
from agito.protocols import SampleRequest
from agito.runtime.learner import LearnerService
from agito.runtime.network import adapter_of, learning, open_model
from agito.runtime.sampler import SamplerService
from agito.runtime.wire import LearnerSpec, ModelSpec, PullWeights, PushWeights, SamplerSpec, SyncWeights
from agito.sampling.wire import EngineRequest, EngineResponse, RowRequest, ScoreRequest, ScoreResponse, Scores
from agito.weights.address import SharedMemory
from agito.weights.channel import WeightBuffer

SHAPE = DecoderConfig(vocab_size=64, hidden_size=32, num_layers=1)
SPEC = SamplerSpec(context=32, max_num_seqs=2)


def sampled(sampler: SamplerService, temperature: float) -> tuple[array[int], list[float]]:
    """A prompt of two tokens with what was sampled after it, and the log-probabilities of the latter."""
    request = SampleRequest(extend=array("i", [5, 6]), max_tokens=6, stop_ids=(), temperature=temperature)
    answer = sampler.handle(
        EngineRequest(requests=(RowRequest(key=0, seed=1, request=request),), steps=8, closed=())
    )
    assert isinstance(answer, EngineResponse)
    said = answer.done[0].sampled
    assert said is not None
    return array("i", [5, 6, *said.ids]), list(said.logprobs)


def scored(
    sampler: SamplerService, *sequences: array[int], temperature: float = 1.0, num_top: int = 0
) -> tuple[Scores, ...]:
    answer = sampler.handle(ScoreRequest(sequences=sequences, temperature=temperature, num_top=num_top))
    assert isinstance(answer, ScoreResponse)
    return answer.scores


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_a_score_is_the_log_probability_with_which_it_was_sampled(temperature: float) -> None:
    sampler = SamplerService(Decoder(SHAPE, seed=1), SPEC, None)
    ids, logprobs = sampled(sampler, temperature)
    alone, other = scored(sampler, ids, array("i", [9]), temperature=temperature)
    assert list(alone.logprobs[1:]) == pytest.approx(logprobs, abs=1e-5)
    assert len(alone.logprobs) == len(ids) - 1 and len(other.logprobs) == 0
    assert not alone.top_ids


def test_the_whole_distribution_sums_to_one_and_holds_the_score() -> None:
    sampler = SamplerService(Decoder(SHAPE, seed=1), SPEC, None)
    ids = array("i", [5, 6, 7, 8])
    (whole,) = scored(sampler, ids, num_top=64)
    (some,) = scored(sampler, ids, num_top=3)
    for position in range(len(ids) - 1):
        row = slice(64 * position, 64 * (position + 1))
        found = dict(zip(whole.top_ids[row], whole.top_logprobs[row], strict=True))
        assert math.fsum(map(math.exp, found.values())) == pytest.approx(1, abs=1e-5)
        assert found[ids[position + 1]] == pytest.approx(whole.logprobs[position], abs=1e-6)
        assert list(some.top_ids[3 * position : 3 * position + 3]) == list(whole.top_ids[row][:3])


@pytest.mark.parametrize(
    "request_",
    [
        ScoreRequest(sequences=(array("i"),)),
        ScoreRequest(sequences=(array("i", [64]),)),
        ScoreRequest(sequences=(array("i", [1]),), temperature=0),
        ScoreRequest(sequences=(array("i", [1]),), num_top=65),
    ],
)
def test_what_cannot_be_scored_is_refused(request_: ScoreRequest) -> None:
    with pytest.raises(ValueError, match="need tokens of a vocabulary of 64"):
        SamplerService(Decoder(SHAPE, seed=1), SPEC, None).handle(request_)


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)])
def test_a_score_is_of_the_weights_that_were_pulled_wherever_the_learner_is(
    lora: LoraConfig | None, tmp_path: Path
) -> None:
    save(Decoder(SHAPE, seed=1), tmp_path)
    spec = ModelSpec(source=tmp_path, seed=0, lora=lora)
    mine, theirs = open_model(spec, "cpu"), open_model(spec, "cpu")
    learner = LearnerService(
        mine, LearnerSpec(config=TrainerConfig(), serves_others=True), OneRank(), adapter=adapter_of(spec)
    )
    assert isinstance(learner.shared, SharedMemory)
    beside = SamplerService(mine, SPEC, learner.own)
    apart = SamplerService(theirs, SPEC, WeightBuffer.open(learner.shared, learning(theirs)))
    try:
        with torch.no_grad():
            for name, parameter in learning(mine):
                parameter.add_(
                    torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.1
                )
        learner.handle(PushWeights(version=1))
        found: list[array[float]] = []
        for sampler in (beside, apart):
            sampler.handle(PullWeights(version=1, keep_rows=False))
            ids, logprobs = sampled(sampler, 1.0)
            found.append(scored(sampler, ids)[0].logprobs)
            assert list(found[-1][1:]) == pytest.approx(logprobs, abs=1e-4)
        assert found[0] == found[1]
        learner.handle(SyncWeights())
        with pytest.raises(RuntimeError):
            scored(beside, ids)
        assert scored(apart, ids)[0].logprobs == found[1]
    finally:
        learner.close()
