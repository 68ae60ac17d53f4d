"""How much thinking is asked of a policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from agito.types.enums import Effort, Mode, ThinkingTurns
from agito.types.task import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """An effort, and hard budgets in think tokens: sampled tokens within a think block, tags not counted.

    The effort is asked for, and a policy may miss it; a budget is enforced, and nobody exceeds it.
    """

    effort: Effort
    turn_tokens: int | None = None  # None: no budget
    attempt_tokens: int | None = None
    turns: ThinkingTurns = ThinkingTurns.EVERY
    mode: Mode | None = None  # of an attempt at `auto` whose choice is made for it, so that both are tried

    def __post_init__(self) -> None:
        for name, budget in (("turn_tokens", self.turn_tokens), ("attempt_tokens", self.attempt_tokens)):
            if budget is not None and budget < 0:
                raise ValueError(f"{name}={budget}: a budget is 0 or more tokens")

    def left(self, *, in_turn: int, in_attempt: int) -> int | None:
        """Think tokens that may still be sampled after so many in this turn and in the attempt, this turn's
        included. None: as many as there is room for."""
        if self.effort is Effort.NONE:
            return 0
        budgets = [
            budget - spent
            for budget, spent in ((self.turn_tokens, in_turn), (self.attempt_tokens, in_attempt))
            if budget is not None
        ]
        return max(min(budgets), 0) if budgets else None

    def after(self, events: Sequence[Event] | None) -> Thinking:
        """Of the turn that follows what came of the last one; None: of the first turn."""
        if self.turns is ThinkingTurns.EVERY or events is None:
            return self
        if self.turns is ThinkingTurns.AFTER_FAULTS and any(event.fault is not None for event in events):
            return self
        return replace(self, turn_tokens=0)
