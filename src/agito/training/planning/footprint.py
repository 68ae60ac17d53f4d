"""What a recipe asks of memory and disk, by arithmetic on shapes: before anything is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from agito.models.config import DecoderConfig, LoraConfig
from agito.models.families import read_config, read_json
from agito.models.hub import folder_of
from agito.models.recipe_sections import PolicySection
from agito.recipe import Recipe
from agito.render.vocabulary import is_own
from agito.runtime.policy_sources import find

_FLOAT = 4
_MUON_BELOW = 20_000_000  # trained parameters; see `trainer.optimizer`
_CHECKPOINTS = 4  # that a run keeps: the cold start's, two, and the one being written
_PROCESS = 120 << 20  # Python and torch, of which forked processes share a part
_LOGITS = 1 << 22  # held at once, by the learner; see `losses.chunked`
_LIVE = 0.5  # of the positions that a full cache has: rows are at every age, and share their openings


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Bytes in each of `num` processes, and what changes them. `when`: only while they learn or sample."""

    name: str
    num_bytes: int
    knob: str
    num: int = 1
    when: Literal["", "learning", "sampling"] = ""

    @property
    def total(self) -> int:
        return self.num * self.num_bytes


_PHASES, _ACTIVATIONS = ("", "learning", "sampling"), "activations, about"


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Of a run."""

    num_params: int
    num_trained: int
    parts: tuple[Part, ...]
    checkpoint_bytes: int
    takes_turns: bool = False  # the same processes learn and sample, and give back what they needed for it

    @property
    def total(self) -> int:
        of = {when: sum(part.total for part in self.parts if part.when == when) for when in _PHASES}
        both = max if self.takes_turns else sum
        return of[""] + both(of[when] for when in _PHASES if when)

    @property
    def disk_bytes(self) -> int:
        return _CHECKPOINTS * self.checkpoint_bytes


def footprint(recipe: Recipe) -> Footprint:
    """Raises as `read_config` and `find`."""
    found = _of_policy(recipe, learns=True)
    python = Part(
        name="Python and torch", num_bytes=_PROCESS, knob="compute.ranks", num=recipe.compute.ranks + 2
    )
    others = {name: _of_other(recipe, section) for name, section in recipe.policies.items()}
    return replace(
        found,
        num_params=found.num_params + sum(each.num_params for each in others.values()),
        num_trained=found.num_trained + sum(each.num_trained for each in others.values()),
        parts=(
            *found.parts,
            *(
                replace(
                    part, name=f"{name}: {part.name}", knob=part.knob.replace("model.", f"policies.{name}.")
                )
                for name, each in others.items()
                for part in each.parts
                if part.name != _ACTIVATIONS  # policies learn one after the other
            ),
            python,
        ),
        checkpoint_bytes=found.checkpoint_bytes + sum(each.checkpoint_bytes for each in others.values()),
    )


def _of_other(recipe: Recipe, section: PolicySection) -> Footprint:
    """As if it were `main`."""
    source = find(Path(section.path))
    adapter = section.adapter or ("none" if is_own(source) else "lora")
    file = source / "adapter_config.json"
    base = read_json(file).get("base_model_name_or_path") if file.is_file() else source
    seen = {"path": str(base), "dtype": section.dtype, "adapter": adapter, "lora": section.lora}
    model = recipe.model.model_copy(update=seen)
    return _of_policy(recipe.model_copy(update={"model": model}), learns=section.learns)


def _of_policy(recipe: Recipe, *, learns: bool) -> Footprint:
    section, config = recipe.model, read_shape(recipe)
    width = 2 if section.path and section.dtype == "bfloat16" else _FLOAT
    is_adapter = bool(section.path) and section.adapter == "lora"
    total = num_params(config)
    lora = LoraConfig(**section.lora.model_dump()) if is_adapter else None
    trained = (total if lora is None else num_adapter(config, lora)) if learns else 0
    moments = _FLOAT * (2 * trained - (_num_muon(recipe, config) if learns and lora is None else 0))
    saved = trained * (width if lora is None else _FLOAT)
    learning = _learning(recipe, total * width, trained, moments, is_adapter=is_adapter) if learns else ()
    return Footprint(
        num_params=total + (0 if lora is None else trained),
        num_trained=trained,
        parts=(*learning, *_sampling(recipe, config, total * width, width)),
        checkpoint_bytes=2 * saved + moments,
        takes_turns=recipe.pipeline.mode != "decoupled",
    )


def _learning(
    recipe: Recipe, weights: int, trained: int, moments: int, *, is_adapter: bool
) -> tuple[Part, ...]:
    """In every process, or in the first where it learns alone. What processes of one machine have alike is
    there once, unless each changes it.
    """
    section = recipe.model
    num = 1 if recipe.pipeline.mode == "decoupled" else recipe.compute.ranks
    num_shared = 1 if recipe.compute.on == "local" and recipe.compute.device == "cpu" else num
    is_narrow = bool(section.path) and section.dtype == "bfloat16"
    activations = Part(
        name=_ACTIVATIONS,
        num_bytes=activation_bytes(read_shape(recipe), recipe, 2 if is_narrow else _FLOAT),
        knob="trainer.keep_activations=256, trainer.micro_tokens",
        num=num,
        when="learning",
    )
    smaller, wide = _smaller(recipe), trained * _FLOAT
    if is_adapter:
        knob = "model.lora.rank"
        return (
            Part(name="weights, to learn", num_bytes=weights, knob=smaller, num=num_shared),
            Part(name="adapter, its moments and gradients", num_bytes=moments + 2 * wide, knob=knob, num=num),
            activations,
        )
    knob = 'model.adapter="lora"' if section.path else "model.hidden_size"
    # bfloat16 weights that learn have a master copy
    masters = (Part(name="masters and moments", num_bytes=moments + wide, knob=knob, num=num_shared),)
    alone = (Part(name="moments", num_bytes=moments, knob=knob, num=num),)
    return (
        Part(name="weights, to learn", num_bytes=weights, knob=smaller, num=num),
        *(masters if is_narrow else alone),
        Part(name="gradients", num_bytes=wide, knob=knob, num=num),
        activations,
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
        Part(
            name="KV cache, about",
            num_bytes=round(cache * _LIVE),
            knob="compute.max_num_seqs, compute.context",
            num=num,
            when="sampling",
        ),
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
    """Of the longest path of shared prefixes with the micro-batch at its end: what waits for the backward
    pass, activations and gradients of the layer where that is, and scores of a chunk of tokens over the
    vocabulary.
    """
    trainer = recipe.trainer
    tokens = max(trainer.micro_tokens, recipe.compute.context)
    kept = tokens if trainer.kept_tokens is None else min(tokens, trainer.kept_tokens)
    scores = min(_LOGITS, tokens * config.vocab_size) * 3 * _FLOAT
    return waiting_bytes(config, tokens, kept, width) + 2 * tokens * _inside(config, width) + scores


def waiting_bytes(config: DecoderConfig, tokens: int, kept: int, width: int) -> int:
    """What a forward pass leaves for the backward pass if `kept` of its tokens keep their activations: of the
    others, what enters each layer; keys and values of all; and the last norm.
    """
    key = config.num_kv_heads * config.head_dim
    entering = width * config.hidden_size if kept < tokens else 0
    found = config.num_layers * (kept * _inside(config, width) + tokens * (entering + 2 * width * key))
    return found + tokens * (width + _FLOAT) * config.hidden_size


def _inside(config: DecoderConfig, width: int) -> int:
    """Of a token, in one layer; norms are in float32."""
    mixed = (config.num_heads + config.num_kv_heads) * config.head_dim
    elements = 2 * config.hidden_size + 2 * mixed + 3 * config.intermediate_size
    return width * elements + 2 * _FLOAT * config.hidden_size


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
