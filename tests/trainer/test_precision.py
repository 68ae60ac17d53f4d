"""Half-precision weights with float32 masters; which optimizer; activations that are computed again."""

from __future__ import annotations

import gc
import random
import weakref
from array import array
from pathlib import Path
from typing import Any

import pytest
import torch

from agito.learning.losses.packing import pack
from agito.learning.trainer import LocalTrainer, TrainerConfig, load_state, save_state
from agito.learning.trainer.config import RlConfig, SftConfig
from agito.learning.trainer.optimizer import split_parameters, suits_muon
from agito.models import Decoder, DecoderConfig, LoraConfig, adapt
from agito.record.commits import commit
from agito.types import AttemptId, Sample, span

SHAPE = DecoderConfig(
    vocab_size=53, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8
)
SLOW = TrainerConfig(
    check_on_policy=False,
    minibatches=1,
    muon_dtype="float32",
    optimizer="adamw",
    sft=SftConfig(adam_lr=2e-6, warmup=0.0, decay=0.0),
    rl=RlConfig(adam_lr=2e-6, decay=0.0),
)


def samples(num: int = 6, seed: int = 0) -> list[Sample]:
    rng, found = random.Random(seed), list[Sample]()
    for slot in range(num):
        n = rng.randint(5, 20)
        found.append(
            Sample(
                attempt=AttemptId(group=0, slot=slot),
                segment=0,
                ids=array("i", [rng.randrange(53) for _ in range(n)]),
                logprobs=array("f", [-4.0] * n),
                trainable=bytes([0, *[1] * (n - 1)]),
                advantages=array("f", [0.0, *[1.0] * (n - 1)]),
                versions=span(0, n),
            )
        )
    return found


def trainer_of(dtype: torch.dtype, config: TrainerConfig = SLOW, *, phase: str = "sft") -> LocalTrainer:
    trainer = LocalTrainer(Decoder(SHAPE, seed=1).to(dtype), config)
    trainer.begin_phase(phase, 1000)  # type: ignore[arg-type]
    return trainer


def flat(model: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().float().flatten() for parameter in model.parameters()])


def test_steps_smaller_than_a_bfloat16_weight_can_show_add_up() -> None:
    """A step of 2e-6 is lost in the rounding of a weight of 0.1; a hundred of them are not."""
    narrow, wide = trainer_of(torch.bfloat16), trainer_of(torch.float32)
    before, before_wide = flat(narrow.model), flat(wide.model)
    for _ in range(100):
        narrow.sft_step(samples())
        wide.sft_step(samples())
    moved, moved_wide = flat(narrow.model) - before, flat(wide.model) - before_wide
    assert moved.norm() > 0.5 * moved_wide.norm()
    assert torch.cosine_similarity(moved, moved_wide, dim=0) > 0.7
    assert all(
        parameter.dtype == torch.bfloat16 and parameter.grad is None
        for _, parameter in narrow.model.named_parameters()
    )


def test_gradients_of_micro_batches_are_added_up_in_float32() -> None:
    """600 copies of one sample, each a micro-batch: a bfloat16 sum would stop growing at 256 of them."""
    sample = samples(1)[0]
    norms = []
    for num in (1, 600):
        trainer = trainer_of(
            torch.bfloat16, SLOW.model_copy(update={"micro_tokens": 1, "share_prefixes": "never"})
        )
        norms.append(trainer.sft_step([sample] * num, num_tokens=100.0).values["train/grad_norm"])
    assert norms[1] == pytest.approx(600 * norms[0], rel=1e-3)


@pytest.mark.parametrize("phase", ["sft", "rl"])
def test_a_resumed_trainer_of_bfloat16_weights_goes_on_bit_for_bit(phase: str, tmp_path: Path) -> None:
    def steps(trainer: LocalTrainer, seeds: range) -> None:
        for seed in seeds:
            _ = trainer.sft_step(samples(seed=seed)) if phase == "sft" else trainer.step(samples(seed=seed))

    whole, first, second = (trainer_of(torch.bfloat16, phase=phase) for _ in range(3))
    steps(whole, range(8))
    steps(first, range(3))
    commit(tmp_path / "step-3", lambda into: save_state(first, into))
    load_state(second, tmp_path / "step-3")
    steps(second, range(3, 8))
    assert torch.equal(flat(whole.model), flat(second.model))
    mine, theirs = whole.optimizer.moments(), second.optimizer.moments()
    assert mine.keys() == theirs.keys() and any(name.endswith("/master") for name in mine)
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


def test_weights_that_somebody_else_has_changed_are_where_it_goes_on() -> None:
    trainer = trainer_of(torch.bfloat16)
    trainer.sft_step(samples())
    other = Decoder(SHAPE, seed=9).to(torch.bfloat16)
    trainer.model.load_state_dict(other.state_dict())  # type: ignore[attr-defined]
    trainer.sft_step(samples())
    assert (flat(trainer.model) - flat(other)).abs().max() < 1e-2


def test_a_new_phase_counts_every_gradient_once() -> None:
    trainer = trainer_of(torch.bfloat16)
    once = trainer.sft_step(samples()).values["train/grad_norm"]
    trainer = trainer_of(torch.bfloat16)
    trainer.begin_phase("rl", 10)
    trainer.begin_phase("sft", 10)
    assert trainer.sft_step(samples()).values["train/grad_norm"] == pytest.approx(once, rel=1e-6)


