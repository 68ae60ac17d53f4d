"""A policy that learns in a worker and is sampled elsewhere: its weights as files."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest
import safetensors.torch
import torch

from agito.learning.trainer.config import TrainerConfig
from agito.learning.trainer.reducer import OneRank
from agito.models import Decoder, DecoderConfig, LoraConfig, load, load_adapter, save
from agito.runtime.learner import LearnerService
from agito.runtime.network import adapter_of, learning, open_model
from agito.runtime.wire import ExportWeights, LearnerSpec, ModelSpec, WeightsExported
from agito.sampling.embedded.scoring import score

TEXT = array("i", [5, 6, 7, 8, 9])


def exported(learner: LearnerService, folder: Path, version: int, *, is_adapter: bool) -> WeightsExported:
    request = ExportWeights(directory=folder, name="main", version=version, is_adapter=is_adapter, text=TEXT)
    answer = learner.handle(request)
    assert isinstance(answer, WeightsExported)
    return answer


def moved(model: Decoder) -> None:
    with torch.no_grad():
        for name, parameter in learning(model):
            parameter.add_(
                0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
            )


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("lora", "is_adapter"), [(LoraConfig(rank=2), True), (LoraConfig(rank=2), False), (None, False)]
)
def test_what_a_server_reads_gives_the_log_probabilities_that_the_learner_names(
    lora: LoraConfig | None, is_adapter: bool, tied: bool, tmp_path: Path
) -> None:
    shape = DecoderConfig(vocab_size=64, hidden_size=32, num_layers=1, tie_embeddings=tied)
    save(Decoder(shape, seed=1), tmp_path / "base")
    spec = ModelSpec(source=tmp_path / "base", seed=0, lora=lora)
    model = open_model(spec, "cpu")
    learner = LearnerService(model, LearnerSpec(config=TrainerConfig()), OneRank(), adapter=adapter_of(spec))
    before = exported(learner, tmp_path / "files", 1, is_adapter=is_adapter)
    moved(model)
    after = exported(learner, tmp_path / "files", 2, is_adapter=is_adapter)
    assert [path.name for path in (before.path, after.path)] == ["main@1", "main@2"]
    assert max(abs(a - b) for a, b in zip(before.logprobs, after.logprobs, strict=True)) > 0.01
    for found in (before, after):
        server = load(tmp_path / "base")
        if is_adapter:
            load_adapter(server, found.path)
        else:
            weights = safetensors.torch.load_file(found.path)
            assert ("lm_head.weight" in weights) is not tied
            server.load_state_dict(weights, strict=not tied)
        with torch.inference_mode():
            assert list(score(server, TEXT).logprobs) == pytest.approx(list(found.logprobs), abs=1e-5)


def test_an_adapter_is_asked_for_only_where_there_is_one(tmp_path: Path) -> None:
    model = Decoder(DecoderConfig(vocab_size=64, hidden_size=32, num_layers=1), seed=1)
    learner = LearnerService(model, LearnerSpec(config=TrainerConfig()), OneRank())
    with pytest.raises(LookupError, match="there is no adapter"):
        exported(learner, tmp_path, 1, is_adapter=True)
