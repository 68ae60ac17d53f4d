"""Attention of many tokens in bfloat16, compiled for processors that multiply it without AMX.

PyTorch's kernel multiplies in float32 there and takes three times as long. Same mathematics: float32
scores, softmax and sums; weights are rounded to bfloat16 before they multiply values.
Axes as in `prefix.py`.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from agito.models.compiler import is_built, library

ATTENTION = Path(__file__).with_name("attention.c")
_ALIGN = 32  # of a head's width
_SIZES = ("tokens", "past", "heads", "kv_heads", "width", "threads")
_INPUTS = ("starts", "q", "k", "v", "past_k", "past_v", "out", "norm", "d_out")
_GRADIENTS = ("d_q", "d_k", "d_v", "d_past_k", "d_past_v")


class _Attention(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in _SIZES),
        ("scale", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in (*_INPUTS, *_GRADIENTS)),
    ]


def is_fast(q_NHE: Tensor) -> bool:
    """Whether this kernel can compute it, faster than PyTorch's."""
    return q_NHE.dtype == torch.bfloat16 and q_NHE.shape[2] % _ALIGN == 0 and _has_kernel()


@cache
def _has_kernel() -> bool:
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16")) and not found.get("amx_bf16") and is_built(ATTENTION)


@cache
def _library() -> SimpleNamespace:
    loaded = ctypes.CDLL(str(library(ATTENTION)))
    functions = {name: loaded[f"agito_{name}"] for name in ("attend", "attend_backward")}
    for function in functions.values():
        function.argtypes, function.restype = (ctypes.c_void_p,), None
    return SimpleNamespace(**functions)


def attend(
    q_NHE: Tensor,
    k_NKE: Tensor,
    v_NKE: Tensor,
    past: tuple[Tensor, Tensor] | None,
    starts_N: Tensor,
    scale: float | None,
) -> tuple[Tensor, Tensor]:
    """Output, shape NHE, and the logarithm of each softmax's denominator, NH. `starts_N`: for each token the
    first one of its sequence, int32."""
    tensors = {"starts": starts_N, "q": q_NHE, "k": k_NKE, "v": v_NKE} | _named(past, "past_")
    tensors |= {"out": torch.empty_like(q_NHE), "norm": torch.empty(q_NHE.shape[:2])}
    _call(_library().attend, tensors, scale)
    return tensors["out"], tensors["norm"]


def attend_backward(
    d_out_NHE: Tensor,
    q_NHE: Tensor,
    k_NKE: Tensor,
    v_NKE: Tensor,
    past: tuple[Tensor, Tensor] | None,
    out_NHE: Tensor,
    norm_NH: Tensor,
    starts_N: Tensor,
    scale: float | None,
) -> tuple[Tensor | None, ...]:
    """Gradients of queries, keys, values, and of the prefix's keys and values."""
    tensors = {"starts": starts_N, "q": q_NHE, "k": k_NKE, "v": v_NKE} | _named(past, "past_")
    found = {f"d_{name}": torch.empty_like(tensor) for name, tensor in tensors.items() if name != "starts"}
    tensors |= {"out": out_NHE, "norm": norm_NH, "d_out": d_out_NHE}
    _call(_library().attend_backward, tensors | found, scale)
    return tuple(found.get(name) for name in _GRADIENTS)


def _named(past: tuple[Tensor, Tensor] | None, start: str) -> dict[str, Tensor]:
    return {} if past is None else {f"{start}k": past[0], f"{start}v": past[1]}


def _call(function: ctypes._NamedFuncPointer, tensors: dict[str, Tensor], scale: float | None) -> None:  # type: ignore[name-defined]
    held = {name: tensor.contiguous() for name, tensor in tensors.items()}
    num_tokens, num_heads, width = held["q"].shape
    past_k = held.get("past_k")
    sizes = (num_tokens, 0 if past_k is None else len(past_k), num_heads, held["k"].shape[1], width)
    found = _Attention(
        **dict(zip(_SIZES, (*sizes, torch.get_num_threads()), strict=True)),
        scale=width**-0.5 if scale is None else scale,
        **{name: tensor.data_ptr() for name, tensor in held.items()},
    )
    function(ctypes.addressof(found))
