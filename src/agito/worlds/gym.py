"""A Gymnasium environment as a component with one tool, `act`. The episode ends when the environment says so;
terminated and truncated are told apart.

A snapshot is the seed and the actions so far; a fork replays them, which is exact if the environment is
deterministic given its seed. This is checked. Needs the extra `gym`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import gymnasium
import numpy as np
from anyio import get_cancelled_exc_class

from agito.errors import InvalidArguments, SandboxFailure
from agito.types import Call, Exactness, Fault, Json, ToolSpec
from agito.worlds.component import Answer, overran, spec, text_of
from agito.worlds.gym_actions import NoAction, cast_to, check, described
from agito.worlds.threads import DeadlinePassed, WorkerThread

ACT = spec("act", "Takes one action; returns what is seen then, and the reward.", ["action"])
TERMINATED, TRUNCATED = "terminated", "truncated"
_REPLAYED_S = 60.0  # per replayed step of a fork
_CLOSE_S = 5.0


@dataclass(slots=True)
class History:
    """The record that the grader reads. `terminated`: the task ended. `truncated`: it was cut off."""

    seed: int
    actions: list[str] = field(default_factory=list[str])
    rewards: list[float] = field(default_factory=list[float])
    terminated: bool = False
    truncated: bool = False


class GymWorld:
    """Implements `Component`. `actions` names all actions of a discrete space; other spaces take JSON.

    A dedicated thread makes, steps and closes the environment. A step that times out leaves an unknown state,
    so the component then answers that it is gone. Captured under the component's name: the `History` as JSON.

    Raises `ValueError` for `actions` that do not fit the space, and for spaces whose actions JSON cannot
    express.
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
        self.history = History(seed)
        self._end = ""  # why it takes no more actions
        self._is_closed = False
        self._thread = WorkerThread()
        try:
            self._env, self._seen = self._thread.wait(lambda: _begun(make, seed, self._actions))
        except BaseException:
            self._thread.close()
            raise

    @property
    def first_sight(self) -> str:
        """The first observation, for the task's prompt."""
        return self._show(self._seen)

    async def call(self, call: Call, *, timeout_s: float) -> Answer:
        said = text_of(call, "action").strip()
        action = self._read(said)
        if self._end:
            return Answer(text=f"error: {self._end}", fault=Fault.TOOL)
        began = time.monotonic()
        try:
            text, reward, terminated, truncated = await self._thread.run(
                lambda: self._step(action), timeout_s=timeout_s
            )
        except DeadlinePassed:
            self._end = f"{self.name} is gone: it did not end a step in time"
            return overran(began)
        except get_cancelled_exc_class():
            self._end = f"{self.name} is gone: a step of it was cut off"
            raise
        history = self.history
        history.actions.append(said)
        history.rewards.append(reward)
        history.terminated, history.truncated = terminated, truncated
        how = TERMINATED if terminated else TRUNCATED if truncated else None
        return Answer(text=f"{text}\nreward {reward:g}", submitted=how)

    def _step(self, action: Any) -> tuple[str, float, bool, bool]:
        self._seen, reward, terminated, truncated, _ = self._env.step(action)
        return self._show(self._seen), float(reward), bool(terminated), bool(truncated)

    def _read(self, said: str) -> Any:
        """Raises `InvalidArguments`."""
        space = self._env.action_space
        if said in self._actions:
            return int(cast("gymnasium.spaces.Discrete", space).start) + self._actions.index(said)
        try:
            if self._actions:
                raise NoAction("no name of one")
            return cast_to(space, json.loads(said))
        except (ValueError, RecursionError):
            raise InvalidArguments(
                f"{said[:40]!r} is no action; say {described(space, self._actions)}"
            ) from None

    async def snapshot(self) -> object:
        return self.history.seed, tuple(self.history.actions), self._end, await self.digest()

    async def fork(self, token: object) -> GymWorld:
        """Raises `SandboxFailure` if the replay does not reach the same state."""
        seed, actions, end, digest = cast("tuple[int, tuple[str, ...], str, str]", token)
        child = GymWorld(self._make, seed, actions=self._actions, show=self._show, name=self.name)
        for action in actions:
            await child.call(Call(tool="act", arguments={"action": action}), timeout_s=_REPLAYED_S)
        child._end = child._end or end
        if await child.digest() != digest:
            await child.close()
            raise SandboxFailure(
                f"{self.name}: {child._env} is not deterministic given its seed, so it cannot be forked"
            )
        return child

    async def digest(self) -> str:
        state = json.dumps([asdict(self.history), self._end, plain(self._seen)])
        return hashlib.blake2b(state.encode(), digest_size=16).hexdigest()

    async def capture(self) -> Mapping[str, bytes]:
        return {self.name: json.dumps(asdict(self.history)).encode()}

    async def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            with suppress(Exception):
                await self._thread.run(self._env.close, timeout_s=_CLOSE_S)
            self._thread.close()


def _begun(
    make: Callable[[], gymnasium.Env[Any, Any]], seed: int, actions: Sequence[str]
) -> tuple[gymnasium.Env[Any, Any], Any]:
    env = make()
    try:
        check(env.action_space, actions)
        return env, env.reset(seed=seed)[0]
    except BaseException:
        env.close()
        raise


def plain(seen: Any) -> Json:
    """An observation as JSON."""
    if isinstance(seen, np.ndarray | np.generic):
        return cast("Json", seen.tolist())
    if isinstance(seen, Mapping):
        return {str(name): plain(value) for name, value in cast("Mapping[Any, Any]", seen).items()}
    if isinstance(seen, tuple | list):
        return [plain(value) for value in cast("Sequence[Any]", seen)]
    return seen if isinstance(seen, str | int | float | bool) or seen is None else str(seen)
