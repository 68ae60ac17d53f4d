from __future__ import annotations

import math

import pytest
import torch

from agito.learning.losses.logprobs import entropy, log_distributions, token_logprobs


def test_log_probabilities_match_a_slow_reference_at_each_temperature() -> None:
    torch.manual_seed(0)
    hidden_ND, head = torch.randn(6, 4), torch.nn.Linear(4, 5)
    source_T, target_T, temperature_T = (
        torch.tensor([0, 3, 5]),
        torch.tensor([1, 4, 0]),
        torch.tensor([1.0, 0.5, 2.0]),
    )
    logp_TV = log_distributions(hidden_ND, head, source_T, temperature_T=temperature_T)
    logp_T, entropy_T = token_logprobs(logp_TV, target_T), entropy(logp_TV)
    for t in range(3):
        logits = [x / float(temperature_T[t]) for x in head(hidden_ND[source_T[t]]).tolist()]
        z = sum(math.exp(x) for x in logits)
        probabilities = [math.exp(x) / z for x in logits]
        assert logp_T[t].item() == pytest.approx(math.log(probabilities[target_T[t]]), abs=1e-6)
        assert entropy_T[t].item() == pytest.approx(-sum(p * math.log(p) for p in probabilities), abs=1e-6)


def test_the_head_runs_only_where_a_token_is_needed() -> None:
    rows: list[int] = []

    def head(hidden: torch.Tensor) -> torch.Tensor:
        rows.append(len(hidden))
        return hidden

    log_distributions(torch.zeros(100, 3), head, torch.tensor([7]))
    assert rows == [1]


def test_hand_worked_entropies() -> None:
    uniform = torch.log_softmax(torch.zeros(1, 4), dim=-1)
    assert float(entropy(uniform)) == pytest.approx(math.log(4))
    impossible = torch.log_softmax(torch.tensor([[0.0, 0.0, -math.inf]]), dim=-1)
    assert float(entropy(impossible)) == pytest.approx(math.log(2))


def test_entropy_carries_no_gradient() -> None:
    logits = torch.zeros(1, 4, requires_grad=True)
    assert not entropy(torch.log_softmax(logits, dim=-1)).requires_grad
