"""The cached network on a CPU, as one call of compiled code for each forward pass. Float32; the same interface as `CachedQwen3`.

What a row is given does not depend on the rows beside it, to the bit. Axes as in `cached.py`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agito.models.cached import check_weights
from agito.models.compiler import FORWARD, is_built, library
from agito.models.config import DecoderConfig
from agito.models.rope import rotary

_LANES, _SPAN, _BLOCK = 16, 64, 64  # as in forward.c
_INTS = ("hidden", "inter", "heads", "kv_heads", "width", "vocab", "layers", "slots", "room")
_POINTERS = ("embedding", "norm", "head", "cosines", "sines", "weights", "keys", "values", "x", "h", "wide", "act", "scores")


class _Net(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_int32) for name in _INTS), ("eps", ctypes.c_float), *((name, ctypes.c_void_p) for name in _POINTERS)]


def is_supported(config: DecoderConfig, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this network can run here; there must be a C compiler, or have been one."""
    sizes = (config.hidden_size, config.intermediate_size, config.head_dim)
    if not config.is_plain or device.type != "cpu" or dtype != torch.float32 or any(size % _LANES for size in sizes):
        return False
    return is_built(FORWARD)


@cache
def _forward() -> ctypes._NamedFuncPointer:
    forward = ctypes.CDLL(str(library(FORWARD))).agito_forward
    pointer = ctypes.c_void_p
    forward.argtypes, forward.restype = [pointer, ctypes.c_int32, *[pointer] * 5], None
    return forward


