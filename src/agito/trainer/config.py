"""Every knob of the trainer, each with its one default; importable without torch."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from agito.config import Section
from agito.rl.config import DecoupledPPOConfig, LossConfig

Phase: TypeAlias = Literal["sft", "rl"]


class PhaseConfig(Section):
    """One phase of training: learning rates, and their linear warm-up and decay as fractions of the phase's steps."""

    lr: float = Field(default=1e-3, gt=0)  # Muon: hidden matrices
    adam_lr: float = Field(default=3e-4, gt=0)  # AdamW: embeddings, head, norms
    warmup: float = Field(default=0.0, ge=0, le=1)
    decay: float = Field(default=0.0, ge=0, le=1)  # 1: from the end of the warm-up on
    floor: float = Field(default=0.0, ge=0, le=1)  # of the rate, reached after the last step
    momentum: float = Field(default=0.95, ge=0, lt=1)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(default=0.0, ge=0)  # decoupled; matrices and embeddings, never norms
    grad_clip: float = Field(default=1.0, gt=0)  # global norm


class SftConfig(PhaseConfig):
    """Cold start: high rates, decayed to nothing."""

    lr: float = Field(default=1e-2, gt=0)
    adam_lr: float = Field(default=2e-2, gt=0)
    warmup: float = Field(default=0.02, ge=0, le=1)
    decay: float = Field(default=1.0, ge=0, le=1)


class RlConfig(PhaseConfig):
    """Reinforcement learning from a cold start of ours; weights that were trained by others want far smaller rates."""

    lr: float = Field(default=7e-3, gt=0)
    adam_lr: float = Field(default=5e-3, gt=0)
    decay: float = Field(default=0.7, ge=0, le=1)
    floor: float = Field(default=0.1, ge=0, le=1)


class TrainerConfig(Section):
    """Phases, loss, and how a batch is cut up."""

    sft: SftConfig = SftConfig()
    rl: RlConfig = RlConfig()
    loss: LossConfig = DecoupledPPOConfig()
    minibatches: int = Field(default=2, ge=1)  # optimizer steps per RL batch
    micro_tokens: int = Field(default=2048, ge=1)  # tokens in one forward pass, unless one sample is longer; fits a CPU's cache
    check_on_policy: bool = True  # at age 0, more |log w| than the precision explains is a bug: see agito.rl.agreement
    muon_dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of the Newton-Schulz iteration; auto: bfloat16 where it is fast
