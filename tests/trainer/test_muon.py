from __future__ import annotations

import pytest
import torch

from agito.learning.trainer.muon import Muon, orthogonalise

SHAPES = [(16, 8), (8, 16), (8, 16), (8, 8), (24, 8), (8, 24)]


def run(make_optimizer, *, steps: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    optimizer = make_optimizer(params)
    for _ in range(steps):
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator)
        optimizer.step()
    return [param.detach() for param in params]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-3), (torch.float32, 6e-3)])
def test_it_equals_the_optimizer_of_torch_up_to_the_rounding_of_bfloat16(
    dtype: torch.dtype, tolerance: float
) -> None:
    # four steps of entries up to about 0.35 at rate 0.05; bfloat16 keeps 8 bits, and two products differ in
    # their last one
    mine = run(lambda params: Muon(params, lr=0.05, momentum=0.9, weight_decay=0.1, dtype=dtype))
    theirs = run(lambda params: torch.optim.Muon(params, lr=0.05, momentum=0.9, weight_decay=0.1))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


def test_one_step_in_full_precision_equals_the_formula() -> None:
    """torch iterates in bfloat16 only, so the reference is written out here, matrix by matrix."""
    generator = torch.Generator().manual_seed(1)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    before = [param.detach().clone() for param in params]
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)
    Muon(params, lr=0.1, momentum=0.9, weight_decay=0.2).step()
    for param, old in zip(params, before, strict=True):
        assert param.grad is not None
        momentum = 0.1 * param.grad
        x = (0.1 * param.grad + 0.9 * momentum).double()
        x = x / x.norm()
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        expected = old * (1 - 0.1 * 0.2) - 0.1 * max(1, param.shape[0] / param.shape[1]) ** 0.5 * x.float()
        torch.testing.assert_close(param.detach(), expected, atol=2e-6, rtol=0)


def test_what_ranks_iterate_apart_adds_up_to_the_whole_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(3)
    matrices = [torch.randn(shape, generator=generator) for shape in (*SHAPES, *SHAPES)]
    whole = orthogonalise(matrices, torch.float32)
    parts = [orthogonalise(matrices, torch.float32, rank=rank, num_ranks=3) for rank in range(3)]
    for matrix, *shares in zip(whole, *parts, strict=True):
        assert sum(bool(share.any()) for share in shares) == 1
        assert torch.equal(torch.stack(shares).sum(0), matrix)


def test_singular_values_become_about_one_whatever_the_company() -> None:
    generator = torch.Generator().manual_seed(2)
    matrices = [torch.randn(shape, generator=generator) * 10**power for power, shape in enumerate(SHAPES)]
    together = orthogonalise(matrices, torch.float32)
    for matrix, result in zip(matrices, together, strict=True):
        values = torch.linalg.svdvals(result)
        assert values.min() > 0.3
        assert values.max() < 1.3
        torch.testing.assert_close(orthogonalise([matrix], torch.float32)[0], result, atol=1e-5, rtol=0)


def test_a_zero_gradient_stays_zero() -> None:
    assert not orthogonalise([torch.zeros(4, 6)], torch.float32)[0].any()


def test_a_vector_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\): Muon takes matrices"):
        Muon([torch.zeros(3, requires_grad=True)], lr=0.1)
