"""The cached network on a CPU, with one call of compiled code per forward pass. Same interface as
`CachedDecoder`.

Runs in float32, or with weights, keys and values in bfloat16: then operands of products are rounded to
bfloat16, and everything between products, including sums, is float32. A row's results do not depend, to the
bit, on the rows beside it or the number of threads. Axes as in `cached.py`.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Mapping, Sequence
from functools import cache
from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agito.models.cached import check_weights, copy_norm, layer_names
from agito.models.compiler import FORWARD, is_built, library
from agito.models.config import DecoderConfig
from agito.models.kv_pages import SPAN, Arena, PageTable, StoredPages
from agito.models.rope import rotary

_LANES, _BLOCK, _GROUP = 16, 128, 3  # as in vectors.h, forward.c and attend.h (at most)
_DTYPES = (torch.float32, torch.bfloat16)
_NORMS = ("input_norm", "qk_norm", "mixed_norm", "mlp_norm", "mlp_out_norm")
_MATRICES = {  # concatenated matrices
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


class _Layer(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_void_p)
            for name in (*_NORMS, *(f"{name}_bias" for name in _MATRICES), *_MATRICES, "cosines", "sines")
        ),
        ("window", ctypes.c_int64),
        *((name, ctypes.c_void_p * len(_MATRICES)) for name in ("low", "high")),
        ("rank", ctypes.c_int64 * len(_MATRICES)),
    ]


class _Net(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_int32)
            for name in (
                "hidden",
                "inter",
                "heads",
                "kv_heads",
                "width",
                "vocab",
                "layers",
                "slots",
                "num_pages",
            )
        ),
        *((name, ctypes.c_int32) for name in ("is_narrow", "is_gelu")),
        *((name, ctypes.c_float) for name in ("eps", "query_scale", "embedding_scale")),
        *((name, ctypes.c_void_p) for name in ("embedding", "norm", "head", "each", "pages", "team")),
        *((name, ctypes.c_void_p) for name in ("x", "wide", "added", "mixed", "scores", "h", "act")),
        *((name, ctypes.c_void_p) for name in ("between", "between_words")),
    ]


def is_supported(config: DecoderConfig, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this network can run here, which needs a C compiler or an earlier build."""
    sizes = (config.hidden_size, config.intermediate_size, config.head_dim)
    if device.type != "cpu" or dtype not in _DTYPES or any(size % _LANES for size in sizes):
        return False
    return is_built(FORWARD)


@cache
def _library() -> SimpleNamespace:
    loaded, pointer, number = ctypes.CDLL(str(library(FORWARD))), ctypes.c_void_p, ctypes.c_int32
    signatures = {
        "forward": (pointer, number, *[pointer] * 5),
        "sample": (pointer, number, *[pointer] * 6),
        "pack": (pointer, *[number] * 5, *[pointer] * 3),
        "team": (number,),
        "disband": (pointer,),
    }
    functions = {name: loaded[f"agito_{name}"] for name in signatures}
    for name, function in functions.items():
        function.argtypes, function.restype = signatures[name], pointer if name == "team" else None
    return SimpleNamespace(**functions)


