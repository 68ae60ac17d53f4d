"""What a world is made of: components that offer tools, and the weather in which they work."""

from __future__ import annotations

import copy
import hashlib
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

from agito.errors import InvalidArguments, Uncapturable
from agito.protocols import Result, Sandbox
from agito.types import Call, Exactness, Fault, ToolSpec
from agito.worlds.aside import Overdue, aside

_P99 = NormalDist().inv_cdf(0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a component says to one call. `submitted` ends the episode with that value."""

    text: str
    exit_code: int | None = None
    fault: Fault | None = None
    submitted: str | None = None
    truncated_bytes: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0


class Component(Protocol):
    """One part of a world. A failing tool is an `Answer` with a fault; only broken machinery raises
    (`SandboxFailure`).
    """

    @property
    def name(self) -> str:
        """Unique within a world."""
        ...

    @property
    def tools(self) -> tuple[ToolSpec, ...]: ...
    @property
    def exactness(self) -> Exactness:
        """What a snapshot of it holds."""
        ...

    async def call(self, call: Call, *, timeout_s: float) -> Answer:
        """`call.tool` is one of `tools`; its arguments are whatever the policy wrote, so they are checked
        here.

        It never holds up the event loop. A call that runs out of `timeout_s` is answered with `overran`; the
        component then goes on as it was, or says with every later call that it is gone.
        """
        ...

    async def snapshot(self) -> object:
        """Freezes, copies and thaws; the token is handed to `fork`, any number of times."""
        ...

    async def fork(self, token: object) -> Component: ...
    async def digest(self) -> str:
        """Equal states, equal digests."""
        ...

    async def capture(self) -> Mapping[str, bytes]:
        """Kills what runs, then says what the grader may read, by path. Called once; only `digest` and
        `close` follow.

        Nothing where the policy left what cannot be captured whole: it has no artefacts then, and is judged
        by that.
        """
        ...

    async def close(self) -> None:
        """Idempotent; never raises."""
        ...


class Machine:
    """A component in memory: a subclass sets `name` and `tools`, keeps everything that changes in `state`,
    and writes `step`.

    `state` must be deep-copyable with a canonical `repr`: dataclasses, lists, dicts filled in one order; no
    sets. A step is made on a copy, beside the event loop: one that raises, or runs out of time, has changed
    nothing.
    """

    name: str
    tools: tuple[ToolSpec, ...]
    exactness = Exactness.EXACT
    # a step takes microseconds, whatever it is asked, and then changes `state`: it is made on the loop,
    # without a copy
    is_quick = False

    def __init__(self, state: object) -> None:
        self.state = state

    def step(self, call: Call) -> Answer:
        raise NotImplementedError

    async def call(self, call: Call, *, timeout_s: float) -> Answer:
        if self.is_quick:
            return self.step(call)
        began, twin = time.monotonic(), copy.copy(self)
        twin.state = copy.deepcopy(self.state)
        try:
            answer = await aside(lambda: twin.step(call), timeout_s=timeout_s)
        except Overdue:
            return overran(began)
        self.__dict__.update(twin.__dict__)
        return answer

    async def snapshot(self) -> object:
        return copy.deepcopy(self.state)

    async def fork(self, token: object) -> Component:
        twin = copy.copy(self)
        twin.state = copy.deepcopy(token)
        return twin

    async def digest(self) -> str:
        return hashlib.blake2b(repr(self.state).encode(), digest_size=16).hexdigest()

    async def capture(self) -> Mapping[str, bytes]:
        """The state as text, in a file of the component's name."""
        return {self.name: repr(self.state).encode()}

    async def close(self) -> None:
        return


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultProfile:
    """What may befall the calls of one tool. Chances in [0, 1], delays in seconds; a fault never comes twice
    in a row.
    """

    timeout: float = 0.0  # not carried out, answered `timeout`
    error: float = 0.0  # not carried out, answered `error: ...`
    lost: float = 0.0  # carried out, answered `timeout`: who asks again must be ready to find it done
    delay_s: float = 0.0  # median of a lognormal distribution; really waited
    delay_p99_s: float = 0.0  # at least the median
    says: str = "error: temporarily unavailable"

    def __post_init__(self) -> None:
        chances = (self.timeout, self.error, self.lost)
        if min(chances) < 0 or sum(chances) > 1:
            raise ValueError(
                f"timeout={self.timeout} error={self.error} lost={self.lost}: chances, together at most 1"
            )
        if self.delay_s < 0:
            raise ValueError(f"delay_s={self.delay_s}: at least 0")

    def draw(self, rng: random.Random) -> tuple[str | None, float]:
        """(`timeout`, `error`, `lost` or None, seconds to wait)."""
        at, fault = rng.random(), None
        for name, chance in (("timeout", self.timeout), ("error", self.error), ("lost", self.lost)):
            if at < chance:
                fault = name
                break
            at -= chance
        if not self.delay_s:
            return fault, 0.0
        spread = math.log(max(self.delay_p99_s / self.delay_s, 1.0)) / _P99
        return fault, self.delay_s * math.exp(spread * rng.gauss(0.0, 1.0))


CALM = FaultProfile()


def text_of(call: Call, name: str) -> str:
    """The string argument `name`. Raises `InvalidArguments` when it is missing, no string, or no Unicode
    text.
    """
    value = call.arguments.get(name)
    if not isinstance(value, str):
        raise InvalidArguments(f"{call.tool} needs a string `{name}`")
    if not value.isascii() and any("\ud800" <= each <= "\udfff" for each in value):
        raise InvalidArguments(f"{call.tool}: `{name}` holds half a character (a lone surrogate)")
    return value


async def captured(sandbox: Sandbox, *, limit_bytes: int = 1 << 22) -> Mapping[str, bytes]:
    """The files of `sandbox`; nothing where the policy left what cannot be captured whole."""
    try:
        return await sandbox.files(limit_bytes=limit_bytes)
    except Uncapturable:
        return {}


def wrong(problem: object) -> Answer:
    """The policy's own mistake, in words that it can act on."""
    return Answer(text=f"error: {problem}", fault=Fault.POLICY)


def overran(began: float) -> Answer:
    """To a call that ran out of its time. `began` is by `time.monotonic`."""
    return Answer(text="timeout", fault=Fault.TIMEOUT, wall_s=time.monotonic() - began)


def of_sandbox(result: Result) -> Answer:
    """What an action in a sandbox printed; the last line says `timeout`, or what killed it."""
    text = result.output.decode("utf-8", "replace")
    how = (
        "timeout"
        if result.fault is Fault.TIMEOUT
        else f"killed: {result.killed_by}"
        if result.killed_by
        else ""
    )
    if how:
        text = f"{text.rstrip()}\n{how}".lstrip()
    return Answer(
        text=text,
        exit_code=result.exit_code,
        fault=result.fault,
        truncated_bytes=result.total_bytes - len(result.output),
        wall_s=result.wall_s,
        cpu_s=result.cpu_s,
    )


def clip(output: bytes, limit_bytes: int) -> tuple[str, int]:
    """Head and tail of an output, and how many bytes are not shown."""
    if len(output) <= limit_bytes:
        return output.decode("utf-8", "replace"), 0
    half = limit_bytes // 2
    cut = len(output) - 2 * half
    return output[:half].decode("utf-8", "replace") + "\n...\n" + output[-half:].decode(
        "utf-8", "replace"
    ), cut


def spec(name: str, description: str, parameters: Sequence[str] | Mapping[str, str] = ()) -> ToolSpec:
    """A tool whose parameters are all required: names of strings, or names with their JSON type."""
    types = parameters if isinstance(parameters, Mapping) else dict.fromkeys(parameters, "string")
    return ToolSpec(
        name=name,
        description=description,
        parameters={
            "type": "object",
            "properties": {each: {"type": kind} for each, kind in types.items()},
            "required": list(types),
        },
    )
