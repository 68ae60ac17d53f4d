"""Where an audit plays its episodes: one environment, timed, with a deadline on every wait, and a record of whatever broke."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import anyio
import anyio.lowlevel

from agito.errors import AgitoError, BadEnvironment, SandboxExhausted, SandboxFailure
from agito.grading.audit.digest import sources_of
from agito.protocols import Control, Environment, Script, ScriptFactory
from agito.testing.episodes import budget
from agito.types import AttemptId, Call, Event, Key, Sealed, Status, Task, Verdict

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
SHORT = Depth(name="short", seconds=25.0, share=0.4)


@dataclass(slots=True)
class Episode:
    """What one scripted episode left. `problem` says what broke; the verdict is then void."""

    task: Task
    key: Key
    events: list[Event] = field(default_factory=list[Event])
    digests: list[str] = field(default_factory=list[str])  # before the first call and after each, where they were asked for
    sealed: Sealed | None = None
    verdict: Verdict = field(default_factory=lambda: Verdict.void("not graded"))
    attempt: AttemptId = field(default_factory=lambda: AttemptId(group=0, slot=0))
    noise: int = 0
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
    def is_void(self) -> bool:
        """Without a verdict, though nothing broke: the grader gave none."""
        return not self.problem and self.verdict.status is Status.VOID

    @property
    def submitted(self) -> str:
        return (self.sealed.submitted if self.sealed else None) or ""

    @property
    def calls(self) -> list[Call]:
        return [event.call for event in self.events]


class Stage:
    """Plays episodes of `environment`; `make` gives another one like it."""

    def __init__(self, environment: Environment, make: Callable[[], Environment], depth: Depth, seed: int, watcher: Watcher) -> None:
        self.environment, self.make, self.depth, self.seed = environment, make, depth, seed
        self.incidents: Counter[str] = Counter()  # what broke, by its first line and its place
        self.num_episodes = self.num_provoked = 0  # the latter: of those that try to break something
        self.arguments: dict[str, dict[str, Any]] = {}  # of the tasks that were drawn, by their ids
        self.honest: list[Episode] = []  # of solvers and demonstrators, for the parts that look at them later
        self.solved: list[Episode] = []  # by solutions, with full marks, on tasks of every split
        self.voids: list[Episode] = []  # episodes without a verdict in which nothing broke
        self._watcher = watcher
        self._ends_at = time.monotonic() + depth.seconds
        self._late_at = self._ends_at
        self._sources = {str(path.resolve()) for path in sources_of(type(environment))}

    def begin(self, name: str, part: float) -> None:
        """The next part of the audit may take `part` of the time that is left."""
        now = time.monotonic()
        self._late_at = now + max(self._ends_at - now, 0.0) * part
        self._watcher.part(name)

    @property
    def is_late(self) -> bool:
        return time.monotonic() > self._late_at

    @property
    def seconds_left(self) -> float:
        """Of this part."""
        return max(self._late_at - time.monotonic(), 0.0)

    def draw(self, split: str, number: int, *, first: int = 0, seed: int | None = None, within_s: float = 1e9) -> list[Drawn]:
        """`number` tasks of a split, families and levels in turn; fewer, but one for every cell, when that takes longer than `within_s`."""
        least, ends_at = len(self.environment.families) * len(self.environment.levels), time.monotonic() + within_s
        found: list[Drawn] = []
        for at in range(first, first + number):
            if len(found) >= least and time.monotonic() > ends_at:
                break
            found.append(self._task(split, at, self.seed if seed is None else seed))
        return found

    def draw_cells(self, split: str, number: int, *, seed: int | None = None, within_s: float = 1e9) -> list[Drawn]:
        """As `draw`, but of every cell each index, as a curriculum asks for them."""
        cells, ends_at = list(product(self.environment.families, self.environment.levels)), time.monotonic() + within_s
        found: list[Drawn] = []
        for at in range(number):
            if len(found) >= len(cells) and time.monotonic() > ends_at:
                break
            family, level = cells[at % len(cells)]
            found.append(self._task(split, at // len(cells), self.seed if seed is None else seed, family=family, level=level))
        return found

    def _task(self, split: str, index: int, seed: int, **cell: Any) -> Drawn:
        """Of the last split there is, under another seed, where `split` is missing. Raises `BadEnvironment`."""
        known = self.environment.splits
        where = {"split": split, "seed": seed} if split in known else {"split": known[-1], "seed": seed + 1}
        arguments: dict[str, Any] = {**where, "index": index, **cell}
        try:
            drawn = self.environment.task(**arguments)
        except Exception as error:  # the boundary: it is somebody else's code
            raise BadEnvironment(
                f"{self.environment.name}: task({arguments}) raises {type(error).__name__}: {error} ({self._place(error)})"
            ) from error
        self.arguments.setdefault(drawn[0].id, arguments)
        return drawn

    def attempt(self) -> AttemptId:
        return AttemptId(group=_FIRST_GROUP + self.num_episodes, slot=0)

    async def each(self, items: Sequence[T], work: Callable[[T], Awaitable[R]], *, least: int = 1, width: int = _WIDTH) -> list[R]:
        """Works through `items`, a few at a time; ends early when the part's time is up, but not before the first `least`, unless the whole
        audit's time is up: then after the first."""
        done: dict[int, R] = {}
        todo = iter(enumerate(items))

        async def hand() -> None:
            for number, item in todo:
                if self.is_late and number >= (least if time.monotonic() < self._ends_at else 1):
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
        provokes: bool = False,
    ) -> Episode:
        """Opens, acts out, seals, grades. Whatever breaks is an incident, unless the script is there to break something; only a machine
        without isolation ends the audit."""
        host = environment or self.environment
        attempt = attempt or self.attempt()
        episode = Episode(task=drawn[0], key=drawn[1], attempt=attempt, noise=noise)
        self.num_episodes += 1
        self.num_provoked += provokes
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
        except SandboxExhausted as error:  # it used up what it was given: scored as it stands, with nothing captured
            episode.verdict = Verdict(status=Status.SCORED, reward=0.0, evidence=f"exhausted: {error}")
        except Exception as error:  # the boundary: whatever an environment raises is a finding
            self.report(episode, error, provoked=provokes)
        finally:
            await self.close(control)
        if episode.is_void and not provokes:
            self.voids.append(episode)
        return episode

    def report(self, episode: Episode, error: Exception, *, provoked: bool = False) -> None:
        """Notes what broke. Raises again what ends every episode alike, such as a machine without isolation."""
        if isinstance(error, AgitoError) and not isinstance(error, SandboxFailure):
            raise error
        kind = "infra" if isinstance(error, SandboxFailure | TimeoutError) else "env"
        text = str(error) or (f"no answer within {_DEADLINE_S:g} s" if isinstance(error, TimeoutError) else "without a message")
        episode.problem = f"{kind}: {type(error).__name__}: {text.splitlines()[0][:160]} ({self._place(error)})"
        episode.verdict = Verdict.void(episode.problem)
        self.incidents[episode.problem] += not provoked

    def _place(self, error: Exception) -> str:
        """Where the environment's own source raised it; else where anybody did."""
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if str(Path(frame.filename).resolve()) in self._sources]
        frame = (ours or frames or [None])[-1]
        return f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}" if frame else "nowhere"

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
