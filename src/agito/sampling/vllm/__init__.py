"""vLLM as a sampler: a server that Agito starts, monitors and replaces, with adapters under names that are
never reused."""

from agito.sampling.vllm.known_text import BOUNDS, Bounds, Difference, KnownLogprobs, WrongWeights
from agito.sampling.vllm.sampler import VllmSampler
from agito.sampling.vllm.server import VllmServer, serving
from agito.sampling.vllm.spec import AdapterSlots, VllmSpec, installed

__all__ = [
    "AdapterSlots",
    "BOUNDS",
    "Bounds",
    "Difference",
    "KnownLogprobs",
    "VllmSampler",
    "VllmServer",
    "VllmSpec",
    "WrongWeights",
    "installed",
    "serving",
]
