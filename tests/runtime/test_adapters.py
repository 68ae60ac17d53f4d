"""An adapter's way from its learner to a sampler that shares no process with it."""

from __future__ import annotations

from array import array
from pathlib import Path

import torch

from agito.learning.trainer.config import TrainerConfig
from agito.learning.trainer.reducer import OneRank
from agito.models import Decoder, DecoderConfig, LoraConfig, save
from agito.protocols import SampleRequest
from agito.runtime.learner import LearnerService
from agito.runtime.network import adapter_of, learning, open_model
from agito.runtime.sampler import SamplerService
from agito.runtime.wire import LearnerSpec, ModelSpec, PullWeights, PushWeights, SamplerSpec
from agito.sampling.wire import EngineRequest, EngineResponse, RowRequest
from agito.weights.address import SharedMemory
from agito.weights.channel import WeightBuffer


def test_an_adapter_is_pulled_merged_and_sampled_from(tmp_path: Path) -> None:
    save(Decoder(DecoderConfig(vocab_size=64, hidden_size=32, num_layers=1), seed=1), tmp_path)
    lora = LoraConfig(rank=2)
    spec = ModelSpec(source=tmp_path, seed=0, lora=lora)
    mine, theirs = open_model(spec, "cpu"), open_model(spec, "cpu")
    learner = LearnerService(
        mine,
        LearnerSpec(config=TrainerConfig(), serves_others=True),
        OneRank(),
        adapter=adapter_of(spec),
    )
    assert (
        isinstance(learner.shared, SharedMemory)
        and 0 < learner.shared.num_bytes < sum(each.numel() for each in mine.parameters()) * 8
    )
    try:
        channel = WeightBuffer.open(learner.shared, learning(theirs))
        sampler = SamplerService(
            theirs, SamplerSpec(context=32, max_num_seqs=2, weights=learner.shared), channel
        )
        with torch.no_grad():
            for name, parameter in learning(mine):
                parameter.copy_(
                    torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
                )
        learner.handle(PushWeights(version=1))
        sampler.handle(PullWeights(version=1, keep_rows=False))
        request = SampleRequest(extend=array("i", [5, 6]), max_tokens=4, stop_ids=())
        answer = sampler.handle(
            EngineRequest(requests=(RowRequest(key=0, seed=1, request=request),), steps=8)
        )
        assert isinstance(answer, EngineResponse)
        said = answer.done[0].sampled
        assert said is not None
        ids = torch.tensor([5, 6, *said.ids])
        with torch.no_grad():
            log_TV = mine(ids, [len(ids)]).log_softmax(-1)
        expected = log_TV[1:-1].gather(1, ids[2:, None])[:, 0]
        assert torch.allclose(torch.tensor(said.logprobs), expected, atol=1e-4)
    finally:
        learner.close()