def test_two_trainers_of_one_network_do_not_take_each_others_gradients() -> None:
    model = Decoder(SHAPE, seed=1).to(torch.bfloat16)
    norms = []
    for _ in range(2):
        trainer = LocalTrainer(model, SLOW)
        trainer.begin_phase("sft", 10)
        norms.append(trainer.sft_step(samples()).values["train/grad_norm"])
    assert norms[1] == pytest.approx(norms[0], rel=1e-2) and norms[1] > 0


def test_adapters_of_a_bfloat16_model_learn_in_float32() -> None:
    model = adapt(Decoder(SHAPE, seed=1).to(torch.bfloat16), LoraConfig(rank=4), seed=2)
    base = {
        name: parameter.clone() for name, parameter in model.named_parameters() if not parameter.requires_grad
    }
    trainer = LocalTrainer(model, SLOW.model_copy(update={"sft": SftConfig(adam_lr=5e-3, warmup=0.0)}))
    trainer.begin_phase("sft", 60)
    losses = [trainer.sft_step(samples()).values["sft/loss_nats"] for _ in range(40)]
    assert losses[-1] < losses[0] - 0.5
    assert all(
        parameter.dtype == torch.float32 for parameter in model.parameters() if parameter.requires_grad
    )
    assert all(
        torch.equal(parameter, base[name]) for name, parameter in model.named_parameters() if name in base
    )


def test_shared_prefixes_in_bfloat16_are_as_near_to_float32_as_rows_are() -> None:
    rng = random.Random(0)
    prompt = [rng.randrange(53) for _ in range(30)]
    group = [
        Sample(
            attempt=one.attempt,
            segment=0,
            ids=array("i", prompt) + one.ids,
            logprobs=array("f", [-4.0] * 30) + one.logprobs,
            trainable=bytes(30) + one.trainable,
            advantages=array("f", [0.0] * 30) + one.advantages,
            versions=span(0, 30 + len(one.ids)),
        )
        for one in samples()
    ]

    def gradient(dtype: torch.dtype, share: str) -> torch.Tensor:
        trainer = trainer_of(dtype, SLOW.model_copy(update={"share_prefixes": share}), phase="rl")
        trainer.optimizer.zero()
        trainer._accumulate(trainer._pack(group), None, num_tokens=10)
        return torch.cat([found.flatten() for found in trainer.optimizer.gradients()])

    exact = gradient(torch.float32, "never")
    rows, shared = (gradient(torch.bfloat16, share) for share in ("never", "always"))
    assert (rows - exact).norm() < 0.05 * exact.norm()
    assert (shared - exact).norm() < 1.25 * (rows - exact).norm()


def test_muon_is_for_small_networks_unless_it_is_asked_for() -> None:
    small = Decoder(SHAPE, seed=1)
    assert suits_muon(small) and split_parameters(small).matrices
    assert not split_parameters(small, has_muon=False).matrices
    assert not suits_muon(
        Decoder(DecoderConfig(vocab_size=40_000, hidden_size=512), seed=None, device="meta")
    )
    for optimizer, moment in (("muon", "momentum_buffer"), ("adamw", "exp_avg"), ("auto", "momentum_buffer")):
        trainer = trainer_of(torch.float32, SLOW.model_copy(update={"optimizer": optimizer}))
        trainer.sft_step(samples())
        assert any(
            name.endswith(f"layers.0.mlp.up_proj.weight/{moment}") for name in trainer.optimizer.moments()
        )


def saved_bytes(kept_tokens: int | None) -> int:
    """Of tensors that wait for the backward pass."""
    model, waiting = Decoder(SHAPE, seed=1), dict[int, int]()
    own = {parameter.data_ptr() for parameter in model.parameters()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            waiting[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    packed = pack(samples(12))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        hidden_ND = model.extend(packed.ids_N, packed.lengths_B, (), kept_tokens)[0]
    assert hidden_ND.requires_grad
    return sum(waiting.values())


def test_layers_that_compute_again_keep_little_and_as_many_keep_theirs_as_there_is_room_for() -> None:
    num_tokens = len(pack(samples(12)).ids_N)
    every, none, half = saved_bytes(None), saved_bytes(0), saved_bytes((num_tokens + 1) // 2)
    assert none < 0.35 * every
    assert none < half < 0.75 * every
    assert saved_bytes(num_tokens) == every


def test_a_network_that_cannot_compute_its_activations_again_says_so() -> None:
    class Plain:
        def __init__(self, model: Decoder) -> None:
            self.hidden, self.logits, self.named_parameters = (
                model.hidden,
                model.logits,
                model.named_parameters,
            )
            self.head_weight = model.head_weight

    with pytest.raises(ValueError, match="keep_activations"):
        LocalTrainer(Plain(Decoder(SHAPE, seed=1)), TrainerConfig(keep_activations=False))


def test_a_new_phase_frees_masters_and_moments_of_the_last() -> None:
    trainer = trainer_of(torch.bfloat16)
    trainer.sft_step(samples())
    gone = [weakref.ref(value) for value in trainer.optimizer.moments().values()]
    gc.disable()  # which would find them some time
    try:
        trainer.begin_phase("rl", 10)
        assert gone and not any(each() is not None for each in gone)
    finally:
        gc.enable()
