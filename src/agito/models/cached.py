"""The network over a static key-value cache: prefill in ragged batches, then decoding one token per row at a
time. Inference only.

Axes as in `network.py`, and: S slots of the cache, C positions in a slot, R rows being extended, L attended
positions (a multiple of `BUCKET`), G query heads per key-value head. Weights are copied in with query, key
and value matrices fused, and gate and up matrices too.

A slot keeps what was last written to it; the caller tracks which positions are valid. The cache is allocated
once, whatever the length of an episode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from agito.models.config import DecoderConfig
from agito.models.network import Decoder, Ragged, gate, scaled
from agito.models.rope import rotary, rotate

BUCKET = 32
CHUNK = 256  # padded tokens attended at once on a CPU


class CachedDecoder:
    """Weights and cache: `slots` rows of at most `context` tokens each."""

    packs_rows = True  # live rows belong at the front of the cache

    def __init__(
        self, config: DecoderConfig, *, slots: int, context: int, device: torch.device, dtype: torch.dtype
    ):
        if context > config.max_position:
            raise ValueError(f"context={context}: the network has positions up to {config.max_position}")
        self.config = config
        self.context = context
        self.device = device
        self.layers = [_LayerWeights.empty(config, device, dtype) for _ in range(config.num_layers)]
        self.embedding_VD = torch.empty(config.vocab_size, config.hidden_size, device=device, dtype=dtype)
        self.head_VD = self.embedding_VD if config.tie_embeddings else torch.empty_like(self.embedding_VD)
        self.norm_D = torch.empty(config.hidden_size, device=device, dtype=norm_dtype(config, dtype))
        self.keys = torch.zeros(
            config.num_layers,
            slots,
            config.num_kv_heads,
            context,
            config.head_dim,
            device=device,
            dtype=dtype,
        )
        self.values = torch.zeros_like(self.keys)
        self.counter_C = torch.arange(context, device=device)
        kinds = sorted({index in config.sliding_layers for index in range(config.num_layers)})
        tables = [torch.stack(rotary(self.counter_C, config, local=is_sliding)) for is_sliding in kinds]
        self.rotations = {
            is_sliding: table_2CE.to(dtype) for is_sliding, table_2CE in zip(kinds, tables, strict=True)
        }

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copies a `Decoder`'s state dict into place. Raises `ValueError`, with nothing changed, for a
        missing or misshapen tensor."""
        check_weights(self.config, weights)
        self.embedding_VD.copy_(weights["model.embed_tokens.weight"])
        if not self.config.tie_embeddings:
            self.head_VD.copy_(weights["lm_head.weight"])
        copy_norm(self.config, self.norm_D, weights["model.norm.weight"])
        for index, layer in enumerate(self.layers):
            layer.load(
                self.config,
                {name: weights[f"model.layers.{index}.{name}"] for name in layer_names(self.config)},
            )

    def extend(
        self, ids_N: Tensor, slots_R: Sequence[int], starts_R: Sequence[int], lengths_R: Sequence[int]
    ) -> Tensor:
        """Appends `lengths_R` tokens to each slot from position `starts_R`; returns `logits_RV` after the
        last token of each.

        Fastest when neighbouring rows have similar lengths, since attention pads among neighbours.
        """
        chunks = [self._chunk(rows, slots_R, starts_R, lengths_R) for rows in self._neighbours(lengths_R)]
        positions_N = torch.cat([chunk.positions_N for chunk in chunks])
        slots_N = torch.cat([chunk.slots_N for chunk in chunks])
        num_tokens = [chunk.ragged.num_tokens for chunk in chunks]
        x_ND = scaled(self.embedding_VD[ids_N], self.config)
        for index, layer in enumerate(self.layers):
            q_NHE = self._project(index, layer, x_ND, slots_N, positions_N)
            pieces = zip(chunks, q_NHE.split(num_tokens), strict=True)
            x_ND = self._after_attention(
                layer, x_ND, torch.cat([self._attend(index, chunk, q_PHE) for chunk, q_PHE in pieces])
            )
        last_R = torch.tensor(lengths_R, device=self.device).cumsum(0) - 1
        return self._logits(x_ND[last_R])

    def _neighbours(self, lengths_R: Sequence[int]) -> Iterator[range]:
        """Runs of rows whose padded batch stays small. On a GPU, where kernel launches cost more than
        padding, all rows."""
        first = longest = 0
        for row, length in enumerate(lengths_R):
            longest = max(longest, length)
            if self.device.type == "cpu" and row > first and longest * (row + 1 - first) > CHUNK:
                yield range(first, row)
                first, longest = row, length
        yield range(first, len(lengths_R))

    def _chunk(
        self, rows: range, slots_R: Sequence[int], starts_R: Sequence[int], lengths_R: Sequence[int]
    ) -> _Chunk:
        ragged = Ragged([lengths_R[row] for row in rows], self.device)
        places_2R = torch.tensor(
            [[slots_R[row] for row in rows], [starts_R[row] for row in rows]], device=self.device
        )
        slots_N, starts_N = places_2R[:, ragged.rows_N]
        length = self._bucketed(max(starts_R[row] + lengths_R[row] for row in rows))
        reach_RT = places_2R[1][:, None] + self.counter_C[: ragged.longest]

        def bias(window: int | None) -> Tensor:
            bias_RTL = self._bias(reach_RT[:, :, None], length, window)
            return bias_RTL.repeat_interleave(self._groups, dim=1)[:, None]

        return _Chunk(
            ragged=ragged,
            slots_R=places_2R[0],
            slots_N=slots_N,
            positions_N=ragged.positions_N + starts_N,
            biases_R1UL={window: bias(window) for window in self._windows},
        )

    def _attend(self, index: int, chunk: _Chunk, q_PHE: Tensor) -> Tensor:
        """A chunk's queries over their slots up to their own positions; the heads of a group become further
        queries."""
        q_RTKGE = chunk.ragged.pad(q_PHE.flatten(1)).unflatten(
            2, (self.config.num_kv_heads, self._groups, -1)
        )
        q_RKUE = q_RTKGE.transpose(1, 2).flatten(2, 3)
        bias_R1UL = chunk.biases_R1UL[self.config.window(index)]
        length = bias_R1UL.shape[-1]
        keys_RKLE, values_RKLE = (each[index][chunk.slots_R, :, :length] for each in (self.keys, self.values))
        mixed_RKUE = F.scaled_dot_product_attention(
            q_RKUE, keys_RKLE, values_RKLE, attn_mask=bias_R1UL, scale=1.0
        )
        return chunk.ragged.unpad(mixed_RKUE.unflatten(2, (-1, self._groups)).transpose(1, 2).flatten(2))

    def decode(
        self, ids_R: Tensor, slots_R: Tensor, positions_R: Tensor, *, num_slots: int, longest: int
    ) -> Tensor:
        """Appends one token to each slot at `positions_R`; returns `logits_RV`.

        `slots_R` ascends. All slots in it are below `num_slots`, and attention covers only these slots and
        the positions below `longest`, so keep live rows together at the front. A position beyond `longest` is
        written but not attended to: such a row's logits are undefined, but it disturbs no other row.
        """
        length, num_kv_heads = self._bucketed(longest), self.config.num_kv_heads
        is_dense = ids_R.shape[0] == num_slots
        reach_S = (
            positions_R if is_dense else positions_R.new_zeros(num_slots).index_copy_(0, slots_R, positions_R)
        )
        biases_SL = {window: self._bias(reach_S[:, None], length, window) for window in self._windows}
        x_RD = scaled(self.embedding_VD[ids_R], self.config)
        for index, layer in enumerate(self.layers):
            bias_SL = biases_SL[self.config.window(index)]
            q_RHE = self._project(index, layer, x_RD, slots_R, positions_R)
            q_SHE = (
                q_RHE
                if is_dense
                else q_RHE.new_zeros(num_slots, *q_RHE.shape[1:]).index_copy_(0, slots_R, q_RHE)
            )
            keys_SKLE, values_SKLE = (
                each[index, :num_slots, :, :length] for each in (self.keys, self.values)
            )
            q_SKGE = q_SHE.unflatten(1, (num_kv_heads, -1))
            mixed_SKGE = F.scaled_dot_product_attention(
                q_SKGE, keys_SKLE, values_SKLE, attn_mask=bias_SL[:, None, None], scale=1.0
            )
            mixed_SW = mixed_SKGE.flatten(1)
            x_RD = self._after_attention(layer, x_RD, mixed_SW if is_dense else mixed_SW[slots_R])
        return self._logits(x_RD)

    def move(self, sources: Sequence[int], targets: Sequence[int], lengths: Sequence[int]) -> None:
        """Copies the first positions of each source slot to its target, as if simultaneously: a swap is two
        moves."""
        length = self._bucketed(max(lengths))
        source, target = torch.tensor(sources, device=self.device), torch.tensor(targets, device=self.device)
        for cache_SKCE in (*self.keys, *self.values):
            used = cache_SKCE[:, :, :length]
            used.index_copy_(0, target, used.index_select(0, source))

    def read(self, slot: int, length: int) -> tuple[Tensor, Tensor]:
        """A copy of one slot; `write` restores it into any slot."""
        return self.keys[:, slot, :, :length].clone(), self.values[:, slot, :, :length].clone()

    def release(self, slot: int) -> None:
        """Marks the slot's content as no longer needed."""

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

    @property
    def _windows(self) -> set[int | None]:
        return {self.config.window(index) for index in range(self.config.num_layers)}

    def _bias(self, reach: Tensor, length: int, window: int | None) -> Tensor:
        """The mask added to the scores of the first `length` positions, for queries at `reach`, whose last
        axis is 1."""
        is_hidden = self.counter_C[:length] > reach
        if window is not None:
            is_hidden |= self.counter_C[:length] <= reach - window
        return self.keys.new_zeros(is_hidden.shape).masked_fill_(is_hidden, float("-inf"))

    def _project(
        self, index: int, layer: _LayerWeights, x_ND: Tensor, slots_N: Tensor, positions_N: Tensor
    ) -> Tensor:
        """Writes this layer's keys and values; returns the queries, already scaled."""
        config = self.config
        cos_CE, sin_CE = self.rotations[index in config.sliding_layers]
        heads_NHE = F.linear(self._normed(x_ND, layer.input_norm_D), layer.qkv_WD, layer.qkv_W).unflatten(
            1, (-1, config.head_dim)
        )
        num_rotated = config.num_heads + config.num_kv_heads
        qk_NHE = heads_NHE[:, :num_rotated]
        if layer.qk_norm_HE is not None:
            qk_NHE = self._normed(qk_NHE, layer.qk_norm_HE)
        qk_NHE = rotate(qk_NHE, cos_CE[positions_N], sin_CE[positions_N])
        self.keys[index].transpose(1, 2).index_put_((slots_N, positions_N), qk_NHE[:, config.num_heads :])
        self.values[index].transpose(1, 2).index_put_((slots_N, positions_N), heads_NHE[:, num_rotated:])
        return qk_NHE[:, : config.num_heads]

    def _after_attention(self, layer: _LayerWeights, x_ND: Tensor, mixed_NW: Tensor) -> Tensor:
        x_ND = x_ND + self._post_norm(F.linear(mixed_NW, layer.out_DW, layer.out_D), layer.mixed_norm_D)
        gate_NF, up_NF = F.linear(
            self._normed(x_ND, layer.mlp_norm_D), layer.gate_up_FD, layer.gate_up_F
        ).chunk(2, dim=-1)
        return x_ND + self._post_norm(
            F.linear(gate(gate_NF, self.config) * up_NF, layer.down_DF, layer.down_D), layer.mlp_out_norm_D
        )

    def _post_norm(self, x_ND: Tensor, norm_D: Tensor | None) -> Tensor:
        return x_ND if norm_D is None else self._normed(x_ND, norm_D)

    def _logits(self, x_ND: Tensor) -> Tensor:
        return F.linear(self._normed(x_ND, self.norm_D), self.head_VD).float()

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        """Rounds before scaling, or, with a norm offset, after, as the training path does."""
        if self.config.norm_offset:
            return (F.rms_norm(x.to(weight.dtype), x.shape[-1:], eps=self.config.rms_norm_eps) * weight).to(
                x.dtype
            )
        return F.rms_norm(x, x.shape[-1:], eps=self.config.rms_norm_eps) * weight


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Rows extended together. U: positions and heads of a group, flattened."""

    ragged: Ragged
    slots_R: Tensor
    slots_N: Tensor
    positions_N: Tensor
    biases_R1UL: dict[int | None, Tensor]  # by window


@dataclass(slots=True)
class _LayerWeights:
    """Biases and norms are None where the network has none. The query scale is folded into the query norm, or
    into the projection."""

    qkv_WD: Tensor
    qkv_W: Tensor | None
    qk_norm_HE: Tensor | None
    out_DW: Tensor
    out_D: Tensor | None
    gate_up_FD: Tensor
    gate_up_F: Tensor | None
    down_DF: Tensor
    down_D: Tensor | None
    input_norm_D: Tensor
    mixed_norm_D: Tensor | None
    mlp_norm_D: Tensor
    mlp_out_norm_D: Tensor | None

    @classmethod
    def empty(cls, config: DecoderConfig, device: torch.device, dtype: torch.dtype) -> _LayerWeights:
        def new(*shape: int, is_there: bool = True) -> Tensor | None:
            return torch.empty(*shape, device=device, dtype=dtype) if is_there else None

        def norm(*shape: int, is_there: bool = True) -> Tensor | None:
            return torch.empty(*shape, device=device, dtype=norm_dtype(config, dtype)) if is_there else None

        width, d, f = config.head_dim, config.hidden_size, config.intermediate_size
        num_rotated, sandwiched = config.num_heads + config.num_kv_heads, config.sandwich_norms
        made = {
            "qkv_WD": new((num_rotated + config.num_kv_heads) * width, d),
            "qkv_W": new((num_rotated + config.num_kv_heads) * width, is_there=config.qkv_bias),
            "qk_norm_HE": norm(num_rotated, width, is_there=config.qk_norm),
            "out_DW": new(d, config.num_heads * width),
            "out_D": new(d, is_there=config.out_bias),
            "gate_up_FD": new(2 * f, d),
            "gate_up_F": new(2 * f, is_there=config.mlp_bias),
            "down_DF": new(d, f),
            "down_D": new(d, is_there=config.mlp_bias),
            "input_norm_D": norm(d),
            "mixed_norm_D": norm(d, is_there=sandwiched),
            "mlp_norm_D": norm(d),
            "mlp_out_norm_D": norm(d, is_there=sandwiched),
        }
        return cls(**made)  # pyright: ignore[reportArgumentType]

    def load(self, config: DecoderConfig, weights: Mapping[str, Tensor]) -> None:
        """The tensors of one layer, by their names within it."""
        scale = config.query_scale or config.head_dim**-0.5
        projections, num_queries = (
            ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            config.num_heads * config.head_dim,
        )
        joined = (
            (projections, self.qkv_WD, self.qkv_W),
            (("self_attn.o_proj",), self.out_DW, self.out_D),
            (("mlp.gate_proj", "mlp.up_proj"), self.gate_up_FD, self.gate_up_F),
            (("mlp.down_proj",), self.down_DF, self.down_D),
        )
        for names, matrix, bias in joined:
            for target, kind in ((matrix, "weight"), (bias, "bias")):
                if target is not None:
                    target.copy_(torch.cat([weights[f"{name}.{kind}"] for name in names]))
        if self.qk_norm_HE is not None:
            copy_norm(config, self.qk_norm_HE[: config.num_heads], weights["self_attn.q_norm.weight"], scale)
            copy_norm(config, self.qk_norm_HE[config.num_heads :], weights["self_attn.k_norm.weight"])
        else:
            for target in (self.qkv_WD, self.qkv_W):
                if target is not None:
                    target[:num_queries] *= scale
        copy_norm(config, self.input_norm_D, weights["input_layernorm.weight"])
        if self.mixed_norm_D is None or self.mlp_out_norm_D is None:
            copy_norm(config, self.mlp_norm_D, weights["post_attention_layernorm.weight"])
        else:
            copy_norm(config, self.mixed_norm_D, weights["post_attention_layernorm.weight"])
            copy_norm(config, self.mlp_norm_D, weights["pre_feedforward_layernorm.weight"])
            copy_norm(config, self.mlp_out_norm_D, weights["post_feedforward_layernorm.weight"])


def norm_dtype(config: DecoderConfig, dtype: torch.dtype) -> torch.dtype:
    """1 + weight needs more digits than bfloat16 has."""
    return torch.promote_types(dtype, torch.float32) if config.norm_offset else dtype


def copy_norm(config: DecoderConfig, target: Tensor, weight: Tensor, scale: float | None = None) -> None:
    weight = weight.to(target.dtype) + 1.0 if config.norm_offset else weight
    target.copy_(weight if scale is None else weight * scale)


def check_weights(config: DecoderConfig, weights: Mapping[str, Tensor]) -> None:
    """Raises `ValueError` for a missing or misshapen tensor."""
    for name, shape in _wanted_shapes(config).items():
        if name not in weights:
            raise ValueError(f"weights lack {name}: they are of another network")
        if tuple(weights[name].shape) != shape:
            raise ValueError(
                f"{name} has shape {tuple(weights[name].shape)}: the engine was built for {shape}"
            )


@cache
def _wanted_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(tensor.shape)
        for name, tensor in Decoder(config, seed=None, device="meta").state_dict().items()
    }


@cache
def layer_names(config: DecoderConfig) -> tuple[str, ...]:
    """The tensors of one layer, by their names within it."""
    first = "model.layers.0."
    return tuple(name.removeprefix(first) for name in _wanted_shapes(config) if name.startswith(first))


CachedQwen3 = CachedDecoder  # the network trained from random weights
