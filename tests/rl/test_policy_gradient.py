"""Leave-one-out credit and the loss together, against the exact gradient of the expected reward, by
enumerating every outcome.
"""

from __future__ import annotations

import itertools
import math
from array import array

import pytest
import torch
from torch import Tensor

from agito.learning.credit import leave_one_out
from agito.learning.losses.config import DecoupledPPOConfig
from agito.learning.losses.decoupled_ppo import decoupled_ppo
from agito.learning.losses.logprobs import entropy, log_distributions, token_logprobs
from agito.learning.losses.meters import PolicyTokens
from agito.learning.losses.packing import pack
from agito.types import (
    Attempt,
    AttemptId,
    Dialect,
    FinishReason,
    Group,
    Segment,
    Status,
    Task,
    TerminationReason,
    Tokens,
    TokenSource,
    Trajectory,
    Turn,
    Verdict,
    span,
)

TASK = Task(
    id="bandit", env="bandit", split="train", family="f", level=1, prompt={Dialect.COMPACT: "?"}, tools=()
)
UNCAPPED = DecoupledPPOConfig(w_max=1e9)
ARMS = 3


def group(outcomes: tuple[tuple[int, ...], ...], reward: Tensor, logp_mu: Tensor) -> Group:
    """Attempts at a game: prompt token 0, then the outcome's tokens, each drawn given the one before."""
    attempts = []
    for slot, outcome in enumerate(outcomes):
        path = (0, *outcome)
        logprobs = [math.nan, *(float(logp_mu[a, b]) for a, b in itertools.pairwise(path))]
        columns = Tokens(
            ids=array("i", path),
            logprobs=array("f", logprobs),
            kinds=bytes([TokenSource.OBSERVED] + [TokenSource.SAMPLED] * len(outcome)),
            channels=bytes(len(path)),
            versions=span(0, len(path)),
        )
        trajectory = Trajectory(
            attempt=AttemptId(group=0, slot=slot),
            task=TASK,
            segments=(Segment(id=0, tokens=columns),),
            turns=(Turn(segment=0, start=1, stop=len(path), stopped=FinishReason.END),),
            events=(),
            end=TerminationReason.SUBMITTED,
        )
        attempts.append(
            Attempt(
                trajectory=trajectory, verdict=Verdict(status=Status.SCORED, reward=float(reward[outcome]))
            )
        )
    return Group(id=0, task=TASK, attempts=tuple(attempts))


def loss_of(game: Group, theta: Tensor) -> Tensor:
    """The loss exactly as the trainer forms it, with the table `theta` as the network; N counts the group's
    tokens.
    """
    packed = pack(leave_one_out(game))
    logp_TV = log_distributions(theta[packed.ids_N], lambda hidden: hidden, packed.source_T)
    logp_T = token_logprobs(logp_TV, packed.target_T)
    batch = PolicyTokens(
        logp_T=logp_T,
        logp_old_T=logp_T.detach(),
        logp_mu_T=packed.logp_mu_T,
        advantages_T=packed.advantages_T,
        entropy_T=entropy(logp_TV),
        sequence_T=packed.sequence_T,
        num_sequences=packed.num_sequences,
    )
    return decoupled_ppo(batch, num_tokens=packed.num_tokens, config=UNCAPPED)[0]


def expected_gradient(theta: Tensor, mu: Tensor, reward: Tensor, *, attempts: int, length: int) -> Tensor:
    """E[d loss / d theta] over every group that mu could have sampled."""
    logp_mu = torch.log_softmax(mu, dim=-1)
    total = torch.zeros_like(theta)
    outcomes = list(itertools.product(range(ARMS), repeat=length))
    for drawn in itertools.product(outcomes, repeat=attempts):
        probability = math.exp(
            sum(float(logp_mu[a, b]) for outcome in drawn for a, b in itertools.pairwise((0, *outcome)))
        )
        (gradient,) = torch.autograd.grad(loss_of(group(drawn, reward, logp_mu), theta), theta)
        total += probability * gradient
    return total


def exact_gradient(theta: Tensor, reward: Tensor, *, length: int) -> Tensor:
    """d J / d theta of J = sum over outcomes of pi(outcome) r(outcome), by differentiation of the
    sum itself.
    """
    logp = torch.log_softmax(theta, dim=-1)
    value = torch.zeros(())
    for outcome in itertools.product(range(ARMS), repeat=length):
        logps = [logp[a, b] for a, b in itertools.pairwise((0, *outcome))]
        value = value + torch.stack(logps).sum().exp() * reward[outcome]
    return torch.autograd.grad(value, theta)[0]


@pytest.mark.parametrize(("attempts", "length"), [(2, 1), (3, 1), (2, 2)])
def test_the_expected_gradient_is_that_of_the_expected_reward(attempts: int, length: int) -> None:
    torch.manual_seed(attempts * 10 + length)
    theta = torch.randn(ARMS, ARMS).requires_grad_()
    reward = torch.randn((ARMS,) * length)
    found = expected_gradient(theta, theta.detach(), reward, attempts=attempts, length=length)
    # loss = -(sum over attempts and tokens) / N with N = attempts * length, and each attempt contributes grad
    # J in expectation
    torch.testing.assert_close(
        found, -exact_gradient(theta, reward, length=length) / length, atol=2e-6, rtol=0
    )


def test_samples_of_an_older_policy_give_the_same_gradient_through_their_weights() -> None:
    torch.manual_seed(5)
    theta = torch.randn(ARMS, ARMS).requires_grad_()
    mu, reward = torch.randn(ARMS, ARMS), torch.randn(ARMS)
    found = expected_gradient(theta, mu, reward, attempts=3, length=1)
    torch.testing.assert_close(found, -exact_gradient(theta, reward, length=1), atol=2e-6, rtol=0)


def test_groups_that_all_earned_the_same_have_exactly_no_gradient() -> None:
    torch.manual_seed(1)
    theta = torch.randn(ARMS, ARMS).requires_grad_()
    game = group(((0,), (1,), (2,)), torch.ones(ARMS), torch.log_softmax(theta.detach(), dim=-1))
    (gradient,) = torch.autograd.grad(loss_of(game, theta), theta)
    assert not gradient.any()
