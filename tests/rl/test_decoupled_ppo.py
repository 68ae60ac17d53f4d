from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from agito.learning.losses.config import DecoupledPPOConfig
from agito.learning.losses.decoupled_ppo import decoupled_ppo
from agito.learning.losses.meters import PolicyMeters, PolicyTokens
from agito.learning.losses.registry import LOSSES

CONFIG = DecoupledPPOConfig()


def tokens(
    logp: list[float],
    old: list[float],
    mu: list[float],
    advantages: list[float],
    sequence: list[int] | None = None,
) -> PolicyTokens:
    sequence = sequence or [0] * len(logp)
    return PolicyTokens(
        logp_T=torch.tensor(logp, requires_grad=True),
        logp_old_T=torch.tensor(old),
        logp_mu_T=torch.tensor(mu),
        advantages_T=torch.tensor(advantages),
        entropy_T=torch.full((len(logp),), 0.5),
        sequence_T=torch.tensor(sequence),
        num_sequences=max(sequence) + 1,
    )


def random_tokens(seed: int, *, num: int = 60, spread: float = 0.6) -> PolicyTokens:
    rng = random.Random(seed)
    mu = [-rng.uniform(0.1, 3) for _ in range(num)]
    old = [x + rng.gauss(0, spread) for x in mu]
    logp = [x + rng.gauss(0, 0.3) for x in old]
    return tokens(
        logp,
        old,
        mu,
        [rng.gauss(0, 1) for _ in range(num)],
        [*sorted(rng.randrange(6) for _ in range(num - 1)), 6],
    )


def slow_loss(
    batch: PolicyTokens, num_tokens: float, config: DecoupledPPOConfig
) -> tuple[float, list[float]]:
    """Loss and d loss / d log pi, token by token, from the formula."""
    rows = list(
        zip(
            *(
                column.tolist()
                for column in (batch.logp_T, batch.logp_old_T, batch.logp_mu_T, batch.advantages_T)
            ),
            strict=True,
        )
    )
    sequence = batch.sequence_T.tolist()
    total, gradient = 0.0, []
    for t, (logp, old, mu, advantage) in enumerate(rows):
        mates = [rows[u] for u in range(len(rows)) if sequence[u] == sequence[t]]
        geometric = math.exp(sum(o - m for _, o, m, _ in mates) / len(mates))
        low, high = config.sequence_rejection or (0.0, math.inf)
        if not low <= geometric <= high:
            gradient.append(0.0)
            continue
        w = min(math.exp(old - mu), config.w_max)
        rho = math.exp(logp - old)
        clipped = min(max(rho, config.clip_low), config.clip_high)
        kept = min(rho * advantage, clipped * advantage)
        kept = max(kept, config.dual_clip * advantage) if advantage < 0 else kept
        total -= w * kept
        is_active = kept == rho * advantage
        gradient.append(-w * rho * advantage / num_tokens if is_active else 0.0)
    return total / num_tokens, gradient


@pytest.mark.parametrize("rejection", [None, (0.8, 1.25)])
@pytest.mark.parametrize("seed", range(4))
def test_loss_and_gradient_equal_the_slow_per_token_reference(
    seed: int, rejection: tuple[float, float] | None
) -> None:
    batch, config = random_tokens(seed), DecoupledPPOConfig(sequence_rejection=rejection)
    loss, _, _ = decoupled_ppo(batch, num_tokens=77, config=config)
    loss.backward()
    expected, gradient = slow_loss(batch, 77, config)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert batch.logp_T.grad is not None
    assert batch.logp_T.grad.tolist() == pytest.approx(gradient, abs=1e-6)


@pytest.mark.parametrize(
    ("rho", "w", "advantage", "expected"),
    [
        (1.0, 1.0, 2.0, -2.0),  # on-policy: -A
        (1.5, 1.0, 1.0, -1.28),  # a good token is not raised past the upper clip
        (1.5, 1.0, -1.0, 1.5),  # a bad token that grew is pushed down without a cap
        (0.5, 1.0, -1.0, 0.8),  # a bad token is not lowered past the lower clip
        (0.5, 1.0, 1.0, -0.5),  # a good token that shrank is pulled up
        (1.0, 5.0, 1.0, -2.0),  # w is capped at 2
        (1.0, 0.5, 1.0, -0.5),  # and not floored
    ],
)
def test_hand_worked_tokens(rho: float, w: float, advantage: float, expected: float) -> None:
    old = -1.0
    loss, _, _ = decoupled_ppo(
        tokens([old + math.log(rho)], [old], [old - math.log(w)], [advantage]), num_tokens=1, config=CONFIG
    )
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_the_weight_carries_no_gradient_and_shared_old_weights_give_the_plain_policy_gradient() -> None:
    logp = torch.tensor([-1.0, -2.0], requires_grad=True)
    batch = replace(
        tokens([-1.0, -2.0], [-1.0, -2.0], [-1.3, -2.0], [1.0, -3.0]), logp_T=logp, logp_old_T=logp.detach()
    )
    loss, _, _ = decoupled_ppo(batch, num_tokens=2, config=CONFIG)
    loss.backward()
    assert logp.grad is not None
    assert logp.grad.tolist() == pytest.approx([-math.exp(0.3) / 2, 1.5], abs=1e-6)


def test_old_log_probabilities_must_be_frozen() -> None:
    batch = tokens([-1.0], [-1.0], [-1.0], [1.0])
    with pytest.raises(AssertionError, match="frozen"):
        replace(batch, logp_old_T=batch.logp_T)


