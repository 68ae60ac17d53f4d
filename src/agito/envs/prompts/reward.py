"""Somebody's reward function: what it may ask for, how it is called, and what it may say.

It is environment code: what it raises, or says that is no reward, is its own fault unless the completion
brought it about.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import anyio

from agito.config import meant
from agito.errors import BadEnvironment
from agito.worlds.threads import DeadlinePassed, in_thread

ANSWERS = ("answer", "solution", "ground_truth", "target", "label", "reference", "expected")
OFFERED = ("completion", "prompt", "messages")  # beside the columns
DEADLINE_S = 90.0
_BATCHED = {"completions": "completion", "prompts": "prompt"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`scores` has a part for every component that was named."""

    reward: float
    scores: Mapping[str, float]


class BadReward(ValueError):
    """A reward function has returned what is no reward."""


class RewardFunction:
    """`function.weights` are those of its components, `function.range` the lowest and the highest reward; by
    default 1 each, and 0 to 1.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        """Raises `BadEnvironment` for what cannot be called by names."""
        self._function, self.name = function, name
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError) as error:
            raise BadEnvironment(f"reward {name}: its parameters cannot be seen: {error}") from error
        self.takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters)
        named = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        if any(each.kind is each.POSITIONAL_ONLY for each in parameters):
            raise BadEnvironment(
                f"reward {name}: it is called by names, so none of its parameters may be positional only"
            )
        self.asks = tuple(each.name for each in named)
        self.needs = tuple(each.name for each in named if each.default is each.empty)
        for batched, single in _BATCHED.items():
            if batched in self.needs:
                raise BadEnvironment(
                    f"reward {name}: it asks for `{batched}`; it is called for one completion at a time: "
                    f"ask for `{single}`"
                )
        self.weights: Mapping[str, float] = {
            str(key): float(value) for key, value in dict(getattr(function, "weights", {})).items()
        }
        if any(not (math.isfinite(weight) and weight >= 0) for weight in self.weights.values()):
            raise BadEnvironment(f"reward {name}: weights={dict(self.weights)}: finite numbers from 0 on")
        low, high = getattr(function, "range", (0.0, 1.0))
        self.range = (float(low), float(high))
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise BadEnvironment(f"reward {name}: range={self.range}: write (lowest, highest)")

    def require(self, columns: tuple[str, ...]) -> None:
        """Raises `BadEnvironment` for a parameter that there is nothing for, and where none shows what was
        said.
        """
        known = (*OFFERED, *columns)
        if not self.takes_all and not {"completion", "messages"} & set(self.asks):
            raise BadEnvironment(
                f"reward {self.name}: it asks for neither `completion` nor `messages`, so it is the same "
                "whatever the model says, and nothing can be learned from it"
            )
        for each in self.needs:
            if each not in known:
                answer = next((name for name in ANSWERS if name in columns), "") if each in ANSWERS else ""
                asks = ", ".join(known)
                hint = f"; did you mean {answer}?" if answer else meant(each, columns) or meant(each, known)
                raise BadEnvironment(
                    f"reward {self.name}: there is no column `{each}`; it may ask for {asks}{hint}"
                )

    async def __call__(self, offered: Mapping[str, Any]) -> Outcome:
        """Each call has copies of its own. Raises `BadReward`, `TimeoutError`, and what the function
        raises.
        """
        given = copy.deepcopy(
            dict(offered)
            if self.takes_all
            else {name: offered[name] for name in self.asks if name in offered}
        )
        if inspect.iscoroutinefunction(self._function):
            with anyio.fail_after(DEADLINE_S):
                return self._read(await self._function(**given))
        try:
            returned = await in_thread(partial(self._function, **given), timeout_s=DEADLINE_S)
        except DeadlinePassed:
            raise TimeoutError(f"reward {self.name} has not returned within {DEADLINE_S:g} s") from None
        if inspect.isawaitable(returned):
            with anyio.fail_after(DEADLINE_S):
                returned = await returned
        return self._read(returned)

    def _read(self, returned: Any) -> Outcome:
        if not isinstance(returned, Mapping):
            reward = self._number("the reward", returned)
            return Outcome(reward=self._within(reward), scores={"success": float(reward >= self.range[1])})
        parts = {
            str(key): self._number(f"`{key}`", value)
            for key, value in cast("Mapping[Any, Any]", returned).items()
        }
        counted = {key: self.weights.get(key, 1.0) for key in parts if key != "success"}
        if "reward" in parts:
            reward = parts["reward"]
        elif total := sum(counted.values()):
            reward = sum(weight * parts[key] for key, weight in counted.items()) / total
        else:
            raise BadReward(
                f"reward {self.name} returned {parts}: no component has a weight above 0, and none is "
                "called `reward`"
            )
        success = parts.get("success", float(reward >= self.range[1]))
        return Outcome(
            reward=self._within(reward),
            scores={key: parts[key] for key in counted if key != "reward"} | {"success": success},
        )

    def _number(self, what: str, value: Any) -> float:
        if hasattr(value, "item") and not isinstance(value, bool | int | float):
            value = value.item()  # of numpy, of torch
        if not isinstance(value, bool | int | float):
            raise BadReward(
                f"reward {self.name}: {what} is {value!r:.80}: return a number, a bool, or a mapping of "
                "names to them"
            )
        if not math.isfinite(value):
            raise BadReward(f"reward {self.name}: {what} is {value}: return a finite number")
        return float(value)

    def _within(self, reward: float) -> float:
        low, high = self.range
        if not low - 1e-9 <= reward <= high + 1e-9:
            raise BadReward(
                f"reward {self.name} returned {reward:g}, outside {low:g} to {high:g}: say reward.range = "
                "(lowest, highest)"
            )
        return min(max(reward, low), high)
