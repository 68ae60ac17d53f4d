"""Where an audit plays its episodes: one environment, timed, with a deadline on every wait, and a record of whatever broke."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, TypeVar

import anyio
import anyio.lowlevel

from agito.errors import AgitoError, SandboxFailure
from agito.protocols import Control, Environment, Script, ScriptFactory
from agito.testing.episodes import budget
from agito.types import AttemptId, Call, Event, Key, Sealed, Task, Verdict

T = TypeVar("T")
R = TypeVar("R")
Drawn: TypeAlias = "tuple[Task, Key]"

GRADE_SEED = 7
_DEADLINE_S = 60.0  # of an episode, from opening to verdict
_CLOSE_S = 10.0
_FIRST_GROUP = 900_000_000  # attempts of an audit have numbers that no run uses
_WIDTH = 4  # episodes at the same time where nothing is timed


class Watcher(Protocol):
    """Whoever looks on."""

    def part(self, name: str) -> None:
        """A part of the audit begins."""
        ...

    def episode(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """How hard to look. `seconds` is what the whole may take; `share` of the numbers that a full audit aims at."""

    name: str
    seconds: float
    share: float

    def of(self, number: int, *, least: int = 1) -> int:
        return max(round(self.share * number), least)


FULL = Depth(name="full", seconds=100.0, share=1.0)
SHORT = Depth(name="short", seconds=25.0, share=0.3)


@dataclass(slots=True)
class Episode:
    """What one scripted episode left. `problem` says what broke; the verdict is then void."""

    task: Task
    key: Key
    events: list[Event] = field(default_factory=list[Event])
    digests: list[str] = field(default_factory=list[str])  # before the first call and after each, where they were asked for
    sealed: Sealed | None = None
    verdict: Verdict = field(default_factory=lambda: Verdict.void("not graded"))
    problem: str = ""
    reset_s: float = 0.0
    grade_s: float = 0.0
    steps_s: list[float] = field(default_factory=list[float])

    @property
    def reward(self) -> float | None:
        """None when void."""
        return self.verdict.reward if self.verdict.reward == self.verdict.reward else None

    @property
    def is_success(self) -> bool:
        return (self.reward or 0.0) >= 1.0 - 1e-9

    @property
    def calls(self) -> list[Call]:
        return [event.call for event in self.events]


class Stage:
    """Plays episodes of `environment`; `make` gives another one like it."""

    def __init__(self, environment: Environment, make: Callable[[], Environment], depth: Depth, seed: int, watcher: Watcher) -> None:
        self.environment, self.make, self.depth, self.seed = environment, make, depth, seed
        self.incidents: Counter[str] = Counter()  # what broke, by its first line
        self.num_episodes = 0
        self.honest: list[Episode] = []  # of solvers and demonstrators, for the parts that look at them later
        self._watcher = watcher
        self._ends_at = time.monotonic() + depth.seconds
        self._late_at = self._ends_at

    def begin(self, name: str, part: float) -> None:
        """The next part of the audit may take `part` of the time that is left."""
        now = time.monotonic()
        self._late_at = now + max(self._ends_at - now, 0.0) * part
        self._watcher.part(name)

    @property
    def is_late(self) -> bool:
        return time.monotonic() > self._late_at

    def draw(self, split: str, number: int, *, first: int = 0) -> list[Drawn]:
        """`number` tasks of a split, families and levels in turn."""
        return [self.environment.task(split=split, index=first + at, seed=self.seed) for at in range(number)]

    def attempt(self) -> AttemptId:
        return AttemptId(group=_FIRST_GROUP + self.num_episodes, slot=0)

    async def each(self, items: Sequence[T], work: Callable[[T], Awaitable[R]], *, least: int = 1, width: int = _WIDTH) -> list[R]:
        """Works through `items`, a few at a time; ends early when the part's time is up, but not before the first `least`."""
        done: dict[int, R] = {}
        todo = iter(enumerate(items))

        async def hand() -> None:
            for number, item in todo:
                if number >= least and self.is_late:
                    return
                done[number] = await work(item)
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            for _ in range(width):
                tasks.start_soon(hand)
        return [done[number] for number in sorted(done)]

    async def play(
        self,
        drawn: Drawn,
        script: ScriptFactory,
        *,
        attempt: AttemptId | None = None,
        noise: int = 0,
        digests: bool = False,
        environment: Environment | None = None,
    ) -> Episode:
        """Opens, acts out, seals, grades. Whatever breaks is an incident; only a machine without isolation ends the audit."""
        host = environment or self.environment
        episode = Episode(task=drawn[0], key=drawn[1])
        attempt = attempt or self.attempt()
        self.num_episodes += 1
        self._watcher.episode()
        control: Control | None = None
        try:
            with anyio.fail_after(_DEADLINE_S):
                began = time.perf_counter()
                control = await host.open(episode.task, episode.key, attempt, noise_seed=noise)
                episode.reset_s = time.perf_counter() - began
                await _act(control, episode, script, digests)
                episode.sealed = await control.seal()
                began = time.perf_counter()
                episode.verdict = await host.grade(episode.sealed, episode.key, GRADE_SEED)
                episode.grade_s = time.perf_counter() - began
        except Exception as error:  # the boundary: whatever an environment raises is a finding
            self.report(episode, error)
        finally:
            await self.close(control)
        return episode

    def report(self, episode: Episode, error: Exception) -> None:
        """Notes what broke. Raises again what ends every episode alike, such as a machine without isolation."""
        if isinstance(error, AgitoError) and not isinstance(error, SandboxFailure):
            raise error
        kind = "infra" if isinstance(error, SandboxFailure | TimeoutError) else "env"
        text = str(error) or f"no answer within {_DEADLINE_S:g} s"
        episode.problem = f"{kind}: {type(error).__name__}: {text.splitlines()[0]}"
        episode.verdict = Verdict.void(episode.problem)
        self.incidents[episode.problem] += 1

    async def close(self, control: Control | None) -> None:
        if control is not None:
            with anyio.move_on_after(_CLOSE_S, shield=True):
                await control.close()


async def _act(control: Control, episode: Episode, factory: ScriptFactory, digests: bool) -> None:
    """Until the script returns, the episode ends, or the calls are used up."""
    session, limits, script = control.session, episode.task.limits, factory()
    most = min(limits.calls, limits.turns)
    if digests:
        episode.digests.append(await control.digest())
    try:
        call = next(script, None)
        while call is not None and len(episode.events) < most:
            began = time.perf_counter()
            (event,) = await session.act((call,), budget(limits, len(episode.events) + 1))
            episode.steps_s.append(time.perf_counter() - began)
            episode.events.append(event)
            if digests:
                episode.digests.append(await control.digest())
            if event.ended:
                break
            try:
                call = script.send(event)
            except StopIteration:
                break
    finally:
        script.close()


def replay(calls: Sequence[Call]) -> ScriptFactory:
    """A script that says these calls, whatever the world answers."""

    def script() -> Script:
        for call in calls:  # noqa: UP028 (events are sent to this generator, and a list takes none)
            yield call

    return script
