"""The parts of a world: components that offer tools, and the faults injected into their calls."""

from __future__ import annotations

import copy
import hashlib
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol, runtime_checkable

from agito.errors import InvalidArguments, Uncapturable
from agito.protocols import Result, Sandbox
from agito.types import Call, Exactness, Fault, ToolSpec
from agito.worlds.threads import DeadlinePassed, in_thread

_P99 = NormalDist().inv_cdf(0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A component's answer to one call. `submitted` ends the episode with that value."""

    text: str
    exit_code: int | None = None
    fault: Fault | None = None
    submitted: str | None = None
    truncated_bytes: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0


class Component(Protocol):
    """One part of a world. A failing tool returns an `Answer` with a fault; only broken machinery raises
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
        """What a snapshot of it preserves."""
        ...

    async def call(self, call: Call, *, timeout_s: float) -> Answer:
        """`call.tool` is one of `tools`. Its arguments are whatever the policy wrote, so they are checked
        here.

        Never blocks the event loop. A call that exceeds `timeout_s` returns `overran`; afterwards the
        component goes on unchanged, or answers every later call that it is gone.
        """
        ...

    async def snapshot(self) -> object:
        """Freezes, copies and thaws; the token can be passed to `fork` any number of times."""
        ...

    async def fork(self, token: object) -> Component: ...
    async def digest(self) -> str:
        """Equal states have equal digests."""
        ...

    async def capture(self) -> Mapping[str, bytes]:
        """Kills running processes, then returns what the grader may read, by path. Called once; only `digest`
        and `close` follow.

        Returns nothing if the policy left something that cannot be captured whole: the episode then has no
        artefacts and is judged by that.
        """
        ...

    async def close(self) -> None:
        """Idempotent; never raises."""
        ...


@runtime_checkable
class Mergeable(Component, Protocol):
    """A component whose copy can be merged into it again."""

    async def branch(self) -> Mergeable:
        """A copy that goes its own way from now on. Raises `Uncapturable`."""
        ...

    async def merge(self, branch: Mergeable, *, overwrite: bool) -> Merged:
        """Takes over what a branch of this one changed since, all of it or nothing."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What came of a merge: how many paths were taken over, or why none was."""

    num: int = 0
    conflicts: tuple[str, ...] = ()  # own paths that clash with the branch's
    problem: str = ""


class Machine:
    """An in-memory component: a subclass sets `name` and `tools`, keeps all changing data in `state`, and
    implements `step`.

    `state` must be deep-copyable with a canonical `repr`: dataclasses, lists, dicts filled in a fixed order;
    no sets. A step runs on a copy, outside the event loop: if it raises or times out, nothing has changed.
    """

    name: str
    tools: tuple[ToolSpec, ...]
    exactness = Exactness.EXACT
    # every step takes microseconds and changes `state` last: it runs on the loop, without a copy
    is_quick = False

    def __init__(self, state: object) -> None:
        self.state = state

    def step(self, call: Call) -> Answer:
        raise NotImplementedError

    async def call(self, call: Call, *, timeout_s: float) -> Answer:
        if self.is_quick:
            return self.step(call)
        began, draft = time.monotonic(), copy.copy(self)
        draft.state = copy.deepcopy(self.state)
        try:
            answer = await in_thread(lambda: draft.step(call), timeout_s=timeout_s)
        except DeadlinePassed:
            return overran(began)
        self.__dict__.update(draft.__dict__)
        return answer

    async def snapshot(self) -> object:
        return copy.deepcopy(self.state)

    async def fork(self, token: object) -> Component:
        child = copy.copy(self)
        child.state = copy.deepcopy(token)
        return child

    async def digest(self) -> str:
        return hashlib.blake2b(repr(self.state).encode(), digest_size=16).hexdigest()

    async def capture(self) -> Mapping[str, bytes]:
        """The state as text, in a file with the component's name."""
        return {self.name: repr(self.state).encode()}

    async def close(self) -> None:
        return


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultProfile:
    """Faults injected into the calls of one tool. Probabilities in [0, 1], delays in seconds; never two
    faults in a row.
    """

    timeout: float = 0.0  # not executed, answered `timeout`
    error: float = 0.0  # not executed, answered `error: ...`
    lost: float = 0.0  # executed, but answered `timeout`: a retry must expect to find it done
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
        """(`timeout`, `error`, `lost` or None; seconds to wait)."""
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


NO_FAULTS = FaultProfile()


def text_of(call: Call, name: str) -> str:
    """The string argument `name`. Raises `InvalidArguments` if it is missing, not a string, or not valid
    Unicode.
    """
    value = call.arguments.get(name)
    if not isinstance(value, str):
        raise InvalidArguments(f"{call.tool} needs a string `{name}`")
    if not value.isascii() and any("\ud800" <= each <= "\udfff" for each in value):
        raise InvalidArguments(f"{call.tool}: `{name}` holds half a character (a lone surrogate)")
    return value


async def captured(sandbox: Sandbox, *, limit_bytes: int = 1 << 22) -> Mapping[str, bytes]:
    """The files of `sandbox`; empty if the policy left something that cannot be captured whole."""
    try:
        return await sandbox.files(limit_bytes=limit_bytes)
    except Uncapturable:
        return {}


def wrong(problem: object) -> Answer:
    """The policy's own mistake, in words that it can act on."""
    return Answer(text=f"error: {problem}", fault=Fault.POLICY)


def overran(began: float) -> Answer:
    """The answer to a call that ran out of time. `began` is by `time.monotonic`."""
    return Answer(text="timeout", fault=Fault.TIMEOUT, wall_s=time.monotonic() - began)


def answer_of(result: Result) -> Answer:
    """The output of an action in a sandbox; the last line says `timeout`, or what killed it."""
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
    """Head and tail of an output, and the number of bytes omitted."""
    if len(output) <= limit_bytes:
        return output.decode("utf-8", "replace"), 0
    half = limit_bytes // 2
    cut = len(output) - 2 * half
    return output[:half].decode("utf-8", "replace") + "\n...\n" + output[-half:].decode(
        "utf-8", "replace"
    ), cut


def spec(name: str, description: str, parameters: Sequence[str] | Mapping[str, str] = ()) -> ToolSpec:
    """A tool whose parameters are all required: names of strings, or names with their JSON types."""
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