class NativeQwen3:
    """Weights and cache. `slots` rows of at most `context` tokens each. A row is as quick in one slot as in another."""

    packs_rows = False  # nothing is gained by keeping live rows together

    def __init__(self, config: DecoderConfig, *, slots: int, context: int) -> None:
        if context > config.max_position:
            raise ValueError(f"context={context}: the network has positions up to {config.max_position}")
        self.config, self.context, self.device = config, context, torch.device("cpu")
        hidden, inter, width = config.hidden_size, config.intermediate_size, config.head_dim
        heads, kv_heads, layers = config.num_heads, config.num_kv_heads, config.num_layers
        room = -(-context // _SPAN) * _SPAN
        self.keys = torch.zeros(layers, slots, kv_heads, room // _LANES, width, _LANES)
        self.values = torch.zeros(layers, slots, kv_heads, room, width)
        self.embedding_VD = torch.empty(config.vocab_size, hidden)
        self._cosines, self._sines = (table.contiguous() for table in rotary(torch.arange(room), config))
        self._norm, self._head = torch.empty(hidden), _packed_room(config.vocab_size, hidden)
        self._layers = [
            (
                torch.empty(hidden), _packed_room((heads + 2 * kv_heads) * width, hidden), torch.empty(heads + kv_heads, width),
                _packed_room(hidden, heads * width), torch.empty(hidden), _packed_room(2 * inter, hidden), _packed_room(hidden, inter),
            )
            for _ in range(layers)
        ]  # fmt: skip
        each = [weight.data_ptr() for layer in self._layers for weight in layer]
        self._weights = (ctypes.c_void_p * len(each))(*each)
        widest = max((heads + 2 * kv_heads) * width, 2 * inter)
        self._scratch = [torch.empty(_BLOCK, size) for size in (hidden, hidden, widest, max(inter, heads * width))] + [torch.empty(room)]
        x, h, wide, act, scores = (scratch.data_ptr() for scratch in self._scratch)
        self._net = _Net(
            hidden=hidden, inter=inter, heads=heads, kv_heads=kv_heads, width=width, vocab=config.vocab_size, layers=layers, slots=slots,
            room=room, eps=config.rms_norm_eps, embedding=self.embedding_VD.data_ptr(), norm=self._norm.data_ptr(),
            head=self._head.data_ptr(), cosines=self._cosines.data_ptr(), sines=self._sines.data_ptr(),
            weights=ctypes.addressof(self._weights), keys=self.keys.data_ptr(), values=self.values.data_ptr(),
            x=x, h=h, wide=wide, act=act, scores=scores,
        )  # fmt: skip

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """As `CachedQwen3.load`."""
        check_weights(self.config, weights)
        embedding = weights["model.embed_tokens.weight"]
        self.embedding_VD.copy_(embedding)
        _pack(embedding if self.config.tie_embeddings else weights["lm_head.weight"], self._head)
        self._norm.copy_(weights["model.norm.weight"])
        for index, (input_norm, qkv, qk_norm, out, post_norm, gate_up, down) in enumerate(self._layers):

            def of(*names: str, index: int = index) -> Tensor:
                return torch.cat([weights[f"model.layers.{index}.{name}.weight"] for name in names])

            input_norm.copy_(of("input_layernorm"))
            _pack(of("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), qkv)
            qk_norm[: self.config.num_heads] = of("self_attn.q_norm") * self.config.head_dim**-0.5
            qk_norm[self.config.num_heads :] = of("self_attn.k_norm")
            _pack(of("self_attn.o_proj"), out)
            post_norm.copy_(of("post_attention_layernorm"))
            _pack(of("mlp.gate_proj", "mlp.up_proj"), gate_up)
            _pack(of("mlp.down_proj"), down)

    def extend(self, ids_N: Tensor, slots_R: Sequence[int], starts_R: Sequence[int], lengths_R: Sequence[int]) -> Tensor:
        """As `CachedQwen3.extend`; the order of the rows makes no difference."""
        lengths = np.asarray(lengths_R)
        ends = lengths.cumsum()
        slots_N = np.repeat(np.asarray(slots_R, dtype=np.int32), lengths)
        positions_N = np.arange(len(ids_N)) - np.repeat(ends - lengths - np.asarray(starts_R), lengths)
        wants_N = np.zeros(len(ids_N), dtype=np.uint8)
        wants_N[ends - 1] = 1
        return self._run(ids_N, slots_N, positions_N.astype(np.int32), wants_N, len(lengths))

    def decode(self, ids_R: Tensor, slots_R: Tensor, positions_R: Tensor, *, num_slots: int = 0, longest: int = 0) -> Tensor:
        """As `CachedQwen3.decode`; slots may be in any order."""
        slots, positions = (each_R.to(torch.int32).numpy() for each_R in (slots_R, positions_R))
        return self._run(ids_R, slots, positions, np.ones(len(slots), dtype=np.uint8), len(slots))

    def _run(
        self, ids_N: Tensor, slots_N: NDArray[np.int32], positions_N: NDArray[np.int32], wants_N: NDArray[np.uint8], num: int
    ) -> Tensor:
        assert ids_N.dtype == torch.long and ids_N.is_contiguous()
        logits_RV = torch.empty(num, -(-self.config.vocab_size // _LANES) * _LANES)
        places = (array.ctypes.data for array in (slots_N, positions_N, wants_N))
        _forward()(ctypes.byref(self._net), len(ids_N), ids_N.data_ptr(), *places, logits_RV.data_ptr())
        return logits_RV[:, : self.config.vocab_size]

    def move(self, sources: Sequence[int], targets: Sequence[int], *, longest: int) -> None:
        """As `CachedQwen3.move`."""
        blocks = -(-longest // _LANES)
        source, target = torch.tensor(sources), torch.tensor(targets)
        for keys, values in zip(self.keys, self.values, strict=True):
            for used in (keys[:, :, :blocks], values[:, :, :longest]):
                used.index_copy_(0, target, used.index_select(0, source))

    def read(self, slot: int, length: int) -> tuple[Tensor, Tensor]:
        """As `CachedQwen3.read`."""
        return self.keys[:, slot, :, : -(-length // _LANES)].clone(), self.values[:, slot, :, :length].clone()

    def write(self, slot: int, copy: tuple[Tensor, Tensor]) -> None:
        """As `CachedQwen3.write`."""
        keys, values = copy
        self.keys[:, slot, :, : keys.shape[2]] = keys
        self.values[:, slot, :, : values.shape[2]] = values


def _packed_room(columns: int, depth: int) -> Tensor:
    """Panels of `_LANES` columns; those that fill up the last one stay zero."""
    return torch.zeros(-(-columns // _LANES), depth, _LANES)


def _pack(weight_OD: Tensor, panels: Tensor) -> None:
    columns = weight_OD.shape[0]
    whole = columns // _LANES
    panels[:whole] = weight_OD[: whole * _LANES].unflatten(0, (whole, _LANES)).transpose(1, 2)
    if columns % _LANES:
        panels[whole, :, : columns % _LANES] = weight_OD[whole * _LANES :].T
