"""Every option of the trainer with its one default; importable without torch."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from agito.config import Section
from agito.learning.losses.config import DecoupledPPOConfig, LossConfig

Phase: TypeAlias = Literal["sft", "rl"]


class PhaseConfig(Section):
    """One phase of training: learning rates, with linear warm-up and decay as fractions of the phase's
    steps."""

    lr: float = Field(default=1e-3, gt=0, description="Learning rate of Muon (hidden matrices).")
    adam_lr: float = Field(
        default=3e-4, gt=0, description="Learning rate of AdamW (embeddings, head, norms)."
    )
    warmup: float = Field(default=0.0, ge=0, le=1, description="Fraction of the phase for linear warm-up.")
    decay: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Fraction of the phase for linear decay to `floor`; 1: decay starts after the warm-up.",
    )
    floor: float = Field(
        default=0.0, ge=0, le=1, description="Fraction of the learning rate left after the last step."
    )
    momentum: float = Field(default=0.95, ge=0, lt=1, description="Of Muon.")
    betas: tuple[float, float] = Field(default=(0.9, 0.95), description="Of AdamW.")
    weight_decay: float = Field(
        default=0.0, ge=0, description="Decoupled weight decay of matrices and embeddings, never of norms."
    )
    grad_clip: float = Field(default=1.0, gt=0, description="Global gradient norm to clip at.")


class SftConfig(PhaseConfig):
    """Cold start (SFT): high learning rates, decayed to zero."""

    lr: float = Field(default=1e-2, gt=0, description="Learning rate of Muon (hidden matrices).")
    adam_lr: float = Field(
        default=2e-2, gt=0, description="Learning rate of AdamW (embeddings, head, norms)."
    )
    warmup: float = Field(default=0.02, ge=0, le=1, description="Fraction of the phase for linear warm-up.")
    decay: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Fraction of the phase for linear decay to `floor`; 1: decay starts after the warm-up.",
    )


class RlConfig(PhaseConfig):
    """RL after our own cold start. Pre-trained weights need far lower learning rates."""

    lr: float = Field(default=7e-3, gt=0, description="Learning rate of Muon (hidden matrices).")
    adam_lr: float = Field(
        default=5e-3, gt=0, description="Learning rate of AdamW (embeddings, head, norms)."
    )
    decay: float = Field(
        default=0.7,
        ge=0,
        le=1,
        description="Fraction of the phase for linear decay to `floor`; 1: decay starts after the warm-up.",
    )
    floor: float = Field(
        default=0.1, ge=0, le=1, description="Fraction of the learning rate left after the last step."
    )


class TrainerConfig(Section):
    """Phases, loss, and how a batch is split."""

    sft: SftConfig = SftConfig()
    rl: RlConfig = RlConfig()
    loss: LossConfig = DecoupledPPOConfig()
    minibatches: int = Field(default=2, ge=1, description="Optimizer steps per RL batch.")
    micro_tokens: int = Field(
        default=2048,
        ge=1,
        description="Tokens per forward pass, unless one sample is longer; the default fits a CPU's cache.",
    )
    share_prefixes: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Compute common prefixes of samples once; auto: where that saves more than another "
        "pass costs.",
    )
    keep_activations: bool | Annotated[int, Field(ge=1)] = Field(
        default=True,
        description="Keep activations for the backward pass. A number: those of at most so many tokens at a "
        "time, and compute the others again; false: all of them, up to half slower with far less memory. The "
        "gradient is the same, to the bit.",
    )
    optimizer: Literal["auto", "adamw", "muon"] = Field(
        default="auto",
        description="Optimizer of hidden matrices; auto: AdamW from 20 million parameters on (pre-trained "
        "networks), else Muon.",
    )
    check_on_policy: bool = Field(
        default=True,
        description="Stop when sampler and trainer disagree at age 0 by more than their precision "
        "explains, which is a bug.",
    )
    muon_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="Precision of the Newton-Schulz iteration; auto: bfloat16 where it is fast.",
    )

    @property
    def kept_tokens(self) -> int | None:
        """How many tokens have their activations kept at a time; None: all."""
        if isinstance(self.keep_activations, bool):
            return None if self.keep_activations else 0
        return self.keep_activations
