"""A learner inside a worker: the trainer, and the channels into which it pushes its weights."""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

import torch

from agito.learning.trainer import LocalTrainer
from agito.learning.trainer.reducer import OneRank, Reducer
from agito.learning.trainer.trainer_state import load_state, save_state
from agito.models import Decoder, load_into, save
from agito.models.lora import has_adapter, load_adapter_into, merged_weights, save_adapter
from agito.record.commits import commit
from agito.runtime.network import Adapter, learning
from agito.runtime.wire import (
    BeginPhase,
    Done,
    ExportWeights,
    LearnerRequest,
    LearnerResponse,
    LearnerSpec,
    LoadState,
    PushWeights,
    SaveCheckpoint,
    SaveState,
    SftStep,
    ShortenPhase,
    Stepped,
    SyncWeights,
    TakeStep,
    WeightsExported,
)
from agito.sampling.embedded.scoring import score
from agito.weights.address import WeightAddress
from agito.weights.channel import InProcess, WeightBuffer, WeightChannel
from agito.weights.files import WeightFiles
from agito.weights.network import ServedWeights


class LearnerService:
    """The learner of one policy. `reducer`: sums over processes that learn together. `host`: this machine's
    address, if samplers run on others."""

    def __init__(
        self,
        model: Decoder,
        spec: LearnerSpec,
        reducer: Reducer,
        *,
        adapter: Adapter | None = None,
        host: str | None = None,
    ) -> None:
        """`adapter`: the part of the model to save; None: all of it."""
        self._model, self._reducer, self._adapter = model, reducer, adapter
        self._trainer = LocalTrainer(model, spec.config, reducer=reducer)
        self._files: WeightFiles | None = None
        self.own = InProcess()  # for a sampler in the same process
        self._buffer, self.shared = _served(model, host) if spec.serves_others else (None, None)

    def handle(self, request: LearnerRequest) -> LearnerResponse:
        if isinstance(request, SftStep | TakeStep | SyncWeights | LoadState):
            self.own.withdraw()
        match request:
            case SftStep():
                batches = zip(request.batches, request.num_tokens, strict=True)
                return Stepped(
                    stats=tuple(self._trainer.sft_step(samples, num_tokens=num) for samples, num in batches)
                )
            case TakeStep():
                return Stepped(stats=(self._trainer.step(request.samples, rate=request.rate),))
            case BeginPhase():
                self._trainer.reducer = OneRank() if request.is_alone else self._reducer
                self._trainer.begin_phase(request.phase, request.total_steps)
            case ShortenPhase():
                self._trainer.shorten_phase(request.total_steps)
            case SyncWeights():
                self._sync()
            case PushWeights():
                self._push(request.version)
            case ExportWeights():
                return self._export(request)
            case SaveCheckpoint():
                self._save(request)
            case SaveState():
                save_state(self._trainer, request.directory)
            case LoadState():
                self._load(request)
            case _:
                assert_never(request)
        return Done()

    def close(self) -> None:
        if self._buffer is not None:
            self._buffer.close()

    @torch.no_grad()
    def _sync(self) -> None:
        weights = [parameter for _, parameter in learning(self._model)]
        if self._reducer.rank:
            for weight in weights:
                weight.zero_()
        self._reducer.sum_(weights)

    def _push(self, version: int) -> None:
        channels: tuple[WeightChannel, ...] = (self.own, self._buffer) if self._buffer else (self.own,)
        for channel in channels:
            channel.push(version, learning(self._model))
        self._trainer.version = version

    def _export(self, request: ExportWeights) -> WeightsExported:
        self._files = self._files or WeightFiles(request.directory, request.name)
        if request.is_adapter:
            if self._adapter is None:
                raise LookupError("there is no adapter: all weights learn")
            config, base = self._adapter.config, self._adapter.base
            path = self._files.push_adapter(request.version, self._model, config, base=base)
        else:
            weights = merged_weights(self._model)
            if self._model.lm_head is None:
                weights.pop("lm_head.weight", None)
            path = self._files.push(request.version, weights.items())
        self._trainer.version = request.version
        with torch.inference_mode():
            return WeightsExported(path=path, logprobs=score(self._model, request.text).logprobs)

    def _save(self, request: SaveCheckpoint) -> None:
        def write(into: Path) -> None:
            if self._adapter is not None:
                save_adapter(
                    self._model,
                    self._adapter.config,
                    into,
                    base=str(self._adapter.base),
                    version=self._trainer.version,
                    extra=request.tokenizer,
                )
            else:
                save(
                    self._model,
                    into,
                    version=self._trainer.version,
                    extra=dict(request.tokenizer),
                    eos_ids=request.eos_ids,
                )
            save_state(self._trainer, into)

        commit(request.directory, write, meta=dict(request.meta))

    def _load(self, request: LoadState) -> None:
        if request.weights_only and has_adapter(self._model):
            load_adapter_into(self._model, request.directory)
        elif request.weights_only:
            load_into(self._model, request.directory)
        else:
            self._trainer.reducer = self._reducer
            load_state(self._trainer, request.directory)


def _served(model: Decoder, host: str | None) -> tuple[WeightBuffer | ServedWeights, WeightAddress]:
    if host is None:
        return WeightBuffer.create(learning(model))
    served = ServedWeights(learning(model), host=host)
    return served, served.address
