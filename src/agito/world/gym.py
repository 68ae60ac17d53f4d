"""A Gymnasium environment as a component: one tool, `act`; the episode ends when the environment says so, and how is kept apart.

A snapshot is the seed and the actions so far, and a fork plays them again: exact for whatever is deterministic given its seed, which
is checked. Needs the extra `gym`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import gymnasium
import numpy as np

from agito.errors import InvalidArguments, SandboxFailure
from agito.types import Call, Exactness, Json, ToolSpec
from agito.world.component import Answer, spec, text_of

ACT = spec("act", "Takes one action; returns what is seen then, and the reward.", ["action"])
TERMINATED, TRUNCATED = "terminated", "truncated"


@dataclass(slots=True)
class History:
    """What happened, as the grader reads it. `terminated`: the task came to its end. `truncated`: it was cut off."""

    seed: int
    actions: list[str] = field(default_factory=list[str])
    rewards: list[float] = field(default_factory=list[float])
    terminated: bool = False
    truncated: bool = False


class GymWorld:
    """Implements `Component`. `actions` names the actions of a discrete space; other spaces take JSON.

    Captured under the component's name: the `History` as JSON.
    """

    exactness = Exactness.EXACT
    tools: tuple[ToolSpec, ...] = (ACT,)

    def __init__(
        self,
        make: Callable[[], gymnasium.Env[Any, Any]],
        seed: int,
        *,
        actions: Sequence[str] = (),
        show: Callable[[Any], str] = lambda seen: json.dumps(plain(seen)),
        name: str = "gym",
    ) -> None:
        self.name, self._make, self._actions, self._show = name, make, tuple(actions), show
        self._env = make()
        self._seen, _ = self._env.reset(seed=seed)
        self.history = History(seed)

    @property
    def first_sight(self) -> str:
        """What is seen before the first action: for the task's prompt."""
        return self._show(self._seen)

    async def call(self, call: Call, *, timeout_s: float) -> Answer:
        said = text_of(call, "action").strip()
        action = self._read(said)
        self._seen, reward, terminated, truncated, _ = self._env.step(action)
        history = self.history
        history.actions.append(said)
        history.rewards.append(float(reward))
        history.terminated, history.truncated = bool(terminated), bool(truncated)
        how = TERMINATED if terminated else TRUNCATED if truncated else None
        return Answer(text=f"{self._show(self._seen)}\nreward {float(reward):g}", submitted=how)

    def _read(self, said: str) -> Any:
        """Raises `InvalidArguments`."""
        space = self._env.action_space
        known = f"one of {', '.join(self._actions)}" if self._actions else f"JSON for {space}"
        if said in self._actions:
            assert isinstance(space, gymnasium.spaces.Discrete)
            return int(space.start) + self._actions.index(said)
        try:
            action: Any = None if self._actions else json.loads(said)
        except (ValueError, RecursionError):
            action = None
        if isinstance(space, gymnasium.spaces.Box | gymnasium.spaces.MultiDiscrete | gymnasium.spaces.MultiBinary) and action is not None:
            try:
                action = np.asarray(action, dtype=cast("Any", space).dtype)
            except (ValueError, TypeError, OverflowError):
                action = None
        if action is None or isinstance(action, bool) or not space.contains(action):
            raise InvalidArguments(f"{said[:40]!r} is no action; say {known}")
        return action

    async def snapshot(self) -> object:
        return self.history.seed, tuple(self.history.actions), await self.digest()

    async def fork(self, token: object) -> GymWorld:
        """Raises `SandboxFailure` when the environment does not come to the same place again."""
        seed, actions, digest = cast("tuple[int, tuple[str, ...], str]", token)
        twin = GymWorld(self._make, seed, actions=self._actions, show=self._show, name=self.name)
        for action in actions:
            await twin.call(Call(tool="act", arguments={"action": action}), timeout_s=60.0)
        if await twin.digest() != digest:
            raise SandboxFailure(f"{self.name}: {twin._env} is not deterministic given its seed, so it cannot be forked")
        return twin

    async def digest(self) -> str:
        state = json.dumps([asdict(self.history), plain(self._seen)])
        return hashlib.blake2b(state.encode(), digest_size=16).hexdigest()

    async def capture(self) -> Mapping[str, bytes]:
        return {self.name: json.dumps(asdict(self.history)).encode()}

    async def close(self) -> None:
        self._env.close()


def plain(seen: Any) -> Json:
    """An observation as JSON."""
    if isinstance(seen, np.ndarray | np.generic):
        return cast("Json", seen.tolist())
    if isinstance(seen, Mapping):
        return {str(name): plain(value) for name, value in cast("Mapping[Any, Any]", seen).items()}
    if isinstance(seen, tuple | list):
        return [plain(value) for value in cast("Sequence[Any]", seen)]
    return seen if isinstance(seen, str | int | float | bool) or seen is None else str(seen)
