"""The chunked head against the plain one: values, gradients, memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from agito.learning.losses.chunked import chunked_logprobs, should_chunk
from agito.learning.losses.logprobs import entropy, log_distributions, token_logprobs

TOKENS, WIDTH, VOCAB, CHUNK = 70, 24, 601, 8000  # six chunks, of which four are kept


def inputs(
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, nn.Linear, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(WIDTH, VOCAB, bias=False, dtype=dtype)
    with torch.no_grad():
        head.weight.copy_(torch.randn(VOCAB, WIDTH, generator=generator) * 0.7)
    hidden_TD = torch.randn(TOKENS, WIDTH, generator=generator).to(dtype).requires_grad_()
    target_T = torch.randint(VOCAB, (TOKENS,), generator=generator)
    temperature_T = torch.rand(TOKENS, generator=generator) + 0.5
    return hidden_TD, head, target_T, temperature_T, torch.randn(TOKENS, generator=generator)


@pytest.mark.parametrize("is_frozen", [False, True], ids=["a head that learns", "a frozen head"])
@pytest.mark.parametrize("has_temperature", [True, False])
def test_chunks_give_the_values_and_gradients_of_the_whole(is_frozen: bool, has_temperature: bool) -> None:
    hidden_TD, head, target_T, temperature_T, weight_T = inputs()
    head.requires_grad_(not is_frozen)
    temperature = temperature_T if has_temperature else None
    logp_TV = log_distributions(hidden_TD, head, torch.arange(TOKENS), temperature_T=temperature)
    expected_T = token_logprobs(logp_TV, target_T)
    (expected_T * weight_T).sum().backward()
    expected = [parameter.grad for parameter in (hidden_TD, head.weight)]
    hidden_TD.grad = head.weight.grad = None

    logp_T, entropy_T = chunked_logprobs(
        hidden_TD, head.weight, target_T, temperature_T=temperature, chunk=CHUNK
    )
    assert not entropy_T.requires_grad
    (logp_T * weight_T).sum().backward()
    torch.testing.assert_close(logp_T, expected_T, atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy_T, entropy(logp_TV), atol=1e-5, rtol=0)
    for parameter, gradient in zip((hidden_TD, head.weight), expected, strict=True):
        if gradient is None:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-4)


def gradient(parameter: torch.Tensor) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad.float()


def test_in_bfloat16_the_gradients_are_those_of_the_whole_within_its_rounding() -> None:
    hidden_TD, head, target_T, _, weight_T = inputs(torch.bfloat16)
    (
        token_logprobs(log_distributions(hidden_TD, head, torch.arange(TOKENS)), target_T) * weight_T
    ).sum().backward()
    expected = [gradient(parameter) for parameter in (hidden_TD, head.weight)]
    hidden_TD.grad = head.weight.grad = None
    (chunked_logprobs(hidden_TD, head.weight, target_T, chunk=CHUNK)[0] * weight_T).sum().backward()
    for parameter, whole in zip((hidden_TD, head.weight), expected, strict=True):
        assert (gradient(parameter) - whole).norm() < 0.01 * whole.norm()


def test_a_token_that_cannot_be_has_no_share_in_the_entropy() -> None:
    hidden_TD = torch.ones(1, 1)
    weight_VD = torch.tensor([[0.0], [0.0], [-torch.inf]])
    logp_T, entropy_T = chunked_logprobs(hidden_TD, weight_VD, torch.tensor([0]))
    assert float(logp_T) == pytest.approx(-0.693147, abs=1e-6)
    assert float(entropy_T) == pytest.approx(0.693147, abs=1e-6)


def test_few_logits_are_not_cut() -> None:
    assert not should_chunk(2048, 1500)
    assert should_chunk(512, 49_152)


_MEASURE = """
import resource, sys, torch
from agito.learning.losses.chunked import chunked_logprobs
vocab, tokens, learns = 150_000, int(sys.argv[1]), sys.argv[2] == "learns"
torch.set_num_threads(1)
head = torch.randn(vocab, 16, requires_grad=learns)
hidden = torch.randn(tokens, 16, requires_grad=True)
chunked_logprobs(hidden[:2], head, torch.tensor([1, 2]))[0].sum().backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
chunked_logprobs(hidden, head, torch.arange(tokens))[0].sum().backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize("learns", ["learns"])
def test_a_vocabulary_of_150_000_costs_less_than_300_mb_at_any_length(learns: str) -> None:
    """All logits of 600 tokens would be 343 MiB, and their softmax as much again."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, "600", learns],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert float(done.stdout) < 300
