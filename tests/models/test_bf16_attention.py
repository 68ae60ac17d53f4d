"""The learner's attention in bfloat16 against the same in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from agito.models import bf16_attention
from agito.models.compiler import is_built

pytestmark = pytest.mark.skipif(
    not is_built(bf16_attention.ATTENTION),
    reason="needs a C compiler: apt install gcc, or pip install ziglang",
)

# heads, key heads, width, tokens of the prefix, tokens of each sequence
SHAPES = [
    (1, 1, 32, 0, [1]),
    (2, 1, 32, 1, [1, 1]),
    (9, 3, 64, 0, [130]),
    (9, 3, 64, 31, [47, 50, 64]),
    (8, 8, 64, 33, [33, 1, 70]),
    (4, 1, 96, 64, [65, 3]),
    (16, 2, 128, 5, [100]),
    (60, 1, 32, 40, [2, 3]),
    (4, 1, 256, 37, [20]),
]


def expected(inputs: list[Tensor], lengths: list[int], scale: float) -> tuple[Tensor, Tensor]:
    q_NHE, k_NKE, v_NKE, past_k_PKE, past_v_PKE = inputs
    group, outs, norms = q_NHE.shape[1] // k_NKE.shape[1], list[Tensor](), list[Tensor]()
    for start, length in zip(itertools.accumulate([0, *lengths]), lengths, strict=False):
        mine = slice(start, start + length)
        keys, values = (
            torch.cat(pair).repeat_interleave(group, dim=1)
            for pair in ((past_k_PKE, k_NKE[mine]), (past_v_PKE, v_NKE[mine]))
        )
        scores = torch.einsum("nhe,khe->hnk", q_NHE[mine], keys) * scale
        hidden = torch.ones(length, len(keys), dtype=torch.bool).triu(len(past_k_PKE) + 1)
        scores = scores.masked_fill(hidden, -torch.inf)
        outs.append(torch.einsum("hnk,khe->nhe", scores.softmax(-1), values))
        norms.append(scores.logsumexp(-1).T)
    return torch.cat(outs), torch.cat(norms)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_and_every_gradient_are_those_of_float64_to_the_rounding_of_bfloat16(
    shape: tuple[int, int, int, int, list[int]], threads: int
) -> None:
    heads, kv_heads, width, num_past, lengths = shape
    generator = torch.Generator().manual_seed(sum(lengths))
    count, scale = sum(lengths), 1.3 * width**-0.5
    sizes = (count, heads), (count, kv_heads), (count, kv_heads), (num_past, kv_heads), (num_past, kv_heads)
    inputs = [torch.randn(*size, width, generator=generator).bfloat16() for size in sizes]
    q, k, v, *past_kv = inputs
    d_out = torch.randn(count, heads, width, generator=generator).bfloat16()
    starts_N = torch.repeat_interleave(
        torch.tensor(list(itertools.accumulate([0, *lengths]))[:-1]), torch.tensor(lengths)
    ).int()
    past = (past_kv[0], past_kv[1]) if num_past else None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        out, norm = bf16_attention.attend(q, k, v, past, starts_N, scale)
        slopes = bf16_attention.attend_backward(d_out, q, k, v, past, out, norm, starts_N, scale)
    finally:
        torch.set_num_threads(before)

    wide = [each.double().requires_grad_() for each in inputs]
    wanted_out, wanted_norm = expected(wide, lengths, scale)
    wanted = torch.autograd.grad(wanted_out, wide, d_out.double())
    torch.testing.assert_close(norm.double(), wanted_norm, atol=1e-4, rtol=1e-4)
    found = [out, *slopes[:3], *(slopes[3:] if num_past else ())]
    for mine, theirs in zip(found, [wanted_out, *wanted[: len(found) - 1]], strict=True):
        assert mine is not None
        apart = (mine.double() - theirs).norm()
        assert apart <= 4e-3 * theirs.norm() + 1e-6 * theirs.numel() ** 0.5, (
            f"{apart / theirs.norm():.1e} apart"
        )


def test_what_lies_behind_a_sequence_changes_no_bit_of_it() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(90, heads, 64, generator=generator).bfloat16() for heads in (6, 2, 2))
    starts_N = torch.tensor([0] * 50 + [50] * 40).int()
    alone, _ = bf16_attention.attend(q[:50], k[:50], v[:50], None, starts_N[:50], None)
    k[50:], v[50:] = 1e38, 1e38
    beside, _ = bf16_attention.attend(q, k, v, None, starts_N, None)
    assert torch.equal(alone, beside[:50])
