"""The same network over a static key-value cache: prompts and observations in ragged batches, then one token a row at a time.

Axes as in `network.py`, and: S slots of the cache, C positions in a slot, R rows being extended, L attended positions (a
multiple of `BUCKET`), G query heads per key-value head. Inference only. Weights are copied in with the query, key and value
matrices fused, and the gate and up matrices too.

A slot holds whatever was written to it last; the caller says which positions are valid. Nothing here allocates with the
length of an episode: the cache is made once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from agito.models.network import Qwen3Config, Ragged, rotary, rotate

BUCKET = 32
CHUNK = 256  # padded tokens attended at once on a CPU


class CachedQwen3:
    """Weights and cache. `slots` rows of at most `context` tokens each."""

    packs_rows = True  # live rows belong at the front of the cache

    def __init__(self, config: Qwen3Config, *, slots: int, context: int, device: torch.device, dtype: torch.dtype):
        if context > config.max_position:
            raise ValueError(f"context={context}: the network has positions up to {config.max_position}")
        self.config = config
        self.context = context
        self.device = device
        self.layers = [_LayerWeights.empty(config, device, dtype) for _ in range(config.num_layers)]
        self.embedding_VD = torch.empty(config.vocab_size, config.hidden_size, device=device, dtype=dtype)
        self.head_VD = self.embedding_VD if config.tie_embeddings else torch.empty_like(self.embedding_VD)
        self.norm_D = torch.empty(config.hidden_size, device=device, dtype=dtype)
        self.keys = torch.zeros(config.num_layers, slots, config.num_kv_heads, context, config.head_dim, device=device, dtype=dtype)
        self.values = torch.zeros_like(self.keys)
        self.counter_C = torch.arange(context, device=device)
        self.cos_CE, self.sin_CE = (table.to(dtype) for table in rotary(self.counter_C, config))

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copies a `Qwen3` state dict into place. Raises `ValueError` for a missing or misshapen tensor; nothing is then changed."""
        check_weights(self.config, weights)
        self.embedding_VD.copy_(weights["model.embed_tokens.weight"])
        if not self.config.tie_embeddings:
            self.head_VD.copy_(weights["lm_head.weight"])
        self.norm_D.copy_(weights["model.norm.weight"])
        for index, layer in enumerate(self.layers):
            layer.load(weights, f"model.layers.{index}.")

    def extend(self, ids_N: Tensor, slots_R: Sequence[int], starts_R: Sequence[int], lengths_R: Sequence[int]) -> Tensor:
        """Appends `lengths_R` tokens to each slot from position `starts_R`; returns `logits_RV` after the last token of each.

        Fastest when neighbours are of similar length, as attention is padded among neighbours.
        """
        chunks = [self._chunk(rows, slots_R, starts_R, lengths_R) for rows in self._neighbours(lengths_R)]
        positions_N = torch.cat([chunk.positions_N for chunk in chunks])
        slots_N = torch.cat([chunk.slots_N for chunk in chunks])
        num_tokens = [chunk.ragged.num_tokens for chunk in chunks]
        x_ND = self.embedding_VD[ids_N]
        cos_NE, sin_NE = self._rotation(positions_N)
        for index, layer in enumerate(self.layers):
            q_NHE = self._project(index, layer, x_ND, cos_NE, sin_NE, slots_N, positions_N)
            pieces = zip(chunks, q_NHE.split(num_tokens), strict=True)
            x_ND = self._finish(layer, x_ND, torch.cat([self._attend(index, chunk, q_PHE) for chunk, q_PHE in pieces]))
        last_R = torch.tensor(lengths_R, device=self.device).cumsum(0) - 1
        return self._logits(x_ND[last_R])

    def _neighbours(self, lengths_R: Sequence[int]) -> Iterator[range]:
        """Runs of rows whose padded batch stays small; on a GPU, where launches cost more than padding, all of them."""
        first = longest = 0
        for row, length in enumerate(lengths_R):
            longest = max(longest, length)
            if self.device.type == "cpu" and row > first and longest * (row + 1 - first) > CHUNK:
                yield range(first, row)
                first, longest = row, length
        yield range(first, len(lengths_R))

    def _chunk(self, rows: range, slots_R: Sequence[int], starts_R: Sequence[int], lengths_R: Sequence[int]) -> _Chunk:
        ragged = Ragged([lengths_R[row] for row in rows], self.device)
        places_2R = torch.tensor([[slots_R[row] for row in rows], [starts_R[row] for row in rows]], device=self.device)
        slots_N, starts_N = places_2R[:, ragged.rows_N]
        length = self._bucketed(max(starts_R[row] + lengths_R[row] for row in rows))
        reach_RT = places_2R[1][:, None] + self.counter_C[: ragged.longest]
        is_beyond_RTL = self.counter_C[:length] > reach_RT[:, :, None]
        bias_RTL = self.keys.new_zeros(is_beyond_RTL.shape).masked_fill_(is_beyond_RTL, float("-inf"))
        return _Chunk(
            ragged=ragged,
            slots_R=places_2R[0],
            slots_N=slots_N,
            positions_N=ragged.positions_N + starts_N,
            bias_R1UL=bias_RTL.repeat_interleave(self._groups, dim=1)[:, None],
        )

    def _attend(self, index: int, chunk: _Chunk, q_PHE: Tensor) -> Tensor:
        """Queries of a chunk over everything in their slots up to themselves; the heads of a group are treated as further queries."""
        q_RTKGE = chunk.ragged.pad(q_PHE.flatten(1)).unflatten(2, (self.config.num_kv_heads, self._groups, -1))
        q_RKUE = q_RTKGE.transpose(1, 2).flatten(2, 3)
        length = chunk.bias_R1UL.shape[-1]
        keys_RKLE, values_RKLE = (each[index][chunk.slots_R, :, :length] for each in (self.keys, self.values))
        mixed_RKUE = F.scaled_dot_product_attention(q_RKUE, keys_RKLE, values_RKLE, attn_mask=chunk.bias_R1UL, scale=1.0)
        return chunk.ragged.unpad(mixed_RKUE.unflatten(2, (-1, self._groups)).transpose(1, 2).flatten(2))

    def decode(self, ids_R: Tensor, slots_R: Tensor, positions_R: Tensor, *, num_slots: int, longest: int) -> Tensor:
        """Appends one token to each slot at `positions_R`; returns `logits_RV`.

        `slots_R` ascends. Every slot in it is below `num_slots`, and attention runs over that corner of the cache and the positions below
        `longest`, so live rows should be kept together at its front. A position beyond is written and not attended to: of such a row
        nothing is promised but that it disturbs no other.
        """
        length, num_kv_heads = self._bucketed(longest), self.config.num_kv_heads
        is_dense = ids_R.shape[0] == num_slots
        reach_S = positions_R if is_dense else positions_R.new_zeros(num_slots).index_copy_(0, slots_R, positions_R)
        bias_SL = self.keys.new_zeros(num_slots, length).masked_fill_(self.counter_C[:length] > reach_S[:, None], float("-inf"))
        x_RD = self.embedding_VD[ids_R]
        cos_RE, sin_RE = self._rotation(positions_R)
        for index, layer in enumerate(self.layers):
            q_RHE = self._project(index, layer, x_RD, cos_RE, sin_RE, slots_R, positions_R)
            q_SHE = q_RHE if is_dense else q_RHE.new_zeros(num_slots, *q_RHE.shape[1:]).index_copy_(0, slots_R, q_RHE)
            keys_SKLE, values_SKLE = (each[index, :num_slots, :, :length] for each in (self.keys, self.values))
            q_SKGE = q_SHE.unflatten(1, (num_kv_heads, -1))
            mixed_SKGE = F.scaled_dot_product_attention(q_SKGE, keys_SKLE, values_SKLE, attn_mask=bias_SL[:, None, None], scale=1.0)
            mixed_SW = mixed_SKGE.flatten(1)
            x_RD = self._finish(layer, x_RD, mixed_SW if is_dense else mixed_SW[slots_R])
        return self._logits(x_RD)

    def move(self, sources: Sequence[int], targets: Sequence[int], *, longest: int) -> None:
        """Copies the first `longest` positions of each source slot to its target, as if at once: a swap is two moves."""
        length = self._bucketed(longest)
        source, target = torch.tensor(sources, device=self.device), torch.tensor(targets, device=self.device)
        for cache_SKCE in (*self.keys, *self.values):
            used = cache_SKCE[:, :, :length]
            used.index_copy_(0, target, used.index_select(0, source))

    def read(self, slot: int, length: int) -> tuple[Tensor, Tensor]:
        """A copy of one slot, for `write` to put back, perhaps elsewhere."""
        return self.keys[:, slot, :, :length].clone(), self.values[:, slot, :, :length].clone()

    def write(self, slot: int, copy: tuple[Tensor, Tensor]) -> None:
        keys, values = copy
        self.keys[:, slot, :, : keys.shape[2]] = keys
        self.values[:, slot, :, : keys.shape[2]] = values

    def _bucketed(self, length: int) -> int:
        """How many positions attention reads for a row of this length."""
        return min(-(-length // BUCKET) * BUCKET, self.context)

    @property
    def _groups(self) -> int:
        return self.config.num_heads // self.config.num_kv_heads

    def _rotation(self, positions_N: Tensor) -> tuple[Tensor, Tensor]:
        return self.cos_CE[positions_N], self.sin_CE[positions_N]

    def _project(
        self, index: int, layer: _LayerWeights, x_ND: Tensor, cos_NE: Tensor, sin_NE: Tensor, slots_N: Tensor, positions_N: Tensor
    ) -> Tensor:
        """Writes this layer's keys and values; returns the queries, already scaled."""
        config = self.config
        heads_NHE = F.linear(self._normed(x_ND, layer.input_norm_D), layer.qkv_WD).unflatten(1, (-1, config.head_dim))
        num_rotated = config.num_heads + config.num_kv_heads
        qk_NHE = rotate(self._normed(heads_NHE[:, :num_rotated], layer.qk_norm_HE), cos_NE, sin_NE)
        self.keys[index].transpose(1, 2).index_put_((slots_N, positions_N), qk_NHE[:, config.num_heads :])
        self.values[index].transpose(1, 2).index_put_((slots_N, positions_N), heads_NHE[:, num_rotated:])
        return qk_NHE[:, : config.num_heads]

    def _finish(self, layer: _LayerWeights, x_ND: Tensor, mixed_NW: Tensor) -> Tensor:
        x_ND = x_ND + F.linear(mixed_NW, layer.out_DW)
        gate_NF, up_NF = F.linear(self._normed(x_ND, layer.post_norm_D), layer.gate_up_FD).chunk(2, dim=-1)
        return x_ND + F.linear(F.silu(gate_NF) * up_NF, layer.down_DF)

    def _logits(self, x_ND: Tensor) -> Tensor:
        return F.linear(self._normed(x_ND, self.norm_D), self.head_VD).float()

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        """Rounded before it is scaled, as in the training path."""
        return F.rms_norm(x, x.shape[-1:], eps=self.config.rms_norm_eps) * weight


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Rows that are extended side by side. U: positions and heads of a group together."""

    ragged: Ragged
    slots_R: Tensor
    slots_N: Tensor
    positions_N: Tensor
    bias_R1UL: Tensor


@dataclass(slots=True)
class _LayerWeights:
    qkv_WD: Tensor
    qk_norm_HE: Tensor  # the queries' rows carry the attention scale
    out_DW: Tensor
    gate_up_FD: Tensor
    down_DF: Tensor
    input_norm_D: Tensor
    post_norm_D: Tensor
    num_heads: int

    @classmethod
    def empty(cls, config: Qwen3Config, device: torch.device, dtype: torch.dtype) -> _LayerWeights:
        def new(*shape: int) -> Tensor:
            return torch.empty(*shape, device=device, dtype=dtype)

        width, d = config.head_dim, config.hidden_size
        return cls(
            qkv_WD=new((config.num_heads + 2 * config.num_kv_heads) * width, d),
            qk_norm_HE=new(config.num_heads + config.num_kv_heads, width),
            out_DW=new(d, config.num_heads * width),
            gate_up_FD=new(2 * config.intermediate_size, d),
            down_DF=new(d, config.intermediate_size),
            input_norm_D=new(d),
            post_norm_D=new(d),
            num_heads=config.num_heads,
        )

    def load(self, weights: Mapping[str, Tensor], prefix: str) -> None:
        def of(*names: str) -> Tensor:
            return torch.cat([weights[f"{prefix}{name}.weight"] for name in names])

        self.qkv_WD.copy_(of("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"))
        self.qk_norm_HE[: self.num_heads] = of("self_attn.q_norm") * self.qk_norm_HE.shape[1] ** -0.5
        self.qk_norm_HE[self.num_heads :] = of("self_attn.k_norm")
        self.out_DW.copy_(of("self_attn.o_proj"))
        self.gate_up_FD.copy_(of("mlp.gate_proj", "mlp.up_proj"))
        self.down_DF.copy_(of("mlp.down_proj"))
        self.input_norm_D.copy_(of("input_layernorm"))
        self.post_norm_D.copy_(of("post_attention_layernorm"))


def check_weights(config: Qwen3Config, weights: Mapping[str, Tensor]) -> None:
    """Raises `ValueError` for a missing or misshapen tensor."""
    for name, shape in _wanted_shapes(config).items():
        if name not in weights:
            raise ValueError(f"weights lack {name}: they are of another network")
        if tuple(weights[name].shape) != shape:
            raise ValueError(f"{name} has shape {tuple(weights[name].shape)}: the engine was built for {shape}")


@cache
def _wanted_shapes(config: Qwen3Config) -> dict[str, tuple[int, ...]]:
    from agito.models.network import Qwen3

    return {name: tuple(tensor.shape) for name, tensor in Qwen3(config, seed=None, device="meta").state_dict().items()}
