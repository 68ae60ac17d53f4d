"""What a recipe asks of memory and disk, by arithmetic on shapes: before anything is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from agito.models.config import DecoderConfig, LoraConfig
from agito.models.families import read_config
from agito.models.hub import folder_of
from agito.recipe import Recipe

_FLOAT = 4
_MUON_BELOW = 20_000_000  # trained parameters; see `trainer.optimizer`
_CHECKPOINTS = 4  # that a run keeps: the cold start's, two, and the one being written


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Bytes in each of `num` processes, and what changes them."""

    name: str
    num_bytes: int
    knob: str
    num: int = 1

    @property
    def total(self) -> int:
        return self.num * self.num_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Of one policy."""

    num_params: int
    num_trained: int
    parts: tuple[Part, ...]
    checkpoint_bytes: int

    @property
    def total(self) -> int:
        """Without what Python and torch themselves take, which the probe measures."""
        return sum(part.total for part in self.parts)

    @property
    def disk_bytes(self) -> int:
        return _CHECKPOINTS * self.checkpoint_bytes


def footprint(recipe: Recipe) -> Footprint:
    """Of `main`. Raises as `read_config`."""
    section, config = recipe.model, read_shape(recipe)
    width = 2 if section.path and section.dtype == "bfloat16" else _FLOAT
    is_adapter = bool(section.path) and section.adapter == "lora"
    total = num_params(config)
    lora = LoraConfig(**section.lora.model_dump()) if is_adapter else None
    trained = total if lora is None else num_adapter(config, lora)
    moments = _FLOAT * (2 * trained - (_num_muon(recipe, config) if lora is None else 0))
    saved = trained * (width if lora is None else _FLOAT)
    return Footprint(
        num_params=total + (0 if lora is None else trained),
        num_trained=trained,
        parts=(
            *_learning(recipe, total * width, trained, moments, is_adapter=is_adapter),
            *_sampling(recipe, config, total * width, width),
        ),
        checkpoint_bytes=2 * saved + moments,
    )


def _learning(
    recipe: Recipe, weights: int, trained: int, moments: int, *, is_adapter: bool
) -> tuple[Part, ...]:
    """In every process, or in the first where it learns alone."""
    section = recipe.model
    num = 1 if recipe.pipeline.mode == "decoupled" else recipe.compute.ranks
    is_narrow = bool(section.path) and section.dtype == "bfloat16"
    # an adapter is in float32 itself; bfloat16 weights that learn have a master copy
    extra = trained * _FLOAT if is_adapter or is_narrow else 0
    if is_adapter:
        knob = "model.lora.rank"
    else:
        knob = 'model.adapter="lora"' if section.path else "model.hidden_size"
    optimizer = moments + trained * _FLOAT + (0 if is_adapter else extra)
    return (
        Part(
            name="weights, to learn",
            num_bytes=weights + (extra if is_adapter else 0),
            knob=_smaller(recipe),
            num=num,
        ),
        Part(name="optimizer and gradients", num_bytes=optimizer, knob=knob, num=num),
        Part(
            name="activations, about",
            num_bytes=activation_bytes(read_shape(recipe), recipe, 2 if is_narrow else _FLOAT),
            knob="trainer.micro_tokens, trainer.keep_activations=false",
            num=num,
        ),
    )


def _sampling(recipe: Recipe, config: DecoderConfig, weights: int, width: int) -> tuple[Part, ...]:
    """In every process, or in all but the one that learns; a server keeps its own accounts."""
    sizes = recipe.compute
    if sizes.sampler != "embedded":
        return ()
    num = sizes.ranks - (recipe.pipeline.mode == "decoupled")
    cache = cache_bytes(config, sizes.context, sizes.max_num_seqs, width)
    return (
        Part(name="weights, to sample", num_bytes=weights, knob=_smaller(recipe), num=num),
        Part(name="KV cache, full", num_bytes=cache, knob="compute.max_num_seqs, compute.context", num=num),
    )


def _smaller(recipe: Recipe) -> str:
    if not recipe.model.path:
        return "model.hidden_size, compute.ranks"
    return "compute.ranks" if recipe.model.dtype == "bfloat16" else 'model.dtype="bfloat16", compute.ranks'


def read_shape(recipe: Recipe) -> DecoderConfig:
    """Raises as `read_config`."""
    section = recipe.model
    if section.path:
        return read_config(folder_of(section.path))
    return DecoderConfig(
        **section.shape(), vocab_size=section.vocab_size, max_position=recipe.compute.context
    )


def num_params(config: DecoderConfig) -> int:
    """Of the whole network; a tied head counts once."""
    hidden, width = config.hidden_size, config.head_dim
    layer = sum(inward * outward for inward, outward in _projections(config).values())
    layer += (4 if config.sandwich_norms else 2) * hidden + (2 * width if config.qk_norm else 0)
    layer += (config.num_heads + 2 * config.num_kv_heads) * width if config.qkv_bias else 0
    layer += hidden if config.out_bias else 0
    layer += 2 * config.intermediate_size + hidden if config.mlp_bias else 0
    tables = (1 if config.tie_embeddings else 2) * config.vocab_size * hidden
    return tables + config.num_layers * layer + hidden


def num_adapter(config: DecoderConfig, lora: LoraConfig) -> int:
    """Of A and B at every target, in every layer."""
    shapes = _projections(config)
    return config.num_layers * sum(lora.rank * sum(shapes[name]) for name in lora.targets)


def cache_bytes(config: DecoderConfig, context: int, rows: int, width: int) -> int:
    """When every row is as long as it may be; pages are taken as rows grow."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * context * rows * width


def activation_bytes(config: DecoderConfig, recipe: Recipe, width: int) -> int:
    """What one forward pass leaves for the backward pass, in every layer or, recomputed, at its entry and in
    one; and the scores of a chunk of tokens over the vocabulary.
    """
    trainer = recipe.trainer
    tokens = max(trainer.micro_tokens, recipe.compute.context)
    hidden = config.hidden_size
    mixed = (2 * config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    inside = 6 * hidden + 2 * mixed + 3 * config.intermediate_size
    layers = config.num_layers
    kept = layers * inside if trainer.keep_activations else layers * hidden + inside
    return tokens * kept * width


def free_memory() -> int:
    """Bytes that this machine, or the group of processes that we are in, still gives."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            found = int(line.split()[1]) << 10
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return found
    return min(found, int(limit) - used) if limit.isdigit() else found


def _projections(config: DecoderConfig) -> dict[str, tuple[int, int]]:
    """Inputs and outputs by name."""
    hidden, inter = config.hidden_size, config.intermediate_size
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return {
        "q_proj": (hidden, query),
        "k_proj": (hidden, key),
        "v_proj": (hidden, key),
        "o_proj": (query, hidden),
        "gate_proj": (hidden, inter),
        "up_proj": (hidden, inter),
        "down_proj": (inter, hidden),
    }


def _num_muon(recipe: Recipe, config: DecoderConfig) -> int:
    """Parameters with one moment, not two: hidden matrices, where Muon takes them."""
    kind = recipe.trainer.optimizer
    if kind == "muon" or (kind == "auto" and num_params(config) < _MUON_BELOW):
        return config.num_layers * sum(inward * outward for inward, outward in _projections(config).values())
    return 0
