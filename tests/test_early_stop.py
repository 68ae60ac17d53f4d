"""A cold start ends by itself where more demonstrations teach nothing."""

from __future__ import annotations

import json
import math
from array import array
from pathlib import Path

import pytest

import agito
from agito.learning.trainer import LocalTrainer, TrainerConfig, load_state, save_state
from agito.models import Qwen3, Qwen3Config
from agito.protocols import StepStats
from agito.training.early_stop import EarlyStop
from agito.types import AttemptId, Sample, span

TINY = (
    "sft.demos=600",
    "sft.epochs=2",
    "sft.batch=4",
    "rl.steps=0",
    "eval.tasks=8",
    "eval.structural_tasks=0",
    "eval.baseline_tasks=4",
)


def stats(*losses: float, tokens: float = 10) -> list[StepStats]:
    return [StepStats(version=0, values={"sft/loss_nats": loss, "sft/tokens": tokens}) for loss in losses]


def ends(losses: list[float], *, window: int, planned: int) -> tuple[int, int | None]:
    """Steps in all, and those after which that is known."""
    stop = EarlyStop(window, planned)
    for done, loss in enumerate(losses, 1):
        if stop.add(stats(loss)):
            assert f"{stop.total} of {planned} steps" in stop.reason
            return stop.total, done
    return stop.total, None


def test_imitation_ends_once_the_loss_on_new_demonstrations_falls_no_more() -> None:
    falling = [2.0 * 0.9**step for step in range(60)]
    assert ends(falling, window=10, planned=60) == (60, None)
    assert ends([*falling[:20], *[0.2] * 40], window=10, planned=60) == (42, 38), "a window that is flat"
    assert ends([1.0] * 60, window=10, planned=60) == (22, 20), "never before two windows"
    assert ends([0.5, 0.9] * 30, window=10, planned=60) == (22, 20), "noise is no fall"
    assert ends([1.0] * 60, window=0, planned=60) == (60, None)
    assert ends([1.0] * 60, window=30, planned=60) == (60, None), "there is nothing left to save"


def test_a_step_counts_by_its_tokens() -> None:
    stop = EarlyStop(2, 50)
    assert not stop.add([*stats(1.0, 1.0, tokens=100), *stats(0.1, tokens=1000), *stats(9.0, tokens=1)])


def test_a_cold_start_that_is_told_to_ends_early_with_its_learning_rate_decayed(tmp_path: Path) -> None:
    said = list[str]()
    agito.train(
        "smoke",
        overrides=(*TINY, "sft.patience=24"),
        out=tmp_path / "run",
        on_event=lambda event: said.append(str(event)),
    )
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    factors = [line["train/lr_factor"] for line in lines if line["phase"] == "sft"]
    assert 12 < len(factors) < 140, "of 300 steps, 150 of them new"
    warm, tail = 6, next(tail for tail in range(1, 20) if math.ceil((len(factors) - tail) / 10) == tail)
    assert factors[warm:] == sorted(factors[warm:], reverse=True)
    begun = factors[-tail]
    assert begun > 0.5 and factors[-tail:] == pytest.approx([begun * (1 - at / tail) for at in range(tail)])
    assert any(f"imitation ends after {len(factors)} of 300 steps" in each for each in said)
    assert json.loads((tmp_path / "run/summary.json").read_text())["void_attempts"] == 0


def test_a_phase_is_shortened_to_what_is_to_come() -> None:
    trainer = LocalTrainer(Qwen3(Qwen3Config(vocab_size=20, hidden_size=16), seed=0), TrainerConfig())
    trainer.begin_phase("sft", 100)
    trainer.phase_step = 50
    assert trainer.optimizer.factor(50) == pytest.approx(50 / 98)
    for wrong in (50, 101):
        with pytest.raises(ValueError, match="50 of 100 steps are done"):
            trainer.shorten_phase(wrong)
    trainer.shorten_phase(55)
    factors = [trainer.optimizer.factor(step) for step in range(49, 56)]
    assert factors == pytest.approx([51 / 98, *(50 / 98 * left / 5 for left in (5, 4, 3, 2, 1, 0))])


def test_a_phase_that_was_shortened_goes_on_as_it_was_after_a_restart(tmp_path: Path) -> None:
    def trainer() -> LocalTrainer:
        return LocalTrainer(Qwen3(Qwen3Config(vocab_size=20, hidden_size=16), seed=0), TrainerConfig())

    first, again = trainer(), trainer()
    first.begin_phase("sft", 100)
    tokens = array("i", [1, 2, 3, 4])
    sample = Sample(
        attempt=AttemptId(group=0, slot=0),
        segment=0,
        ids=tokens,
        trainable=bytes([0, 1, 1, 1]),
        advantages=array("f", [0.0] * 4),
        logprobs=array("f", [0.0] * 4),
        versions=span(0, 4),
    )
    for _ in range(3):
        first.sft_step([sample])
    first.shorten_phase(8)
    first.sft_step([sample])
    save_state(first, tmp_path)
    load_state(again, tmp_path)
    steps = range(first.phase_step, 9)
    assert [again.optimizer.factor(step) for step in steps] == [
        first.optimizer.factor(step) for step in steps
    ]
    assert again.sft_step([sample]).values == first.sft_step([sample]).values
