"""Where a sampler in another process finds the weights of its policy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedMemory:
    """Of this machine, for as long as its learner's process lives or somebody has it open."""

    path: str
    num_bytes: int
