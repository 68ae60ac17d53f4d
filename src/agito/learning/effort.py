"""How much thinking a run asks for, by recipe."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Annotated, Self

from pydantic import Field, model_validator

from agito.config import Section
from agito.learning.leaks import of_turns
from agito.types import Effort, Mode, Thinking, ThinkingTurns, Trajectory


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

    turns: ThinkingTurns = Field(
        default=ThinkingTurns.EVERY,
        description="Turns in which a policy may think: `every` one, the `first`, or `after_faults`: the "
        "first and those after a call that failed. In the others its block is closed at once.",
    )

    call_cost: float = Field(default=1.0, ge=0, description="Of a call, in think tokens.")
    turn_cost: float = Field(default=0.5, ge=0, description="Of a turn, in think tokens.")
    speech_tokens: int = Field(
        default=0,
        ge=0,
        description="Tokens of a turn outside think blocks and calls that are free, such as a sentence "
        "before a call; in the natural dialect 16. What goes beyond costs what thinking costs.",
    )
    action_tokens: int | None = Field(
        default=None,
        ge=0,
        description="Tokens outside think blocks that are free in a turn, calls included; what goes beyond "
        "costs what thinking costs. Left out: whatever calls need.",
    )

    utility_price: float = Field(
        default=0.002,
        ge=0,
        description="Of a think token, in reward: utility is reported as reward less this · cost, whatever "
        "prices a run learns.",
    )

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
    tries_modes: bool = Field(
        default=True,
        description="At `auto`, half of a group's attempts act at once and half think first, whatever the "
        "policy prefers. Off: as it chooses.",
    )
    mode_weight: float = Field(
        default=1.0, ge=0, description="Of the choice between acting and thinking, over that of other tokens."
    )
    mode_least: float = Field(
        default=0.1,
        ge=0,
        lt=0.5,
        description="Probability below which a mode that turns out better is learned as if it had this one, "
        "so that it can come back.",
    )

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
        return Thinking(
            effort=effort,
            turn_tokens=self.turn_tokens,
            attempt_tokens=self.attempt_tokens,
            turns=self.turns,
        )

    def cost(self, trajectory: Trajectory) -> float:
        """C = think tokens, leaked ones too, + call_cost · calls + turn_cost · turns."""
        turns = [turn for turn in trajectory.turns if not turn.continues]
        thought = sum(turn.num_thought for turn in turns)
        thought += sum(of_turns(trajectory, free=self.speech_tokens, action=self.action_tokens))
        return thought + self.call_cost * len(trajectory.events) + self.turn_cost * len(turns)

    def in_turn(self, number: int, *, cell: int) -> Thinking | None:
        """Of a cell's task with this number: each effort once in as many tasks as there are efforts, in an
        order drawn anew. None where effort is not asked for."""
        if not self.is_on:
            return None
        block, at = divmod(number, len(self.settings))
        order = random.Random(f"effort/{cell}/{block}").sample(self.settings, len(self.settings))
        return self.thinking(order[at])

    def in_slot(self, thinking: Thinking | None, slot: int) -> Thinking | None:
        """Of an attempt that is learned from: at `auto` every other one acts at once."""
        if thinking is None or thinking.effort is not Effort.AUTO or not self.tries_modes:
            return thinking
        return replace(thinking, mode=(Mode.ACT, Mode.THINK)[slot % 2])

    @property
    def default(self) -> Effort | None:
        """Of evaluations, and wherever else somebody acts without learning."""
        return self.acts_at if self.is_on else None
