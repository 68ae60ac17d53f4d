"""The torch process: one rank's engine and trainer behind a pipe. Started by `agito.compute`, ended by the pipe's end."""

from __future__ import annotations

import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from agito.compute import WorkerFailed
from agito.engine.embedded import EmbeddedEngine
from agito.engine.wire import Advance, Advanced
from agito.models import Qwen3, Qwen3Config, load_weights, save
from agito.protocols import StepStats
from agito.record.commits import commit
from agito.trainer import LocalTrainer, TrainerConfig
from agito.trainer.checkpoint import load_state, save_state
from agito.trainer.reducer import OneRank, Reducer, SharedReducer
from agito.types import Sample


class Worker:
    """Methods are called by name with whatever came through the pipe; all ranks get the same calls in the same order."""

    def __init__(self, rank: int, ranks: int, meeting: Path) -> None:
        self._rank, self._ranks, self._meeting = rank, ranks, meeting

    def setup(self, *, model: dict[str, Any], trainer: dict[str, Any], seed: int, rows: int, context: int, device: str) -> int:
        """Same seed, same weights on every rank. Returns the number of parameters."""
        torch.set_num_threads(1)
        self._reducer: Reducer = SharedReducer(self._rank, self._ranks, self._meeting) if self._ranks > 1 else OneRank()
        self._model = Qwen3(Qwen3Config(**model), seed=seed, device=device)
        self._trainer = LocalTrainer(self._model, TrainerConfig.model_validate(trainer), reducer=self._reducer)
        self._engine = EmbeddedEngine(self._model, rows=rows, context=context)
        return sum(parameter.numel() for parameter in self._model.parameters())

    def advance(self, exchange: Advance) -> Advanced:
        return self._engine.advance(exchange)

    def begin_phase(self, phase: Any, total_steps: int) -> None:
        self._trainer.reducer = self._reducer
        self._trainer.begin_phase(phase, total_steps)

    def begin_imitation(self, total_steps: int) -> None:
        """On this rank alone, until the next phase."""
        self._trainer.reducer = OneRank()
        self._trainer.begin_phase("sft", total_steps)

    def imitate(self, batches: list[list[Sample]]) -> list[StepStats]:
        return [self._trainer.imitate(samples) for samples in batches]

    @torch.no_grad()
    def share(self) -> None:
        weights = list(self._model.parameters())
        if self._rank:
            for weight in weights:
                weight.zero_()
        self._reducer.sum_(weights)

    def step(self, samples: list[Sample], rate: float) -> StepStats:
        return self._trainer.step(samples, rate=rate)

    def publish(self, version: int) -> None:
        self._trainer.version = version
        self._engine.drop_all()
        self._engine.load_weights(self._model, version)

    def save(self, directory: Path, meta: dict[str, Any], tokenizer: dict[str, str]) -> None:
        def write(into: Path) -> None:
            save(self._model, into, version=self._trainer.version, extra=tokenizer)
            save_state(self._trainer, into)

        commit(directory, write, meta=meta)

    def load(self, directory: Path, weights_only: bool) -> None:
        if weights_only:
            self._model.load_state_dict(load_weights(directory))
        else:
            load_state(self._trainer, directory)


def serve(pipe: Connection, worker: Worker) -> None:
    """Answers calls until the other side is gone."""
    while True:
        try:
            method, args, kwargs = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = getattr(worker, method)(*args, **kwargs)
        except Exception as error:  # the boundary: the other side decides what a failure means
            answer = WorkerFailed(error=error, trace=traceback.format_exc())
        try:
            pipe.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return


def main() -> None:
    fd, rank, ranks, meeting = sys.argv[1:]
    serve(Connection(int(fd)), Worker(int(rank), int(ranks), Path(meeting)))


if __name__ == "__main__":
    main()
