"""A policy's network in a worker: read from a folder or drawn from a seed, with or without an adapter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from agito.models import Decoder, adapt, load, load_adapter
from agito.models.config import LoraConfig
from agito.models.lora import ADAPTER_CONFIG, adapter_base, read_adapter_config
from agito.runtime.wire import ModelSpec


def open_model(spec: ModelSpec, device: str) -> Decoder:
    """Also loads the base model of a folder that holds an adapter. Raises `NotFound`, `CorruptCheckpoint`,
    `UnsupportedCheckpoint`."""
    if not isinstance(spec.source, Path):
        return Decoder(spec.source, seed=spec.seed, device=device)
    has_adapter = (spec.source / ADAPTER_CONFIG).is_file()
    base = adapter_base(spec.source) if has_adapter else spec.source
    model = load(base, device=device, dtype=torch.float32 if spec.dtype == "float32" else torch.bfloat16)
    if has_adapter:
        load_adapter(model, spec.source)
    elif spec.lora is not None:
        adapt(model, spec.lora, seed=spec.seed)
    return model


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """The trained and saved adapter of a model that stays unchanged in the folder `base`."""

    config: LoraConfig
    base: Path


def adapter_of(spec: ModelSpec) -> Adapter | None:
    """The trained adapter, if any: that of the folder if it holds one, otherwise a new one. Raises as
    `open_model`."""
    source = spec.source
    if not isinstance(source, Path):
        return None
    if (source / ADAPTER_CONFIG).is_file():
        return Adapter(config=read_adapter_config(source), base=adapter_base(source))
    return Adapter(config=spec.lora, base=source) if spec.lora is not None else None


def learning(model: Decoder) -> Iterator[tuple[str, Tensor]]:
    """The trained parameters by name: all of them, or an adapter's."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def frozen(model: Decoder) -> Iterator[Tensor]:
    """The parameters in main memory that stay as they are, in the same order in every process."""
    parameters = (parameter for _, parameter in model.named_parameters() if not parameter.requires_grad)
    return (parameter for parameter in parameters if parameter.device.type == "cpu")
