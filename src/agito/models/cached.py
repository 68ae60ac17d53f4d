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

import torch
from torch import Tensor
from torch.nn import functional as F

from agito.models.network import Qwen3Config, Ragged, rotary, rotate

BUCKET = 32
CHUNK = 256  # padded tokens attended at once on a CPU


@dataclass(frozen=True, slots=True)
class Block:
    """Slots [first, after) that are decoded together; no live one among them holds more than `longest` tokens."""

    first: int
    after: int
    longest: int


class CachedQwen3:
    """Weights and cache. `slots` rows of at most `context` tokens each."""

    def __init__(self, config: Qwen3Config, *, slots: int, context: int, device: torch.device, dtype: torch.dtype):
        if context > config.max_position:
            raise ValueError(f"context={context}: the network has positions up to {config.max_position}")
        self.config = config
        self.slots = slots
        self.context = context
        self.device = device
        self.block_size = 32 if device.type == "cpu" else slots  # on a GPU launches cost more than padding
        self.layers = [_LayerWeights.empty(config, device, dtype) for _ in range(config.num_layers)]
        self.embedding_VD = torch.empty(config.vocab_size, config.hidden_size, device=device, dtype=dtype)
        self.head_VD = self.embedding_VD if config.tie_embeddings else torch.empty_like(self.embedding_VD)
        self.norm_D = torch.empty(config.hidden_size, device=device, dtype=dtype)
        num_places = slots * config.num_kv_heads * context
        self.keys = torch.zeros(config.num_layers, num_places, config.head_dim, device=device, dtype=dtype)
        self.values = torch.zeros_like(self.keys)
        self.offsets_K = torch.arange(config.num_kv_heads, device=device) * context
        self.counter_C = torch.arange(context, device=device)
        self.cos_CE, self.sin_CE = (table.to(dtype) for table in rotary(self.counter_C, config))

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copies a `Qwen3` state dict into place. Raises `ValueError` for a missing or misshapen tensor; nothing is then changed."""
        wanted = _wanted_shapes(self.config)
        for name, shape in wanted.items():
            if name not in weights:
                raise ValueError(f"weights lack {name}: they are of another network")
            if tuple(weights[name].shape) != shape:
                raise ValueError(f"{name} has shape {tuple(weights[name].shape)}: the engine was built for {shape}")
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
        writes_M = self._places(torch.cat([chunk.slots_N for chunk in chunks]), positions_N)
        num_tokens = [chunk.ragged.num_tokens for chunk in chunks]
        x_ND = self.embedding_VD[ids_N]
        cos_NE, sin_NE = self._rotation(positions_N)
        for index, layer in enumerate(self.layers):
            q_NHE = self._project(index, layer, x_ND, cos_NE, sin_NE, writes_M)
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
        length = self.bucketed(max(starts_R[row] + lengths_R[row] for row in rows))
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
        keys_RKLE, values_RKLE = (self._slotwise(cache[index])[:, :, :length][chunk.slots_R] for cache in (self.keys, self.values))
        mixed_RKUE = F.scaled_dot_product_attention(q_RKUE, keys_RKLE, values_RKLE, attn_mask=chunk.bias_R1UL, scale=1.0)
        return chunk.ragged.unpad(mixed_RKUE.unflatten(2, (-1, self._groups)).transpose(1, 2).flatten(2))

    def decode(self, ids_R: Tensor, slots_R: Tensor, positions_R: Tensor, blocks: Sequence[Block]) -> Tensor:
        """Appends one token to each slot at `positions_R`; returns `logits_RV`.

        `slots_R` ascends and lies within `blocks`, which ascend too. Attention runs over whole blocks, so the rows that live should be
        kept together at the front of the cache, those of like length side by side.
        """
        num_slots, num_kv_heads = blocks[-1].after, self.config.num_kv_heads
        is_dense = ids_R.shape[0] == num_slots
        reach_S = positions_R if is_dense else positions_R.new_zeros(num_slots).index_copy_(0, slots_R, positions_R)
        parts = [self._part(block, reach_S) for block in blocks]
        x_RD = self.embedding_VD[ids_R]
        cos_RE, sin_RE = self._rotation(positions_R)
        writes_M = self._places(slots_R, positions_R)
        mixed_MGE = x_RD.new_empty(num_slots * num_kv_heads, self._groups, self.config.head_dim)
        for index, layer in enumerate(self.layers):
            q_RHE = self._project(index, layer, x_RD, cos_RE, sin_RE, writes_M)
            q_SHE = q_RHE if is_dense else q_RHE.new_zeros(num_slots, *q_RHE.shape[1:]).index_copy_(0, slots_R, q_RHE)
            q_MGE = q_SHE.reshape(mixed_MGE.shape)
            for rows, heads, bias_S11L in parts:
                keys_MLE, values_MLE = (
                    self._slotwise(cache[index])[rows, :, : bias_S11L.shape[-1]].flatten(0, 1) for cache in (self.keys, self.values)
                )
                scores_MGL = torch.bmm(q_MGE[heads], keys_MLE.transpose(1, 2))
                scores_MGL.unflatten(0, (-1, num_kv_heads)).add_(bias_S11L)
                torch.bmm(scores_MGL.softmax(-1), values_MLE, out=mixed_MGE[heads])
            mixed_SW = mixed_MGE.view(num_slots, -1)
            x_RD = self._finish(layer, x_RD, mixed_SW if is_dense else mixed_SW[slots_R])
        return self._logits(x_RD)

    def move(self, sources: Sequence[int], targets: Sequence[int], *, longest: int) -> None:
        """Copies the first `longest` positions of each source slot to its target, as if at once: a swap is two moves."""
        length = self.bucketed(longest)
        source, target = torch.tensor(sources, device=self.device), torch.tensor(targets, device=self.device)
        for cache in (self.keys, self.values):
            for slotwise in self._slotwise(cache):
                slotwise[target, :, :length] = slotwise[source, :, :length]

    def read(self, slot: int, length: int) -> Tensor:
        """A copy of one slot, for `write` to put back, perhaps elsewhere."""
        return torch.stack([self._slotwise(cache)[:, slot, :, :length] for cache in (self.keys, self.values)])

    def write(self, slot: int, copy: Tensor) -> None:
        for cache, saved in zip((self.keys, self.values), copy, strict=True):
            self._slotwise(cache)[:, slot, :, : saved.shape[2]] = saved

    def bucketed(self, length: int) -> int:
        """How many positions attention reads for a row of this length."""
        return min(-(-length // BUCKET) * BUCKET, self.context)

    @property
    def _groups(self) -> int:
        return self.config.num_heads // self.config.num_kv_heads

    def _slotwise(self, cache: Tensor) -> Tensor:
        """`[..., S, K, C, E]`, a view."""
        return cache.unflatten(-2, (self.slots, self.config.num_kv_heads, self.context))

    def _part(self, block: Block, reach_S: Tensor) -> tuple[slice, slice, Tensor]:
        """A block's slots, their key-value heads, and what to add to the scores so that each row sees only up to itself."""
        is_beyond_SL = self.counter_C[: self.bucketed(block.longest)] > reach_S[block.first : block.after, None]
        bias_SL = self.keys.new_zeros(is_beyond_SL.shape).masked_fill_(is_beyond_SL, float("-inf"))
        num_kv_heads = self.config.num_kv_heads
        return slice(block.first, block.after), slice(block.first * num_kv_heads, block.after * num_kv_heads), bias_SL[:, None, None]

    def _places(self, slots_N: Tensor, positions_N: Tensor) -> Tensor:
        """Where the keys of these tokens live in one layer's cache, `N*K` of them."""
        return ((slots_N * (self.config.num_kv_heads * self.context) + positions_N)[:, None] + self.offsets_K).flatten()

    def _rotation(self, positions_N: Tensor) -> tuple[Tensor, Tensor]:
        return self.cos_CE[positions_N], self.sin_CE[positions_N]

    def _project(self, index: int, layer: _LayerWeights, x_ND: Tensor, cos_NE: Tensor, sin_NE: Tensor, writes_M: Tensor) -> Tensor:
        """Writes this layer's keys and values; returns the queries, already scaled."""
        config = self.config
        heads_NHE = F.linear(_normed(x_ND, layer.input_norm_D, config.rms_norm_eps), layer.qkv_WD).unflatten(1, (-1, config.head_dim))
        num_rotated = config.num_heads + config.num_kv_heads
        qk_NHE = _normed(heads_NHE[:, :num_rotated], layer.qk_norm_HE, config.rms_norm_eps)
        qk_NHE = rotate(qk_NHE, cos_NE, sin_NE)
        self.keys[index].index_copy_(0, writes_M, qk_NHE[:, config.num_heads :].reshape(-1, config.head_dim))
        self.values[index].index_copy_(0, writes_M, heads_NHE[:, num_rotated:].reshape(-1, config.head_dim))
        return qk_NHE[:, : config.num_heads]

    def _finish(self, layer: _LayerWeights, x_ND: Tensor, mixed_NW: Tensor) -> Tensor:
        x_ND = x_ND + F.linear(mixed_NW, layer.out_DW)
        gate_NF, up_NF = F.linear(_normed(x_ND, layer.post_norm_D, self.config.rms_norm_eps), layer.gate_up_FD).chunk(2, dim=-1)
        return x_ND + F.linear(F.silu(gate_NF) * up_NF, layer.down_DF)

    def _logits(self, x_ND: Tensor) -> Tensor:
        return F.linear(_normed(x_ND, self.norm_D, self.config.rms_norm_eps), self.head_VD).float()


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


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


def _wanted_shapes(config: Qwen3Config) -> dict[str, tuple[int, ...]]:
    from agito.models.network import Qwen3

    return {name: tuple(tensor.shape) for name, tensor in Qwen3(config, seed=None, device="meta").state_dict().items()}
