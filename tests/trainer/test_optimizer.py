from __future__ import annotations

import pytest
import torch

from agito.learning.trainer.config import PhaseConfig, TrainerConfig
from agito.learning.trainer.muon import Muon
from agito.learning.trainer.optimizer import PhaseOptimizer, schedule, split_parameters


def test_muon_gets_hidden_matrices_and_adamw_the_rest(make_model) -> None:
    split = split_parameters(make_model(tie_embeddings=False))
    assert split.tables == ("model.embed_tokens.weight", "lm_head.weight")
    assert len(split.matrices) == 2 * 7
    assert all(".self_attn." in name or ".mlp." in name for name in split.matrices)
    assert all("norm" in name for name in split.vectors)
    names = [name for name, _ in make_model(tie_embeddings=False).named_parameters()]
    assert sorted(names) == sorted([*split.matrices, *split.tables, *split.vectors])


def test_tied_embeddings_are_trained_once_and_frozen_parameters_never(make_model) -> None:
    model = make_model()
    model.model.norm.weight.requires_grad_(False)
    split = split_parameters(model)
    assert split.tables == ("model.embed_tokens.weight",)
    assert "model.norm.weight" not in split.vectors


def test_hand_worked_schedules() -> None:
    up_and_down = [schedule(step, 10, warmup=0.2, decay=1.0, floor=0.0) for step in range(12)]
    assert up_and_down == pytest.approx(
        [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0, 0.0]
    )
    assert [schedule(step, 4, warmup=0.0, decay=0.0, floor=0.0) for step in (0, 3, 9)] == [1.0, 1.0, 1.0]
    late = [schedule(step, 4, warmup=0.0, decay=0.5, floor=0.2) for step in range(6)]
    assert late == pytest.approx([1.0, 1.0, 1.0, 0.6, 0.2, 0.2])


def test_every_step_of_a_phase_has_a_positive_rate() -> None:
    for total in (1, 2, 7, 100):
        assert all(schedule(step, total, warmup=0.02, decay=1.0, floor=0.0) > 0 for step in range(total))


def filled(model, config: PhaseConfig, size: float) -> PhaseOptimizer:
    optimizer = PhaseOptimizer(model, config, total_steps=10, muon_dtype=torch.float32)
    for _, parameter in model.named_parameters():
        parameter.grad = torch.full_like(parameter, size)
    return optimizer


def test_gradients_are_clipped_by_their_global_norm(make_model) -> None:
    model = make_model()
    optimizer = filled(model, PhaseConfig(grad_clip=0.5), 1.0)
    expected = sum(parameter.numel() for parameter in model.parameters()) ** 0.5
    assert optimizer.apply(0) == pytest.approx(expected, rel=1e-5)
    clipped = torch.cat([gradient.reshape(-1) for gradient in optimizer.gradients()])
    assert float(clipped.norm()) == pytest.approx(0.5, rel=1e-4)


def test_a_gradient_that_is_not_finite_changes_no_weight(make_model) -> None:
    model = make_model()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(FloatingPointError, match="gradient norm is nan at step 0"):
        filled(model, PhaseConfig(), float("nan")).apply(0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_norms_are_never_decayed(make_model) -> None:
    model = make_model()
    filled(model, PhaseConfig(weight_decay=0.5, lr=0.1, adam_lr=0.1), 0.0).apply(0)
    assert all(bool((parameter == 1).all()) for name, parameter in model.named_parameters() if "norm" in name)
    assert (
        model.model.embed_tokens.weight.norm().item() < make_model().model.embed_tokens.weight.norm().item()
    )


def test_the_phases_have_their_own_rates(make_model) -> None:
    config = TrainerConfig()
    assert config.sft.lr != config.rl.lr
    optimizer = filled(make_model(), config.sft, 1.0)
    muon = next(one for one, _ in optimizer._rates if isinstance(one, Muon))
    optimizer.apply(9)
    assert muon.param_groups[0]["lr"] == pytest.approx(config.sft.lr * optimizer.factor(9))
    optimizer.apply(9, rate=0.25)
    assert muon.param_groups[0]["lr"] == pytest.approx(0.25 * config.sft.lr * optimizer.factor(9))