class NativeDecoder:
    """Weights and cache: `slots` rows of at most `context` tokens each, which use only the memory that their
    tokens need.

    Speed does not depend on a row's slot.
    """

    packs_rows = False  # speed does not depend on where live rows are

    def __init__(
        self,
        config: DecoderConfig,
        *,
        slots: int,
        context: int,
        dtype: torch.dtype = torch.float32,
        threads: int = 1,
    ) -> None:
        if context > config.max_position:
            raise ValueError(f"context={context}: the network has positions up to {config.max_position}")
        if dtype not in _DTYPES or threads < 1:
            raise ValueError(f"dtype={dtype}, threads={threads}: float32 or bfloat16, in at least one thread")
        self.config, self.context, self.device, self._dtype = config, context, torch.device("cpu"), dtype
        self.is_narrow = dtype == torch.bfloat16
        self._team = _library().team(threads)
        weakref.finalize(self, _library().disband, self._team)
        page_bytes = config.num_layers * config.num_kv_heads * 2 * SPAN * config.head_dim * dtype.itemsize
        self._pages = PageTable(slots=slots, context=context, num_bytes=page_bytes)
        self._norm = torch.empty(config.hidden_size)
        shapes = _shapes(config)
        arena = Arena.for_each(
            *[*shapes.values()] * config.num_layers,
            (_padded(config.vocab_size), config.hidden_size),
            dtype=dtype,
        )
        self._layers = [self._new_layer(shapes, arena) for _ in range(config.num_layers)]
        self._head = arena.allocate(_padded(config.vocab_size), config.hidden_size, dtype=dtype)
        self._embedding = (
            None if config.tie_embeddings else torch.empty(config.vocab_size, config.hidden_size, dtype=dtype)
        )
        self._scratch = self._new_scratch(threads)
        self._adapters: dict[str, Tensor] = {}
        self._net = self._new_net()

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """As `CachedDecoder.load`. An adapter is gone."""
        config = self.config
        check_weights(config, weights)
        self.adapt({})
        embedding = weights["model.embed_tokens.weight"]
        if self._embedding is not None:
            self._embedding.copy_(embedding)
        self._pack([embedding if config.tie_embeddings else weights["lm_head.weight"]], self._head)
        copy_norm(config, self._norm, weights["model.norm.weight"])
        if config.scale_embeddings:  # rounded as in the training path
            self._net.embedding_scale = float(torch.tensor(config.hidden_size**0.5, dtype=embedding.dtype))
        for index, layer in enumerate(self._layers):
            self._load_layer(
                layer, {name: weights[f"model.layers.{index}.{name}"] for name in layer_names(config)}
            )

    @torch.no_grad()
    def adapt(self, adapter: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Adds B A x to the products of the weights that are loaded, instead of what was added before.
        `adapter`: A, rank x inputs, and B, outputs x rank, by the name of a projection.
        """
        for index, struct in enumerate(self._structs):
            for which, (name, parts) in enumerate(_MATRICES.items()):
                own = [adapter.get(f"model.layers.{index}.{part}") for part in parts]
                struct.rank[which] = 0
                if not any(own):
                    continue
                low, high = joined(own, self._sizes(name), self._layers[index][name].shape[1])
                struct.rank[which] = len(low)
                for kind, matrix in (("low", low), ("high", high)):
                    key = f"{index}.{name}.{kind}"
                    if key not in self._adapters or self._adapters[key].shape != matrix.shape:
                        self._adapters[key] = torch.empty(matrix.shape, dtype=self._dtype)
                        getattr(struct, kind)[which] = self._adapters[key].data_ptr()
                    self._pack([matrix], self._adapters[key])
        widest = max((max(struct.rank) for struct in self._structs), default=0)
        if widest * _BLOCK > self._scratch["between"].numel():
            for name in ("between", "between_words"):
                self._scratch[name] = torch.empty(_BLOCK, widest)
                setattr(self._net, name, self._scratch[name].data_ptr())

    def extend(
        self, ids_N: Tensor, slots_R: Sequence[int], starts_R: Sequence[int], lengths_R: Sequence[int]
    ) -> Tensor:
        """As `CachedDecoder.extend`; the order of rows does not affect speed."""
        lengths = np.asarray(lengths_R)
        ends = lengths.cumsum()
        for slot, start, length in zip(slots_R, starts_R, lengths_R, strict=True):
            if start == 0:
                self._pages.release(slot)
            self._pages.reach(slot, start + length)
        slots_N = np.repeat(np.asarray(slots_R, dtype=np.int32), lengths)
        positions_N = np.arange(len(ids_N)) - np.repeat(ends - lengths - np.asarray(starts_R), lengths)
        wants_N = np.zeros(len(ids_N), dtype=np.uint8)
        wants_N[ends - 1] = 1
        return self._run(ids_N, slots_N, positions_N.astype(np.int32), wants_N, len(lengths))

    def decode(
        self, ids_R: Tensor, slots_R: Tensor, positions_R: Tensor, *, num_slots: int = 0, longest: int = 0
    ) -> Tensor:
        """As `CachedDecoder.decode`; slots may be in any order."""
        slots, positions = (each_R.to(torch.int32).numpy() for each_R in (slots_R, positions_R))
        for row in np.flatnonzero(positions % SPAN == 0):
            self._pages.reach(int(slots[row]), int(positions[row]) + 1)
        return self._run(ids_R, slots, positions, np.ones(len(slots), dtype=np.uint8), len(slots))

    def _run(
        self,
        ids_N: Tensor,
        slots_N: NDArray[np.int32],
        positions_N: NDArray[np.int32],
        wants_N: NDArray[np.uint8],
        num: int,
    ) -> Tensor:
        assert ids_N.dtype == torch.long and ids_N.is_contiguous()
        logits_RV = torch.empty(num, _padded(self.config.vocab_size))
        places = (array.ctypes.data for array in (slots_N, positions_N, wants_N))
        _library().forward(
            ctypes.byref(self._net), len(ids_N), ids_N.data_ptr(), *places, logits_RV.data_ptr()
        )
        return logits_RV[:, : self.config.vocab_size]

    def draw(
        self, logits_RV: Tensor, uniforms_R: Tensor, temperatures_R: Tensor, top_ps_R: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Samples token ids and their log-probabilities as the engine's `sample` does, from logits returned
        by this decoder."""
        num, step = len(logits_RV), logits_RV.stride(0)
        assert step == _padded(self.config.vocab_size) and uniforms_R.dtype == torch.float64
        ids_R, logprobs_R = torch.empty(num, dtype=torch.long), torch.empty(num)
        chosen = [
            None if each_R is None else each_R.contiguous()
            for each_R in (temperatures_R, top_ps_R, uniforms_R)
        ]
        tensors = (logits_RV, *chosen, ids_R, logprobs_R)
        _library().sample(
            ctypes.byref(self._net),
            num,
            *(None if tensor is None else tensor.data_ptr() for tensor in tensors),
        )
        return ids_R, logprobs_R

    def move(self, sources: Sequence[int], targets: Sequence[int], lengths: Sequence[int]) -> None:
        """As `CachedDecoder.move`; whole pages are shared and must not be written again."""
        copies = [self._pages.read(source, length) for source, length in zip(sources, lengths, strict=True)]
        for target, held in zip(targets, copies, strict=True):
            self._pages.write(target, held)

    def read(self, slot: int, length: int) -> StoredPages:
        """As `CachedDecoder.read`."""
        return self._pages.read(slot, length)

    def write(self, slot: int, copy: StoredPages) -> None:
        """As `CachedDecoder.write`."""
        self._pages.write(slot, copy)

    def release(self, slot: int) -> None:
        """As `CachedDecoder.release`."""
        self._pages.release(slot)

    @property
    def cache_bytes(self) -> int:
        """Bytes that rows hold in keys and values."""
        return self._pages.used_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes taken from the system for keys and values; none while there is no row."""
        return self._pages.held_bytes

    def _new_layer(self, shapes: Mapping[str, tuple[int, int]], arena: Arena) -> dict[str, Tensor]:
        config, hidden = self.config, self.config.hidden_size
        has_bias = {
            "qkv": config.qkv_bias,
            "out": config.out_bias,
            "gate_up": config.mlp_bias,
            "down": config.mlp_bias,
        }
        layer = {name: arena.allocate(*shape, dtype=self._dtype) for name, shape in shapes.items()}
        layer |= {
            f"{name}_bias": torch.empty(shapes[name][0]) for name, is_there in has_bias.items() if is_there
        }
        layer |= {"input_norm": torch.empty(hidden), "mlp_norm": torch.empty(hidden)}
        if config.qk_norm:
            layer["qk_norm"] = torch.empty(config.num_heads + config.num_kv_heads, config.head_dim)
        if config.sandwich_norms:
            layer |= {"mixed_norm": torch.empty(hidden), "mlp_out_norm": torch.empty(hidden)}
        return layer

    def _new_scratch(self, threads: int) -> dict[str, Tensor]:
        config = self.config
        hidden, inter, width = config.hidden_size, config.intermediate_size, config.head_dim
        mixed = config.num_heads * width
        widest = max(mixed + 2 * config.num_kv_heads * width, 2 * inter)
        num_positions = self._pages.num_pages * SPAN
        num_scores = config.num_heads // config.num_kv_heads * num_positions
        num_scores += _GROUP * (num_positions + config.head_dim)
        sizes = {
            "x": (_BLOCK, hidden),
            "wide": (_BLOCK, widest),
            "added": (_BLOCK, hidden),
            "mixed": (threads, max(mixed, hidden)),
        }
        sizes |= {"scores": (threads, num_scores), "h": (_BLOCK, hidden), "act": (_BLOCK, max(inter, mixed))}
        sizes |= {"between": (_BLOCK, 0), "between_words": (_BLOCK, 0)}
        sizes["packing"] = (threads, _LANES * max(hidden, inter, mixed))
        return {name: torch.empty(size) for name, size in sizes.items()}

    def _new_net(self) -> _Net:
        config = self.config
        positions = torch.arange(self._pages.num_pages * SPAN)
        self._rotations = [
            [table.contiguous() for table in rotary(positions, config, local=local)]
            for local in (False, True)
        ]
        self._structs = (_Layer * config.num_layers)()
        for index, (struct, tensors) in enumerate(zip(self._structs, self._layers, strict=True)):
            for name, tensor in tensors.items():
                setattr(struct, name, tensor.data_ptr())
            struct.cosines, struct.sines = (
                table.data_ptr() for table in self._rotations[index in config.sliding_layers]
            )
            struct.window = config.window(index) or 0
        scratch = {name: tensor.data_ptr() for name, tensor in self._scratch.items() if name != "packing"}
        return _Net(
            hidden=config.hidden_size,
            inter=config.intermediate_size,
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            width=config.head_dim,
            vocab=config.vocab_size,
            layers=config.num_layers,
            slots=len(self._pages.addresses),
            num_pages=self._pages.num_pages,
            is_narrow=self.is_narrow,
            is_gelu=config.activation == "gelu_tanh",
            eps=config.rms_norm_eps,
            query_scale=config.query_scale or config.head_dim**-0.5,
            embedding_scale=1.0,
            embedding=None if self._embedding is None else self._embedding.data_ptr(),
            norm=self._norm.data_ptr(),
            head=self._head.data_ptr(),
            each=ctypes.addressof(self._structs),
            pages=self._pages.addresses.ctypes.data,
            team=self._team,
            **scratch,
        )

    def _load_layer(self, layer: dict[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        config = self.config
        for name, parts in _MATRICES.items():
            self._pack([weights[f"{part}.weight"] for part in parts], layer[name])
            if f"{name}_bias" in layer:
                layer[f"{name}_bias"].copy_(torch.cat([weights[f"{part}.bias"] for part in parts]))
        if config.qk_norm:
            scale = config.query_scale or config.head_dim**-0.5
            copy_norm(config, layer["qk_norm"][: config.num_heads], weights["self_attn.q_norm.weight"], scale)
            copy_norm(config, layer["qk_norm"][config.num_heads :], weights["self_attn.k_norm.weight"])
        names = {"input_norm": "input", "mlp_norm": "post_attention"}
        if config.sandwich_norms:  # Gemma uses this name for another norm
            names |= {
                "mixed_norm": "post_attention",
                "mlp_norm": "pre_feedforward",
                "mlp_out_norm": "post_feedforward",
            }
        for name, kind in names.items():
            copy_norm(config, layer[name], weights[f"{kind}_layernorm.weight"])

    def _sizes(self, name: str) -> list[int]:
        """Outputs of the projections that are one matrix here."""
        config = self.config
        heads = [config.num_heads, config.num_kv_heads, config.num_kv_heads]
        return {
            "qkv": [each * config.head_dim for each in heads],
            "out": [config.hidden_size],
            "gate_up": [config.intermediate_size] * 2,
            "down": [config.hidden_size],
        }[name]

    def _pack(self, parts: Sequence[Tensor], packed: Tensor) -> None:
        """Concatenates the rows of all parts as columns."""
        columns, first, room = sum(len(part) for part in parts), 0, self._scratch["packing"]
        for part in parts:
            wide = part.detach().to("cpu", torch.float32).contiguous()
            depth = wide.shape[1] >> self.is_narrow
            if _LANES * depth > room.shape[1]:  # an adapter of a rank above all widths
                room = self._scratch["packing"] = torch.empty(len(room), _LANES * depth)
            _library().pack(
                self._team,
                self.is_narrow,
                depth,
                columns,
                first,
                len(wide),
                wide.data_ptr(),
                packed.data_ptr(),
                room.data_ptr(),
            )
            first += len(wide)


def joined(
    adapters: Sequence[tuple[Tensor, Tensor] | None], sizes: Sequence[int], depth: int
) -> tuple[Tensor, Tensor]:
    """One adapter for projections that read the same inputs, `sizes` outputs each: all A above each other, B
    along a diagonal. Its rank is a multiple of `_LANES`, filled up with zeros."""
    rank = sum(len(each[0]) for each in adapters if each is not None)
    padded_rank = _padded(rank)
    low, high = torch.zeros(padded_rank, depth), torch.zeros(sum(sizes), padded_rank)
    at = first = 0
    for each, size in zip(adapters, sizes, strict=True):
        if each is not None:
            low[at : at + len(each[0])] = each[0]
            high[first : first + size, at : at + len(each[0])] = each[1]
            at += len(each[0])
        first += size
    return low, high


def _shapes(config: DecoderConfig) -> dict[str, tuple[int, int]]:
    """Columns and depth of a layer's matrices, all multiples of `_LANES`."""
    hidden, inter, mixed = config.hidden_size, config.intermediate_size, config.num_heads * config.head_dim
    return {
        "qkv": (mixed + 2 * config.num_kv_heads * config.head_dim, hidden),
        "out": (hidden, mixed),
        "gate_up": (2 * inter, hidden),
        "down": (hidden, inter),
    }


def _padded(columns: int) -> int:
    return -(-columns // _LANES) * _LANES


NativeQwen3 = NativeDecoder  # the network trained from random weights
