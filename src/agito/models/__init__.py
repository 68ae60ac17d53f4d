"""The decoder, its checkpoints in the Hugging Face layout, and the manifest of published weights.

Names load lazily, so a network's shape can be read (`agito.models.config`) without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agito.models.cached import CachedDecoder, CachedQwen3
    from agito.models.checkpoint import load, load_into, load_weights, save
    from agito.models.config import DecoderConfig, LoraConfig, Qwen3Config, RopeScaling, UnsupportedCheckpoint
    from agito.models.families import read_config
    from agito.models.lora import adapt, load_adapter, merged_weights, save_adapter
    from agito.models.manifest import MANIFEST_NAME, Manifest, WeightKind, tensor_hashes
    from agito.models.native import NativeDecoder, NativeQwen3, is_supported
    from agito.models.network import Decoder, Qwen3, num_params

_HOME = {
    "MANIFEST_NAME": "manifest",
    "CachedDecoder": "cached",
    "CachedQwen3": "cached",
    "Decoder": "network",
    "DecoderConfig": "config",
    "LoraConfig": "config",
    "Manifest": "manifest",
    "NativeDecoder": "native",
    "NativeQwen3": "native",
    "Qwen3": "network",
    "Qwen3Config": "config",
    "RopeScaling": "config",
    "UnsupportedCheckpoint": "config",
    "WeightKind": "manifest",
    "adapt": "lora",
    "is_supported": "native",
    "load": "checkpoint",
    "load_adapter": "lora",
    "load_into": "checkpoint",
    "load_weights": "checkpoint",
    "merged_weights": "lora",
    "num_params": "network",
    "read_config": "families",
    "save": "checkpoint",
    "save_adapter": "lora",
    "tensor_hashes": "manifest",
}

__all__ = [
    "MANIFEST_NAME",
    "CachedDecoder",
    "CachedQwen3",
    "Decoder",
    "DecoderConfig",
    "LoraConfig",
    "Manifest",
    "NativeDecoder",
    "NativeQwen3",
    "Qwen3",
    "Qwen3Config",
    "RopeScaling",
    "UnsupportedCheckpoint",
    "WeightKind",
    "adapt",
    "is_supported",
    "load",
    "load_adapter",
    "load_into",
    "load_weights",
    "merged_weights",
    "num_params",
    "read_config",
    "save",
    "save_adapter",
    "tensor_hashes",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
