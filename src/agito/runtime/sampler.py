"""A sampler as it runs in a worker: the embedded engine, and the channel that its weights come from."""

from __future__ import annotations

import time
from typing import assert_never

from agito.engine.embedded import EmbeddedEngine
from agito.engine.wire import Advance
from agito.models import Qwen3
from agito.runtime.wire import PullWeights, SamplerRequest, SamplerResponse, SamplerSpec, WeightsPulled
from agito.weights.channel import WeightChannel


class SamplerService:
    """One policy's. `model` says what its weights look like and lends it those that it has now."""

    def __init__(self, model: Qwen3, spec: SamplerSpec, channel: WeightChannel) -> None:
        self._engine = EmbeddedEngine(model, rows=spec.max_num_seqs, context=spec.context)
        self._channel = channel

    def handle(self, request: SamplerRequest) -> SamplerResponse:
        match request:
            case Advance():
                return self._engine.advance(request)
            case PullWeights():
                return self._pull(request)
            case _:
                assert_never(request)

    def _pull(self, request: PullWeights) -> WeightsPulled:
        began = time.perf_counter()
        weights = self._channel.pull(request.version)
        if not request.keep_rows:
            self._engine.drop_all()
        self._engine.load_weights(weights, request.version)
        return WeightsPulled(paused_s=time.perf_counter() - began)