def test_zero_advantage_has_exactly_zero_gradient_but_counts_in_n() -> None:
    batch = tokens([-1.0, -1.0], [-1.2, -1.2], [-1.0, -1.0], [0.0, 1.0])
    loss, meters, _ = decoupled_ppo(batch, num_tokens=2, config=CONFIG)
    loss.backward()
    assert batch.logp_T.grad is not None
    assert batch.logp_T.grad[0] == 0.0
    assert batch.logp_T.grad[1] != 0.0
    assert meters.tokens == 2


def test_meters_equal_hand_worked_values() -> None:
    batch = tokens([-1.0, -1.0, -1.0], [-1.0, -1.5, -1.0], [-1.0, -1.5, -2.0], [1.0, 1.0, 1.0])
    _, meters, max_w = decoupled_ppo(batch, num_tokens=3, config=CONFIG)
    figures = meters.metrics(max_w)
    w = [1.0, 1.0, math.e]
    assert figures["policy/clip_fraction"] == pytest.approx(1 / 3)  # rho = e^.5 with A > 0
    assert figures["policy/truncated_fraction"] == pytest.approx(1 / 3)
    assert figures["policy/log_w_mean_nats"] == pytest.approx(1 / 3)
    assert figures["policy/w_max"] == pytest.approx(math.e)
    assert figures["policy/ess_fraction"] == pytest.approx(sum(w) ** 2 / (3 * sum(x * x for x in w)))
    assert figures["policy/entropy_nats"] == pytest.approx(0.5)
    assert figures["policy/kl_nats"] == pytest.approx((math.exp(0.5) - 1.5 + math.e - 2) / 3)


def test_the_signed_mean_of_log_w_shows_bias_and_the_absolute_one_shows_noise() -> None:
    _, meters, max_w = decoupled_ppo(
        tokens([-1.0, -1.0], [-1.0, -1.0], [-1.5, -0.5], [1.0, 1.0]), num_tokens=2, config=CONFIG
    )
    figures = meters.metrics(max_w)
    assert figures["policy/log_w_mean_nats"] == pytest.approx(0.0)
    assert figures["policy/log_w_abs_mean_nats"] == pytest.approx(0.5)


def test_meters_add_up_over_any_split() -> None:
    batch = random_tokens(3)
    _, whole, _ = decoupled_ppo(batch, num_tokens=60, config=CONFIG)
    total = PolicyMeters()
    for sequence in range(batch.num_sequences):
        where = (batch.sequence_T == sequence).nonzero()[:, 0]
        columns = {
            name: getattr(batch, name)[where]
            for name in ("logp_T", "logp_old_T", "logp_mu_T", "advantages_T", "entropy_T")
        }
        part = PolicyTokens(**columns, sequence_T=torch.zeros(len(where), dtype=torch.int64), num_sequences=1)
        total += decoupled_ppo(part, num_tokens=60, config=CONFIG)[1]
    assert total.sums() == pytest.approx(whole.sums(), abs=1e-6)


def test_a_rejected_sequence_has_exactly_zero_gradient_and_its_length_bias_is_metered() -> None:
    batch = tokens([-1.0] * 5, [-1.0] * 5, [-1.0, -1.0, -2.0, -2.0, -2.0], [1.0] * 5, [0, 0, 1, 1, 1])
    loss, meters, max_w = decoupled_ppo(
        batch, num_tokens=5, config=DecoupledPPOConfig(sequence_rejection=(0.5, 2.0))
    )
    loss.backward()
    assert batch.logp_T.grad is not None
    assert batch.logp_T.grad.tolist() == pytest.approx([-0.2, -0.2, 0, 0, 0])
    figures = meters.metrics(max_w)
    assert figures["policy/rejected_sequences_fraction"] == 0.5
    assert figures["policy/rejected_tokens_fraction"] == 0.6
    assert figures["policy/rejected_length_ratio"] == pytest.approx(3 / 2.5)


def test_rejection_is_off_by_default_and_then_unbiased_by_length() -> None:
    _, meters, max_w = decoupled_ppo(random_tokens(0, spread=3.0), num_tokens=60, config=CONFIG)
    figures = meters.metrics(max_w)
    assert figures["policy/rejected_tokens_fraction"] == 0
    assert figures["policy/rejected_length_ratio"] == 1


def test_an_extreme_weight_stays_finite() -> None:
    batch = tokens([-1.0], [-1.0], [-200.0], [1.0])
    loss, _, _ = decoupled_ppo(batch, num_tokens=1, config=CONFIG)
    loss.backward()
    assert batch.logp_T.grad is not None
    assert float(batch.logp_T.grad) == -2.0


def test_a_recipe_names_the_loss_and_a_wrong_bound_is_refused() -> None:
    assert LOSSES[CONFIG.name] is decoupled_ppo
    with pytest.raises(ValidationError, match="low <= 1 <= high"):
        DecoupledPPOConfig(sequence_rejection=(1.2, 2.0))
    with pytest.raises(ValidationError, match="clip_lo"):
        DecoupledPPOConfig.model_validate({"clip_lo": 0.8})


def test_a_negative_advantage_is_bounded_however_likely_its_token_has_become() -> None:
    """By hand: rho = e^2 = 7.39, A = -1, so the loss is 3 and no gradient is left; at rho = 2 it is 2, as
    without the bound.
    """
    far = tokens([0.0], [-2.0], [-2.0], [-1.0])
    loss, meters, _ = decoupled_ppo(far, num_tokens=1.0, config=CONFIG)
    loss.backward()
    assert loss.item() == pytest.approx(3.0)
    assert far.logp_T.grad is not None and far.logp_T.grad.item() == 0.0
    near = tokens([0.0], [-math.log(2)], [-math.log(2)], [-1.0])
    assert decoupled_ppo(near, num_tokens=1.0, config=CONFIG)[0].item() == pytest.approx(2.0)
    assert meters is not None
