"""Where a sampler in another process finds the weights of its policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedMemory:
    """Shared memory of this machine; exists while its learner's process lives or anybody has it open."""

    path: str
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OverNetwork:
    """A server on the learner's machine, alive as long as its process. It serves whoever knows `secret`."""

    host: str
    port: int
    secret: bytes = field(repr=False)
    num_bytes: int  # of one version


WeightAddress: TypeAlias = SharedMemory | OverNetwork
