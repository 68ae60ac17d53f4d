"""One decoder for the dense family: RMSNorm, rotary positions, grouped-query attention, a gated MLP.

Llama, Mistral, Qwen2, Qwen3 and Gemma 3 differ in fields of `DecoderConfig`. Parameter names are those of the
Hugging Face classes. Axes: N tokens of all sequences, concatenated; B sequences; T positions, padded on the
right; D model width; H heads; K key-value heads; E head width; V vocabulary.

Linear layers run on concatenated tokens. Attention runs on right-padded batches with a causal pattern, and a
mask only where rows exceed a sliding window. Padding follows every real token of its row, so no real token
attends to it and the result is exact. Batches hold sequences of similar length, to keep padding small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agito.models.config import DecoderConfig
from agito.models.eager import Uninitialised
from agito.models.prefix import Prefix, attend, attend_masked, has_kernel, joined
from agito.models.ragged import Ragged, by_length
from agito.models.recompute import recomputed
from agito.models.rope import rotary, rotate

KEY_QUERY_CORRELATION = 0.85  # initial correlation of keys with queries
_EMBEDDING_STD = 0.05  # initial standard deviation of embeddings
_SHARED_PART = 0.7  # its part shared by all embeddings
_RESIDUAL_SCALE = 0.3  # initial scale of residual projections, relative to the usual one
# Width from which keys and values are not copied for each query head; narrower networks keep the bits of
# recorded runs.
_LEAN = 256
_NUM_SHARP = 3  # number of frequencies, highest first, that initially single out the previous token


class Decoder(nn.Module):
    """The training path. `seed=None` leaves the weights uninitialised, for a checkpoint to fill."""

    def __init__(
        self,
        config: DecoderConfig,
        *,
        seed: int | None = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.config = config
        filled = Uninitialised() if seed is None else nullcontext()
        with filled, torch.device(device or torch.get_default_device()):
            self.model = _Body(config)
            self.lm_head = (
                None
                if config.tie_embeddings
                else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
            )
        self.to(dtype=dtype)
        if seed is not None:
            self.reset(seed)

    @property
    def head_weight(self) -> Tensor:
        """The output matrix, shape VD; the embedding itself if they are tied."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def hidden(self, ids_N: Tensor, lengths_B: Sequence[int]) -> Tensor:
        """The final normalised states `hidden_ND` of concatenated sequences; lengths are at least 1 and sum
        to N."""
        return self.extend(ids_N, lengths_B)[0]

    def extend(
        self,
        ids_N: Tensor,
        lengths_B: Sequence[int],
        onto: Sequence[Prefix] = (),
        kept_tokens: int | None = None,
    ) -> tuple[Tensor, Prefix]:
        """As `hidden`, for sequences that each continue `onto`; also returns the prefix that these tokens, of
        one sequence, form for later ones.

        `kept_tokens`: keep no more activations for the backward pass than those of so many tokens in all
        layers; the other layers compute theirs again, to the same bits. None: keep all.
        """
        if sum(lengths_B) != ids_N.shape[0]:
            raise ValueError(f"lengths sum to {sum(lengths_B)}, but there are {ids_N.shape[0]} tokens")
        before = sum(len(prefix) for prefix in onto)
        if before + max(lengths_B, default=0) > self.config.max_position:
            raise ValueError(
                f"a sequence of {before + max(lengths_B)} tokens: max_position is {self.config.max_position}"
            )
        batches, order_N = by_length(lengths_B, ids_N.device)
        x_ND = scaled(self.model.embed_tokens(ids_N[order_N]), self.config)
        positions_N = torch.cat([batch.positions_N for batch in batches]) + before
        is_sliding = [index in self.config.sliding_layers for index in range(self.config.num_layers)]
        rotations = {
            local: [table.to(x_ND.dtype) for table in rotary(positions_N, self.config, local=local)]
            for local in sorted(set(is_sliding))
        }
        num_again = self._num_again(ids_N.shape[0], kept_tokens) if torch.is_grad_enabled() else 0
        keys, values = list[Tensor](), list[Tensor]()
        for index, (layer, local) in enumerate(zip(self.model.layers, is_sliding, strict=True)):
            run = _recomputed if index < num_again else _kept
            x_ND, k_NKE, v_NKE = run(layer, x_ND, *rotations[local], batches, joined(onto, index))
            keys.append(k_NKE)
            values.append(v_NKE)
        x_ND = self.model.norm(x_ND)
        return torch.zeros_like(x_ND).index_copy(0, order_N, x_ND), Prefix(
            keys=tuple(keys), values=tuple(values)
        )

    def _num_again(self, num_tokens: int, kept_tokens: int | None) -> int:
        """How many layers compute their activations again: the first, since the backward pass has freed what
        the others kept when it comes to them."""
        if kept_tokens is None or kept_tokens >= num_tokens:
            return 0
        return self.config.num_layers - self.config.num_layers * kept_tokens // num_tokens

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """`logits_NV` of the given states; a trainer passes only those it needs."""
        return F.linear(hidden_ND, self.head_weight)

    def forward(self, ids_N: Tensor, lengths_B: Sequence[int]) -> Tensor:
        return self.logits(self.hidden(ids_N, lengths_B))

    @torch.no_grad()
    def reset(self, seed: int) -> None:
        """Draws all weights: normal, matrices at 1/sqrt(fan-in), embeddings at 0.05, projections into the
        residual stream at 0.3 / sqrt(2 x layers) of that. The draw does not depend on the device.

        Then each key matrix is mixed with that of its first query head, so attention starts by matching like
        with like (arXiv:2305.09828), and two heads start as an induction head (arXiv:2209.11895), which a
        network needs before it can copy.
        """
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if weight.dim() == 1:
                weight.fill_(0.0 if self.config.norm_offset or name.endswith("bias") else 1.0)
                continue
            std = _EMBEDDING_STD if "embed_tokens" in name else weight.shape[1] ** -0.5
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std *= _RESIDUAL_SCALE / math.sqrt(2 * self.config.num_layers)
            weight.copy_(torch.randn(weight.shape, generator=generator) * std)
        attentions = [module for module in self.modules() if isinstance(module, _Attention)]
        for attention in attentions:
            attention.align_keys()
        if len(attentions) > 1:
            self._init_induction_heads(attentions[0], attentions[1], generator)

    def _init_induction_heads(
        self, first: _Attention, second: _Attention, generator: torch.Generator
    ) -> None:
        """Initialises two heads that together predict what followed the last occurrence of the current token.

        All embeddings share a direction. From it, the first head of the first layer makes a query and a key
        that agree best one position apart, so each position is marked with the previous token. The first head
        of the second layer attends to the position marked with the current token, and outputs that position's
        token in embedding space.
        """
        width, count = self.config.head_dim, self.config.hidden_size
        embeddings_VD = self.model.embed_tokens.weight

        def draw(*shape: int) -> Tensor:
            return (torch.randn(shape, generator=generator) * count**-0.5).to(embeddings_VD)

        shared_D = F.normalize(draw(count), dim=0)
        embeddings_VD.sub_((embeddings_VD @ shared_D)[:, None] * shared_D).add_(
            shared_D * (_EMBEDDING_STD * _SHARED_PART * count**0.5)
        )
        said_ED, mark_DE, copy_ED = draw(width, count), draw(count, width), draw(width, count)
        angles = self.config.rope_theta ** (-2 * torch.arange(min(_NUM_SHARP, width // 2)) / width)
        halves = torch.zeros(2, 2, width // 2)  # of query and key
        halves[0, 0, : len(angles)], halves[1, 0, : len(angles)], halves[1, 1, : len(angles)] = (
            1.0,
            angles.cos(),
            angles.sin(),
        )
        for proj, row_E in zip(
            (first.q_proj, first.k_proj), halves.flatten(1).to(embeddings_VD), strict=True
        ):
            proj.weight[:width].mul_(0.1).add_(torch.outer(row_E, shared_D))
        first.v_proj.weight[:width], first.o_proj.weight[:, :width] = said_ED * 0.5, mark_DE * 0.5
        second.q_proj.weight[:width], second.k_proj.weight[:width] = said_ED, mark_DE.T
        second.v_proj.weight[:width], second.o_proj.weight[:, :width] = copy_ED, copy_ED.T * 0.5


def num_params(model: nn.Module) -> int:
    """Distinct parameters; tied embeddings count once."""
    return sum(weight.numel() for weight in {id(weight): weight for weight in model.parameters()}.values())


def scaled(embedded_ND: Tensor, config: DecoderConfig) -> Tensor:
    """Embeddings as the first layer reads them; the factor is rounded to their precision, as in the
    reference."""
    if not config.scale_embeddings:
        return embedded_ND
    return embedded_ND * torch.tensor(
        config.hidden_size**0.5, dtype=embedded_ND.dtype, device=embedded_ND.device
    )


def gate(x: Tensor, config: DecoderConfig) -> Tensor:
    """The MLP's activation."""
    return F.silu(x) if config.activation == "silu" else F.gelu(x, approximate="tanh")


class _RMSNorm(nn.Module):
    """Normalises in at least fp32 and scales in the input's dtype, as the reference does; with an offset,
    scales by 1 + weight in fp32."""

    def __init__(self, width: int, config: DecoderConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps, self.has_offset = config.rms_norm_eps, config.norm_offset

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (
            (normed * (1.0 + self.weight.to(wide.dtype))).to(x.dtype)
            if self.has_offset
            else self.weight * normed.to(x.dtype)
        )


class _Attention(nn.Module):
    def __init__(self, config: DecoderConfig, window: int | None):
        super().__init__()
        self.config, self.window = config, window
        self.q_proj = nn.Linear(config.hidden_size, config.num_heads * config.head_dim, bias=config.qkv_bias)
        self.k_proj = nn.Linear(
            config.hidden_size, config.num_kv_heads * config.head_dim, bias=config.qkv_bias
        )
        self.v_proj = nn.Linear(
            config.hidden_size, config.num_kv_heads * config.head_dim, bias=config.qkv_bias
        )
        self.o_proj = nn.Linear(config.num_heads * config.head_dim, config.hidden_size, bias=config.out_bias)
        if config.qk_norm:
            self.q_norm = _RMSNorm(config.head_dim, config)
            self.k_norm = _RMSNorm(config.head_dim, config)

    def align_keys(self) -> None:
        """Mixes into each key head the first query head that reads it."""
        heads = (self.config.num_kv_heads, -1, self.config.head_dim)
        keys, queries = (proj.weight.unflatten(0, heads)[:, 0] for proj in (self.k_proj, self.q_proj))
        keys.mul_(math.sqrt(1 - KEY_QUERY_CORRELATION**2)).add_(queries, alpha=KEY_QUERY_CORRELATION)

    def forward(
        self,
        x_ND: Tensor,
        cos_NE: Tensor,
        sin_NE: Tensor,
        batches: Sequence[Ragged],
        past: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        width = self.config.head_dim
        q_NHE, k_NKE = (
            self.q_proj(x_ND).view(-1, self.config.num_heads, width),
            self.k_proj(x_ND).view(-1, self.config.num_kv_heads, width),
        )
        if self.config.qk_norm:
            q_NHE, k_NKE = self.q_norm(q_NHE), self.k_norm(k_NKE)
        q_NHE, k_NKE = rotate(q_NHE, cos_NE, sin_NE), rotate(k_NKE, cos_NE, sin_NE)
        v_NKE = self.v_proj(x_ND).view_as(k_NKE)
        before, scale = 0 if past is None else past[0].shape[0], self.config.query_scale
        if has_kernel(x_ND.device, before, batches, self.window) and (
            before or self.config.hidden_size >= _LEAN
        ):
            mixed_NW = attend(q_NHE, k_NKE, v_NKE, past, batches, scale)
        elif past is not None:
            mixed_NW = attend_masked(q_NHE, k_NKE, v_NKE, past, batches, self.window, scale)
        else:
            packed_NW = torch.cat((q_NHE.flatten(1), k_NKE.flatten(1), v_NKE.flatten(1)), dim=1)
            pieces = zip(batches, packed_NW.split([batch.num_tokens for batch in batches]), strict=True)
            mixed_NW = torch.cat([self._attend(batch, piece_NW) for batch, piece_NW in pieces])
        return self.o_proj(mixed_NW), k_NKE, v_NKE

    def _attend(self, batch: Ragged, packed_NW: Tensor) -> Tensor:
        num_heads, num_kv_heads = self.config.num_heads, self.config.num_kv_heads
        heads_BHTE = batch.pad(packed_NW).unflatten(2, (-1, self.config.head_dim)).transpose(1, 2)
        q_BHTE, k_BKTE, v_BKTE = heads_BHTE.split((num_heads, num_kv_heads, num_kv_heads), dim=1)
        k_BHTE, v_BHTE = (t.repeat_interleave(num_heads // num_kv_heads, dim=1) for t in (k_BKTE, v_BKTE))
        if self.window is None or batch.longest <= self.window:
            mixed_BHTE = F.scaled_dot_product_attention(
                q_BHTE, k_BHTE, v_BHTE, is_causal=True, scale=self.config.query_scale
            )
        else:
            sees_TT = (
                packed_NW.new_ones(batch.longest, batch.longest, dtype=torch.bool)
                .tril()
                .triu(1 - self.window)
            )
            mixed_BHTE = F.scaled_dot_product_attention(
                q_BHTE, k_BHTE, v_BHTE, attn_mask=sees_TT, scale=self.config.query_scale
            )
        return batch.unpad(mixed_BHTE.transpose(1, 2).flatten(2))


class _MLP(nn.Module):
    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x_ND: Tensor) -> Tensor:
        return self.down_proj(_Gated.apply(self.gate_proj(x_ND), self.up_proj(x_ND), self.config))


class _Gated(torch.autograd.Function):
    """gate(x) times y, keeping only x and y for the backward pass: a third less memory than autograd keeps
    for an MLP."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, config: DecoderConfig) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.config = config
        return gate(x, config) * y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, y = ctx.saved_tensors
        found = gradients[0]
        if ctx.config.activation == "silu":
            slope = torch.ops.aten.silu_backward(found * y, x)
        else:
            slope = torch.ops.aten.gelu_backward(found * y, x, approximate="tanh")
        return slope, found * gate(x, ctx.config), None


class _Layer(nn.Module):
    def __init__(self, config: DecoderConfig, window: int | None):
        super().__init__()
        self.is_sandwiched = config.sandwich_norms
        self.self_attn = _Attention(config, window)
        self.mlp = _MLP(config)
        self.input_layernorm = _RMSNorm(config.hidden_size, config)
        self.post_attention_layernorm = _RMSNorm(config.hidden_size, config)
        if config.sandwich_norms:
            self.pre_feedforward_layernorm = _RMSNorm(config.hidden_size, config)
            self.post_feedforward_layernorm = _RMSNorm(config.hidden_size, config)

    def forward(
        self,
        x_ND: Tensor,
        cos_NE: Tensor,
        sin_NE: Tensor,
        batches: Sequence[Ragged],
        past: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The layer's output, and keys and values of its tokens."""
        mixed_ND, k_NKE, v_NKE = self.self_attn(self.input_layernorm(x_ND), cos_NE, sin_NE, batches, past)
        if self.is_sandwiched:  # Gemma uses this name for another norm
            x_ND = x_ND + self.post_attention_layernorm(mixed_ND)
            return (
                x_ND + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x_ND))),
                k_NKE,
                v_NKE,
            )
        x_ND = x_ND + mixed_ND
        return x_ND + self.mlp(self.post_attention_layernorm(x_ND)), k_NKE, v_NKE


def _kept(layer: nn.Module, *inputs: Any) -> Any:
    return layer(*inputs)


def _recomputed(layer: nn.Module, *inputs: Any) -> Any:
    x_ND, cos_NE, sin_NE, batches, past = inputs

    def run(x_ND: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        return layer(x_ND, cos_NE, sin_NE, batches, past or None)

    weights = [weight for weight in layer.parameters() if weight.requires_grad]
    return recomputed(run, (x_ND, *(past or ())), weights)


class _Body(nn.Module):
    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            _Layer(config, config.window(index)) for index in range(config.num_layers)
        )
        self.norm = _RMSNorm(config.hidden_size, config)


Qwen3 = Decoder  # the network trained from random weights
