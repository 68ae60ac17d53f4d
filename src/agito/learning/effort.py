"""How much thinking a run asks for, by recipe."""

from __future__ import annotations

import random
from typing import Annotated, Self

from pydantic import Field, model_validator

from agito.config import Section
from agito.types import Effort, Thinking, Trajectory


class EffortSection(Section):
    """How much thinking is asked for: see [effort](howto/effort.md)."""

    settings: tuple[Effort, ...] = Field(
        default=(),
        description="Efforts that tasks are trained at, in turn: `none`, `low`, `medium`, `high`, `auto`. "
        "Empty: thinking is neither asked for nor limited.",
    )
    acts_at: Effort = Field(
        default=Effort.HIGH, description="What evaluations ask for where nothing is said."
    )
    turn_tokens: int | None = Field(
        default=None, ge=0, description="Hard budget of think tokens, per turn; left out: none."
    )
    attempt_tokens: int | None = Field(
        default=None, ge=0, description="Hard budget of think tokens, per attempt; left out: none."
    )

    call_cost: float = Field(default=1.0, ge=0, description="Of a call, in think tokens.")
    turn_cost: float = Field(default=0.5, ge=0, description="Of a turn, in think tokens.")

    shares: dict[Effort, Annotated[float, Field(gt=0, le=1)]] = Field(
        default_factory=dict[Effort, float],
        description="Of `high`'s mean cost in a cell, such as `low = 0.3`. An effort with a share gets a "
        "price, raised until it costs no more.",
    )
    free_steps: float = Field(
        default=0.5, ge=0, le=1, description="Part of the steps of RL in which nothing has a price."
    )
    price_step: float = Field(
        default=0.002,
        ge=0,
        description="How far a price moves in a step in which the cost is double the share.",
    )
    price_most: float = Field(default=0.02, ge=0, description="Highest price of a think token, in reward.")

    @model_validator(mode="after")
    def _settings_differ(self) -> Self:
        if len(set(self.settings)) < len(self.settings):
            raise ValueError(f"effort.settings={[*map(str, self.settings)]}: name each once")
        if self.shares and not {*self.shares, Effort.HIGH} <= {*self.settings}:
            raise ValueError("effort.shares: a share is of high's cost; settings must have both")
        return self

    @property
    def is_on(self) -> bool:
        return bool(self.settings)

    def thinking(self, effort: Effort) -> Thinking:
        """Within the recipe's budgets."""
        return Thinking(effort=effort, turn_tokens=self.turn_tokens, attempt_tokens=self.attempt_tokens)

    def cost(self, trajectory: Trajectory) -> float:
        """C = think tokens + call_cost · calls + turn_cost · turns."""
        turns = [turn for turn in trajectory.turns if not turn.continues]
        thought = sum(turn.num_thought for turn in turns)
        return thought + self.call_cost * len(trajectory.events) + self.turn_cost * len(turns)

    def in_turn(self, number: int, *, cell: int) -> Thinking | None:
        """Of a cell's task with this number: each effort once in as many tasks as there are efforts, in an
        order drawn anew. None where effort is not asked for."""
        if not self.is_on:
            return None
        block, at = divmod(number, len(self.settings))
        order = random.Random(f"effort/{cell}/{block}").sample(self.settings, len(self.settings))
        return self.thinking(order[at])

    @property
    def default(self) -> Effort | None:
        """Of evaluations, and wherever else somebody acts without learning."""
        return self.acts_at if self.is_on else None
