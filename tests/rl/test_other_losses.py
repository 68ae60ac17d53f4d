"""CISPO, GSPO and DPPO against their formulas, token by token; each at age 0 is the plain policy gradient."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

from agito.learning.losses.config import CISPOConfig, DPPOConfig, GSPOConfig, LossConfig
from agito.learning.losses.meters import PolicyTokens
from agito.learning.losses.registry import LOSSES
from agito.learning.trainer.config import TrainerConfig

N = 50.0
CONFIGS: list[LossConfig] = [
    CISPOConfig(clip_low=0.5, clip_high=1.6),
    GSPOConfig(clip_low=0.9, clip_high=1.1),
    DPPOConfig(delta=0.1, ratio_max=1.5),
]


def batch(seed: int, *, spread: float = 0.5, num: int = 40) -> PolicyTokens:
    rng = random.Random(seed)
    mu = [-rng.uniform(0.05, 3) for _ in range(num)]
    old = [min(each + rng.gauss(0, spread), -1e-3) for each in mu] if spread else mu
    logp = [min(each + rng.gauss(0, spread / 2), -1e-3) for each in old] if spread else mu
    sequence = sorted([*range(5), *(rng.randrange(5) for _ in range(num - 5))])
    return PolicyTokens(
        logp_T=torch.tensor(logp, requires_grad=True),
        logp_old_T=torch.tensor(old),
        logp_mu_T=torch.tensor(mu),
        advantages_T=torch.tensor([rng.gauss(0, 1) for _ in range(num)]),
        entropy_T=torch.full((num,), 0.5),
        sequence_T=torch.tensor(sequence),
        num_sequences=5,
    )


def slow_gradient(tokens: PolicyTokens, config: LossConfig) -> list[float]:
    """d loss / d log pi of every token, from the formula."""
    rows = list(
        zip(
            tokens.logp_T.tolist(),
            tokens.logp_mu_T.tolist(),
            tokens.advantages_T.tolist(),
            tokens.sequence_T.tolist(),
            strict=True,
        )
    )
    gradient: list[float] = []
    for logp, mu, advantage, sequence in rows:
        ratio = math.exp(logp - mu)
        match config:
            case CISPOConfig():
                gradient.append(-min(max(ratio, config.clip_low), config.clip_high) * advantage)
            case DPPOConfig():
                moved = math.exp(logp) - math.exp(mu)
                is_dropped = (advantage > 0 and moved > config.delta) or (
                    advantage < 0 and moved < -config.delta
                )
                gradient.append(0.0 if is_dropped else -min(ratio, config.ratio_max) * advantage)
            case GSPOConfig():
                mates = [row for row in rows if row[3] == sequence]
                mean = math.exp(sum(row[0] - row[1] for row in mates) / len(mates))
                clipped = min(max(mean, config.clip_low), config.clip_high)
                active = [row[2] for row in mates if mean * row[2] <= clipped * row[2]]
                gradient.append(-mean * sum(active) / len(mates))
            case _:
                raise AssertionError(config)
    return [each / N for each in gradient]


def gradient_of(tokens: PolicyTokens, config: LossConfig) -> Tensor:
    loss, meters, max_w = LOSSES[config.name](tokens, num_tokens=N, config=config)
    loss.backward()
    assert meters.tokens == tokens.logp_T.numel()
    assert max_w == pytest.approx(float((tokens.logp_old_T - tokens.logp_mu_T).exp().max()), rel=1e-5)
    assert tokens.logp_T.grad is not None
    return tokens.logp_T.grad


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
@pytest.mark.parametrize("seed", range(4))
def test_the_gradient_is_that_of_the_formula(config: LossConfig, seed: int) -> None:
    tokens = batch(seed)
    assert gradient_of(tokens, config).tolist() == pytest.approx(slow_gradient(tokens, config), abs=1e-6)


@pytest.mark.parametrize("config", [CISPOConfig(), DPPOConfig()], ids=lambda config: config.name)
def test_at_age_zero_it_is_the_plain_policy_gradient(config: LossConfig) -> None:
    tokens = batch(0, spread=0.0)
    assert torch.allclose(gradient_of(tokens, config), -tokens.advantages_T / N, atol=1e-7)


def test_at_age_zero_gspo_shares_a_sequences_gradient_among_its_tokens() -> None:
    tokens = batch(0, spread=0.0)
    gradient = gradient_of(tokens, GSPOConfig())
    for sequence in range(tokens.num_sequences):
        mine = tokens.sequence_T == sequence
        assert torch.allclose(gradient[mine], -tokens.advantages_T[mine].mean() / N, atol=1e-7)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_a_recipe_chooses_a_loss_by_its_name(config: LossConfig) -> None:
    assert TrainerConfig.model_validate({"loss": {"name": config.name}}).loss.name == config.name
    with pytest.raises(ValueError, match="num_tokens=0"):
        LOSSES[config.name](batch(0), num_tokens=0, config=config)
