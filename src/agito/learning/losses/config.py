"""Options of the policy losses, chosen by name in a recipe; importable without torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import Discriminator, Field, Tag, model_validator

from agito.config import Section

_DEFAULT = "decoupled_ppo"


class DecoupledPPOConfig(Section):
    """Clip bounds of rho (asymmetric, as in DAPO, arXiv:2503.14476), cap of w, and bound for negative
    advantages (dual clip)."""

    name: Literal["decoupled_ppo"] = Field(default="decoupled_ppo", description="Which loss.")
    clip_low: float = Field(default=0.8, gt=0, le=1, description="Lower clip bound of the ratio.")
    clip_high: float = Field(default=1.28, ge=1, description="Upper clip bound of the ratio.")
    w_max: float = Field(default=2.0, gt=0, description="Cap of the staleness weight w = pi_old / mu.")
    dual_clip: float = Field(
        default=3.0, gt=1, description="Largest ratio applied to a negative advantage (dual clip)."
    )
    sequence_rejection: tuple[float, float] | None = Field(
        default=None,
        description="Keep a sequence only if the geometric mean of its w is within [low, high].",
    )

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> DecoupledPPOConfig:
        if self.sequence_rejection and not 0 < self.sequence_rejection[0] <= 1 <= self.sequence_rejection[1]:
            raise ValueError(
                f"sequence_rejection={self.sequence_rejection}: write [low, high] with 0 < low <= 1 <= high"
            )
        return self


class CISPOConfig(Section):
    """Bounds of the importance weight pi/mu; the defaults are ScaleRL's (arXiv:2510.13786)."""

    name: Literal["cispo"] = Field(default="cispo", description="Which loss.")
    clip_low: float = Field(default=0.0, ge=0, le=1, description="Lower bound of the ratio.")
    clip_high: float = Field(default=5.0, ge=1, description="Upper bound of the ratio.")


class GSPOConfig(Section):
    """Bounds of the sequence ratio, which is a geometric mean and therefore very close to 1."""

    name: Literal["gspo"] = Field(default="gspo", description="Which loss.")
    clip_low: float = Field(default=1 - 3e-4, gt=0, le=1, description="Lower bound of the ratio.")
    clip_high: float = Field(default=1 + 4e-4, ge=1, description="Upper bound of the ratio.")


class DPPOConfig(Section):
    """Largest allowed change of a token's probability, and the cap of pi/mu."""

    name: Literal["dppo"] = Field(default="dppo", description="Which loss.")
    delta: float = Field(
        default=0.2, gt=0, lt=1, description="Largest allowed change of a token's probability."
    )
    ratio_max: float = Field(default=5.0, ge=1, description="Cap of the ratio.")


def _chosen(given: Any) -> str:
    """The loss that a table or config names; without a name, the default."""
    if isinstance(given, dict):
        return str(cast("dict[str, Any]", given).get("name", _DEFAULT))
    return str(getattr(given, "name", _DEFAULT))


LossConfig: TypeAlias = Annotated[
    Annotated[DecoupledPPOConfig, Tag("decoupled_ppo")]
    | Annotated[CISPOConfig, Tag("cispo")]
    | Annotated[GSPOConfig, Tag("gspo")]
    | Annotated[DPPOConfig, Tag("dppo")],
    Discriminator(
        _chosen,
        custom_error_type="unknown_loss",
        custom_error_message="name: there is decoupled_ppo, cispo, gspo and dppo",
    ),
]
