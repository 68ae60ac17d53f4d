"""Where a sampler in another process finds the weights of its policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedMemory:
    """Of this machine, for as long as its learner's process lives or somebody has it open."""

    path: str
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OverNetwork:
    """At the learner's machine, for as long as its process lives. Whoever knows `secret` is served."""

    host: str
    port: int
    secret: bytes = field(repr=False)
    num_bytes: int  # of one version


WeightAddress: TypeAlias = SharedMemory | OverNetwork
