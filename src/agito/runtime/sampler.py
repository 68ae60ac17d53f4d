"""A sampler inside a worker: the embedded engine, and the channel that its weights come from."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import assert_never

import torch
from torch import Tensor

from agito.models import Decoder
from agito.models.lora import has_adapter
from agito.runtime.network import learning
from agito.runtime.wire import PullWeights, SamplerRequest, SamplerResponse, SamplerSpec, WeightsPulled
from agito.sampling.embedded import EmbeddedEngine
from agito.sampling.embedded.scoring import score
from agito.sampling.wire import EngineRequest, ScoreRequest, ScoreResponse
from agito.weights.channel import WeightChannel


class SamplerService:
    """The sampler of one policy. `model` gives the shape and the initial weights; without a `channel` these
    stay."""

    def __init__(self, model: Decoder, spec: SamplerSpec, channel: WeightChannel | None) -> None:
        self._model = model
        self._engine = EmbeddedEngine(model, rows=spec.max_num_seqs, context=spec.context)
        self._channel = channel

    def handle(self, request: SamplerRequest) -> SamplerResponse:
        match request:
            case EngineRequest():
                return self._engine.advance(request)
            case PullWeights():
                return self._pull(request)
            case ScoreRequest():
                return self._score(request)
            case _:
                assert_never(request)

    def _pull(self, request: PullWeights) -> WeightsPulled:
        began = time.perf_counter()
        if self._channel is None:
            raise LookupError("a frozen policy pulls no weights")
        weights = self._channel.pull(request.version)
        if not request.keep_rows:
            self._engine.drop_all()
        if has_adapter(self._model):
            self._take(weights)
            self._engine.load_weights(self._model, request.version)
        else:
            self._engine.load_weights(weights, request.version)
        return WeightsPulled(paused_s=time.perf_counter() - began)

    @torch.inference_mode()
    def _score(self, request: ScoreRequest) -> ScoreResponse:
        """Raises `RuntimeError` when the learner in this process has taken steps since it published."""
        if self._channel is not None:
            self._take(self._channel.pull(self._engine.version))
        scores = tuple(
            score(self._model, ids, temperature=request.temperature, num_top=request.num_top)
            for ids in request.sequences
        )
        return ScoreResponse(version=self._engine.version, scores=scores)

    @torch.no_grad()
    def _take(self, weights: Mapping[str, Tensor]) -> None:
        """Copies weights into the model; a learner in this process has done so already."""
        for name, parameter in learning(self._model):
            if parameter.data_ptr() != weights[name].data_ptr():
                parameter.copy_(weights[name])
