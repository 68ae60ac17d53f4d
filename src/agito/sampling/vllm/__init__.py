"""vLLM as a sampler: a server that Agito starts, watches and replaces, adapters under names that are never
used twice.
"""

from agito.sampling.vllm.known import BOUNDS, Bounds, Difference, KnownLogprobs, WrongWeights
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
