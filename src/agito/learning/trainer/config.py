"""Every knob of the trainer, each with its one default; importable without torch."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from agito.config import Section
from agito.learning.losses.config import DecoupledPPOConfig, LossConfig

Phase: TypeAlias = Literal["sft", "rl"]


class PhaseConfig(Section):
    """One phase of training: learning rates, and their linear warm-up and decay as fractions of the phase's
    steps.
    """

    lr: float = Field(
        default=1e-3, gt=0, description="Learning rate of Muon, which trains the hidden matrices."
    )
    adam_lr: float = Field(
        default=3e-4, gt=0, description="Learning rate of AdamW, which trains embeddings, head and norms."
    )
    warmup: float = Field(
        default=0.0, ge=0, le=1, description="Share of the phase in which rates rise from nothing."
    )
    decay: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the phase in which rates fall to `floor`; 1: from the end of the warm-up on.",
    )
    floor: float = Field(
        default=0.0, ge=0, le=1, description="Share of the rate that is left after the last step."
    )
    momentum: float = Field(default=0.95, ge=0, lt=1, description="Of Muon.")
    betas: tuple[float, float] = Field(default=(0.9, 0.95), description="Of AdamW.")
    weight_decay: float = Field(
        default=0.0, ge=0, description="Decoupled; of matrices and embeddings, never of norms."
    )
    grad_clip: float = Field(default=1.0, gt=0, description="Largest global norm of a gradient.")


class SftConfig(PhaseConfig):
    """Cold start: high rates, decayed to nothing."""

    lr: float = Field(
        default=1e-2, gt=0, description="Learning rate of Muon, which trains the hidden matrices."
    )
    adam_lr: float = Field(
        default=2e-2, gt=0, description="Learning rate of AdamW, which trains embeddings, head and norms."
    )
    warmup: float = Field(
        default=0.02, ge=0, le=1, description="Share of the phase in which rates rise from nothing."
    )
    decay: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of the phase in which rates fall to `floor`; 1: from the end of the warm-up on.",
    )


class RlConfig(PhaseConfig):
    """Reinforcement learning from a cold start of ours; weights that were trained by others want far smaller
    rates.
    """

    lr: float = Field(
        default=7e-3, gt=0, description="Learning rate of Muon, which trains the hidden matrices."
    )
    adam_lr: float = Field(
        default=5e-3, gt=0, description="Learning rate of AdamW, which trains embeddings, head and norms."
    )
    decay: float = Field(
        default=0.7,
        ge=0,
        le=1,
        description="Share of the phase in which rates fall to `floor`; 1: from the end of the warm-up on.",
    )
    floor: float = Field(
        default=0.1, ge=0, le=1, description="Share of the rate that is left after the last step."
    )


class TrainerConfig(Section):
    """Phases, loss, and how a batch is cut up."""

    sft: SftConfig = SftConfig()
    rl: RlConfig = RlConfig()
    loss: LossConfig = DecoupledPPOConfig()
    minibatches: int = Field(default=2, ge=1, description="Optimizer steps that one RL batch is cut into.")
    micro_tokens: int = Field(
        default=2048,
        ge=1,
        description="Tokens in one forward pass, unless one sample is longer; the default fits a CPU's "
        "cache.",
    )
    share_prefixes: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Compute what samples begin with in common once; auto: where that saves more than "
        "another pass costs.",
    )
    keep_activations: bool = Field(
        default=True,
        description="For the backward pass; false: each layer computes its own again, a third slower in a "
        "fraction of the memory.",
    )
    optimizer: Literal["auto", "adamw", "muon"] = Field(
        default="auto",
        description="Of hidden matrices; auto: AdamW for networks from 20 million parameters on, which are "
        "pre-trained.",
    )
    check_on_policy: bool = Field(
        default=True,
        description="Stop when sampler and trainer disagree at age 0 by more than the precision explains, "
        "which is a bug.",
    )
    muon_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="Of the Newton-Schulz iteration; auto: bfloat16 where it is fast."
    )
