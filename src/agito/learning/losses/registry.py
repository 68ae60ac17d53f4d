"""Policy losses by the name that a recipe gives; one file each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from agito.learning.losses.cispo import cispo
from agito.learning.losses.config import LossConfig
from agito.learning.losses.decoupled_ppo import decoupled_ppo
from agito.learning.losses.dppo import dppo
from agito.learning.losses.gspo import gspo
from agito.learning.losses.meters import PolicyMeters, PolicyTokens


class PolicyLoss(Protocol):
    """Returns the loss to minimise, its meters, and the largest w."""

    def __call__(
        self, tokens: PolicyTokens, *, num_tokens: float, config: LossConfig
    ) -> tuple[Tensor, PolicyMeters, float]: ...


LOSSES: Mapping[str, PolicyLoss] = {
    "decoupled_ppo": decoupled_ppo,
    "cispo": cispo,
    "gspo": gspo,
    "dppo": dppo,
}
