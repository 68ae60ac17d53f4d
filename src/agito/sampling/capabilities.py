"""What a kind of sampler supports, and therefore what its drivers may promise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerCapabilities:
    """`keyed_determinism`: the same exchanges give the same bits. `in_flight_update`: new weights reach
    running requests. `adapters`: several policies, each an adapter, share one set of weights."""

    keyed_determinism: bool
    in_flight_update: bool
    adapters: bool


EMBEDDED = SamplerCapabilities(keyed_determinism=True, in_flight_update=True, adapters=False)
