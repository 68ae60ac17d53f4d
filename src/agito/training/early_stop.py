"""When imitation has taught what it can: the loss on demonstrations that were never shown no longer falls.

In the first epoch every demonstration is new when its loss is measured, so nothing has to be held back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from agito.protocols import StepStats

_LEAST_FALL = 0.1  # of the loss from one window to the next
_TAIL = 0.1  # of the steps so far, in which the learning rate decays to its floor


class EarlyStop:
    """`window`: steps compared with as many before; 0 never ends anything. `planned`: steps without it."""

    def __init__(self, window: int, planned: int) -> None:
        self.total = planned  # steps, as known so far
        self.reason = ""  # why it ends early
        self._window, self._planned = window, planned
        self._losses: list[tuple[float, float]] = []  # summed over tokens, and tokens

    def add(self, stats: Iterable[StepStats]) -> bool:
        """The first epoch's next steps. Whether they are what ends the phase early, after `total` steps."""
        for each in stats:
            tokens = each.values["sft/tokens"]
            self._losses.append((each.values["sft/loss_nats"] * tokens, tokens))
        done = len(self._losses)
        if self.reason or not self._window or done < 2 * self._window:
            return False
        before, last = (self._mean(done - back * self._window) for back in (2, 1))
        if last <= (1 - _LEAST_FALL) * before:
            return False
        self.total = min(done + math.ceil(_TAIL * done), self._planned)
        self.reason = (
            f"imitation ends after {self.total} of {self._planned} steps: the loss on new demonstrations, "
            f"{last:.3g} nats a token in the last {self._window} steps, was {before:.3g} in as many before"
        )
        return self.total < self._planned

    def _mean(self, first: int) -> float:
        part = self._losses[first : first + self._window]
        return sum(loss for loss, _ in part) / max(sum(tokens for _, tokens in part), 1.0)
