"""The policy network, its checkpoints in the Hugging Face layout, and the manifest of published weights."""

from agito.models.cached import CachedQwen3
from agito.models.checkpoint import UnsupportedCheckpoint, load, load_weights, read_config, save
from agito.models.manifest import MANIFEST_NAME, Manifest, WeightKind, tensor_hashes
from agito.models.native import NativeQwen3, is_supported
from agito.models.network import Qwen3, Qwen3Config, num_params

__all__ = [
    "MANIFEST_NAME",
    "CachedQwen3",
    "Manifest",
    "NativeQwen3",
    "Qwen3",
    "Qwen3Config",
    "UnsupportedCheckpoint",
    "WeightKind",
    "is_supported",
    "load",
    "load_weights",
    "num_params",
    "read_config",
    "save",
    "tensor_hashes",
]
