"""What a recipe says of a vLLM server."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agito.config import Section


class VllmSection(Section):
    """The vLLM server that samples `main` where `compute.sampler` says so."""

    publish: Literal["adapter", "weights"] = Field(
        default="adapter",
        description="What the server is given of a policy with an adapter: that, or all weights with it "
        "added, from which a CPU samples several times faster.",
    )
    threads: int | None = Field(default=None, ge=1, description="Of a CPU; by default vLLM chooses.")
    kv_cache_gb: int = Field(default=1, ge=1, description="On a CPU.")
    options: tuple[str, ...] = Field(default=(), description="Further ones of `vllm serve`.")
