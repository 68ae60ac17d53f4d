"""How many supervised steps until a random network learns to copy what followed a token's last occurrence?

    python benchmarks/copying.py [--seeds 3] [--short]

Sequences of 128 random tokens: pairs are read, unrelated tokens come between them, and earlier pairs are
repeated; the loss covers the second halves of repetitions. Network, rates and vocabulary size are the
quickstart's, with sixteen sequences per step. `looking_back` starts as all our networks do, with two heads
that look back; in `random` those heads are drawn like all others. `guess` is the loss of guessing uniformly
among the second halves seen so far.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from array import array
from collections.abc import Iterator

import torch

from agito.learning.trainer import LocalTrainer, TrainerConfig
from agito.models import Qwen3, Qwen3Config
from agito.recipe import Recipe
from agito.types import AttemptId, Sample, span
from harness import Json, report, spread

_LENGTH, _BATCH, _PAIRS, _KNOWN, _STRANGER = 128, 16, (2, 12), 0.6, 0.2
_WINDOW = 10  # steps averaged per loss


def sequence(ids: range, rng: random.Random) -> tuple[Sample, float]:
    """A sequence, and the cost of guessing, in nats over all of its trained tokens."""
    most, pairs, guess = rng.randint(*_PAIRS), list[tuple[int, int]](), 0.0
    said, trainable = array("i"), bytearray()
    while len(said) < _LENGTH:
        if rng.random() < _STRANGER:
            said.append(rng.choice(ids))
            trainable.append(0)
        is_known = len(pairs) == most or (bool(pairs) and rng.random() < _KNOWN)
        if not is_known:
            pairs.append((rng.choice(ids), rng.choice(ids)))
        guess += math.log(len(pairs)) * is_known
        said.extend(rng.choice(pairs) if is_known else pairs[-1])
        trainable.extend((0, is_known))
    count = len(said)
    sample = Sample(
        attempt=AttemptId(group=0, slot=0),
        segment=0,
        ids=said,
        logprobs=array("f", [math.nan]) * count,
        trainable=bytes(trainable),
        advantages=array("f", map(float, trainable)),
        versions=span(0, count),
    )
    return sample, guess


class _Random(Qwen3):
    """Without the heads that look back."""

    def _init_induction_heads(self, first: object, second: object, generator: torch.Generator) -> None:
        return


def losses(kind: type[Qwen3], seed: int, steps: int) -> Iterator[tuple[float, float]]:
    """The loss of each step and of guessing, in nats per token."""
    shape = Recipe.model_validate({}).model.model_dump()
    trainer = LocalTrainer(
        kind(Qwen3Config(**shape), seed=seed), TrainerConfig.model_validate({"sft": {"decay": 0.0}})
    )
    trainer.begin_phase("sft", steps)
    rng = random.Random(seed)
    words = range(shape["vocab_size"] // 2, shape["vocab_size"])  # the first half are bytes
    for _ in range(steps):
        samples, guesses = zip(*(sequence(words, rng) for _ in range(_BATCH)), strict=True)
        yield (
            trainer.sft_step(samples).values["sft/loss_nats"],
            sum(guesses) / sum(sample.num_trainable for sample in samples),
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--short", action="store_true", help="one seed, 100 steps")
    options = parser.parse_args()
    seeds, steps = (1, 100) if options.short else (options.seeds, options.steps)
    torch.set_num_threads(1)
    figures: dict[str, Json] = {}
    detail: dict[str, Json] = {}
    for name, kind in (("looking_back", Qwen3), ("random", _Random)):
        reached: list[int | None] = []
        ends: list[float] = []
        began = time.process_time()
        for seed in range(seeds):
            seen = list(losses(kind, seed, steps))
            means = [
                statistics.fmean(loss for loss, _ in seen[at : at + _WINDOW])
                for at in range(len(seen) - _WINDOW + 1)
            ]
            guess = statistics.fmean(guess for _, guess in seen)
            reached.append(next((at + _WINDOW for at, mean in enumerate(means) if mean < guess / 2), None))
            ends.append(means[-1])
            figures["guess"] = round(guess, 3)
            detail[f"{name}, seed {seed}"] = {
                str(at): round(means[at - _WINDOW], 3) for at in (50, 100, 200, 500, 1000) if at <= steps
            }
            print(
                f"{name}, seed {seed}: half of a guess after {reached[-1]} of {steps} steps, "
                f"{means[-1]:.3f} nats at the end",
                flush=True,
            )
        figures[name] = {
            "steps_to_half_a_guess": reached,
            "last_loss": spread(ends),
            "cpu_s": round(time.process_time() - began, 1),
        }
    report("copying", figures, detail)


if __name__ == "__main__":
    main()
