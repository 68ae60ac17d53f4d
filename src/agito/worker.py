"""The torch process: one rank's engine and trainer behind a socket. Started by `agito.compute`, ended by the socket's end."""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from agito.channel import Answering
from agito.compute import Failure
from agito.engine.embedded import EmbeddedEngine
from agito.engine.wire import Advance, Advanced
from agito.errors import BadRecipe
from agito.models import Qwen3, Qwen3Config, load_into, save
from agito.protocols import StepStats
from agito.record.commits import commit
from agito.trainer import LocalTrainer, TrainerConfig
from agito.trainer.checkpoint import load_state, save_state
from agito.trainer.mailbox import Mailbox
from agito.trainer.reducer import OneRank, Reducer, SharedReducer
from agito.types import Sample

_NICE = 10  # tools and episodes go first: they take little, and everybody waits for them
_TRAINER_NICE = 5  # more, where it learns beside an engine: what that has sampled is soon enough too much, and then it waits


class Worker:
    """Methods are called by name with whatever came through the socket; all ranks get the same calls in the same order."""

    def __init__(self, rank: int, ranks: int, meeting: Path) -> None:
        self._rank, self._ranks, self._meeting = rank, ranks, meeting

    def setup(
        self, *, model: dict[str, Any], trainer: dict[str, Any], seed: int, rows: int, context: int, device: str, learners: int
    ) -> int:
        """Same seed, same weights on every rank. Either all ranks learn together or the first alone. Returns the number of parameters."""
        torch.set_num_threads(1)
        if learners < self._ranks and not self._rank:
            os.nice(_TRAINER_NICE)
        try:
            torch.empty(0, device=device)
            if device.startswith("cuda:"):
                torch.cuda.set_device(device)
        except (AssertionError, RuntimeError) as error:
            build = "this build of torch has no CUDA: make setup TORCH=cuda" if not torch.backends.cuda.is_built() else error
            raise BadRecipe(f"compute.device={device}: {build}") from None
        self._model = Qwen3(Qwen3Config(**model), seed=seed, device=device)
        self._reducer: Reducer = OneRank()
        if self._ranks > 1:
            self._reducer = reducer = SharedReducer(self._rank, self._ranks, self._meeting)
            self._mailbox = Mailbox(reducer.share, self._model.named_parameters())
        self._together: Reducer = self._reducer if learners > 1 else OneRank()
        self._trainer = LocalTrainer(self._model, TrainerConfig.model_validate(trainer), reducer=self._together)
        self._engine = EmbeddedEngine(self._model, rows=rows, context=context)
        return sum(parameter.numel() for parameter in self._model.parameters())

    def advance(self, exchange: Advance) -> Advanced:
        return self._engine.advance(exchange)

    def begin_phase(self, phase: Any, total_steps: int) -> None:
        self._trainer.reducer = self._together
        self._trainer.begin_phase(phase, total_steps)

    def begin_imitation(self, total_steps: int) -> None:
        """On this rank alone, until the next phase."""
        self._trainer.reducer = OneRank()
        self._trainer.begin_phase("sft", total_steps)

    def imitate(self, batches: list[list[Sample]], num_tokens: list[int]) -> list[StepStats]:
        return [self._trainer.imitate(samples, num_tokens=total) for samples, total in zip(batches, num_tokens, strict=True)]

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

    def offer(self, version: int) -> None:
        """The trainer's weights, for the engines of other ranks to take."""
        self._trainer.version = version
        self._mailbox.write(version, self._model.named_parameters())

    def take(self, version: int) -> float:
        """The engine goes on with other weights; its rows stay as they are. Returns for how many seconds it stood still."""
        began = time.perf_counter()
        self._engine.load_weights(self._mailbox.read(version), version)
        return time.perf_counter() - began

    def save(self, directory: Path, meta: dict[str, Any], tokenizer: dict[str, str], eos_ids: tuple[int, ...]) -> None:
        def write(into: Path) -> None:
            save(self._model, into, version=self._trainer.version, extra=tokenizer, eos_ids=eos_ids)
            save_state(self._trainer, into)

        commit(directory, write, meta=meta)

    def store(self, directory: Path) -> None:
        save_state(self._trainer, directory)

    def load(self, directory: Path, weights_only: bool) -> None:
        if weights_only:
            load_into(self._model, directory)
        else:
            self._trainer.reducer = self._together
            load_state(self._trainer, directory)


def serve(channel: Answering, worker: Worker) -> None:
    """Answers calls until the other side is gone."""
    while (message := channel.receive()) is not None:
        number, (method, args, kwargs) = message
        try:
            answer: object = getattr(worker, method)(*args, **kwargs)
        except Exception as error:  # the boundary: the other side decides what a failure means
            answer = Failure(error=error, trace=traceback.format_exc())
        try:
            is_heard = channel.answer(number, answer)
        except Exception as error:  # an answer that cannot be pickled, an exception among them
            is_heard = channel.answer(number, Failure(error=RuntimeError(f"{method}: {error!r}"), trace=traceback.format_exc()))
        if not is_heard:
            return


def main() -> None:
    fd, rank, ranks, meeting = sys.argv[1:]
    os.nice(_NICE)
    with socket.socket(fileno=int(fd)) as link:
        serve(Answering(link), Worker(int(rank), int(ranks), Path(meeting)))


if __name__ == "__main__":
    main()
