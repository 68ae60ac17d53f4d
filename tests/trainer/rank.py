"""One data-parallel rank as a process: RANK NUM_RANKS MEETING_FILE OUT OVER MINIBATCHES; writes its weights
and metrics. OVER: `memory` or `network`, and `:bfloat16` for weights of that kind."""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
from array import array
from pathlib import Path

import torch
from safetensors.torch import save_file

from agito.learning.trainer import (
    LocalTrainer,
    Reducer,
    SharedReducer,
    TrainerConfig,
    load_state,
    save_state,
)
from agito.learning.trainer.network_reducer import NetworkReducer, connect_store, host_store
from agito.models import Qwen3, Qwen3Config
from agito.types import AttemptId, Sample, span

SHAPE = Qwen3Config(
    vocab_size=17, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8
)


def samples_of(step: int) -> list[Sample]:
    """Samples of uneven lengths with random log-probabilities, so that the weights w and the clip take
    effect."""
    rng = random.Random(step)
    samples: list[Sample] = []
    for slot in range(10):
        n = rng.randint(3, 20)
        trainable = bytes([0, 1, *(rng.randint(0, 1) for _ in range(n - 2))])
        samples.append(
            Sample(
                attempt=AttemptId(group=step, slot=slot),
                segment=0,
                ids=array("i", [rng.randrange(17) for _ in range(n)]),
                logprobs=array("f", [-rng.uniform(2, 4) if on else math.nan for on in trainable]),
                trainable=trainable,
                advantages=array("f", [rng.gauss(0, 1) if on else 0.0 for on in trainable]),
                versions=span(0, n),
            )
        )
    return samples


def train(
    reducer: Reducer, *, rank: int, num_ranks: int, minibatches: int, dtype: str = ""
) -> tuple[LocalTrainer, list[dict[str, float]]]:
    """Two supervised and three policy-gradient steps on this rank's share; in the last step, the last rank
    has no samples."""
    trainer = LocalTrainer(
        Qwen3(SHAPE, seed=0, dtype=getattr(torch, dtype or "float32")),
        TrainerConfig(
            check_on_policy=False,
            muon_dtype="float32",
            minibatches=minibatches,
            optimizer="adamw" if dtype else "muon",
        ),
        reducer=reducer,
    )
    values: list[dict[str, float]] = []
    trainer.begin_phase("sft", 2)
    for step in range(2):
        values.append(dict(trainer.sft_step(samples_of(step)[rank::num_ranks]).values))
    trainer.begin_phase("rl", 3)
    for step in range(2, 5):
        share = samples_of(step)[rank::num_ranks] if step < 4 else samples_of(step) * (rank == 0)
        values.append(dict(trainer.step(share).values))
    return trainer, values


def over_network(rank: int, num_ranks: int, meeting: Path) -> NetworkReducer:
    """The first rank hosts the rendezvous store and writes down its address."""
    if rank == 0:
        store, address = host_store("127.0.0.1")
        partial = meeting.with_suffix(".partial")
        partial.write_text(address)
        partial.rename(meeting)
    else:
        until = time.monotonic() + 60
        while not meeting.exists() and time.monotonic() < until:
            time.sleep(0.01)
        store = connect_store(meeting.read_text())
    return NetworkReducer(rank, num_ranks, store, host="127.0.0.1")


def main() -> None:
    rank, num_ranks, meeting, out = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    torch.set_num_threads(1)
    over_what, _, dtype = sys.argv[5].partition(":")
    over = over_network(rank, num_ranks, meeting) if over_what == "network" else None
    reducer = over or SharedReducer(rank, num_ranks, meeting, timeout_s=60)
    for minibatches in map(int, sys.argv[6:]):
        trainer, values = train(reducer, rank=rank, num_ranks=num_ranks, minibatches=minibatches, dtype=dtype)
        kept, moments = out / f"state-{minibatches}-{rank}", trainer.optimizer.moments()
        kept.mkdir()
        save_state(trainer, kept)
        load_state(trainer, kept)
        assert all(torch.equal(value, moments[name]) for name, value in trainer.optimizer.moments().items())
        name = f"{minibatches}-{rank}"
        save_file(
            {name: parameter.detach() for name, parameter in trainer.model.named_parameters()},
            out / f"{name}.safetensors",
        )
        (out / f"{name}.json").write_text(json.dumps(values))
    reducer.close()
    os._exit(0)  # torch's threads can abort an interpreter that ends after a group of gloo


if __name__ == "__main__":
    main()
