"""Plays the audit's episodes: one environment, driven as in training, timed, with a record of everything that
broke.
"""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.lowlevel

from agito.audit.card import clipped
from agito.audit.env_hash import sources_of
from agito.audit.episode import Drawn, Episode, Watched
from agito.errors import BadEnvironment, SandboxFailure
from agito.grading.judge import ask
from agito.protocols import Environment, ScriptFactory
from agito.record.events import EventLog, OnEvent, ignore
from agito.rollout import Act, EpisodeDriver, Finished, out_of_range, scripted
from agito.types import AttemptId, EpisodeArtifacts, Fault, Status, Target, Verdict

T = TypeVar("T")
R = TypeVar("R")

GRADE_SEED = 7
_FIRST_GROUP = 900_000_000  # group ids that no run uses
_PATIENCE = 2.0
_WIDTH = 4  # concurrent episodes where nothing is timed


def _waited_s() -> float:
    """How long this process was runnable but had no core; 0 if the kernel does not say."""
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """Effort of an audit: `seconds` is its total time, `share` scales the sample sizes of a full audit."""

    name: str
    seconds: float
    share: float

    def of(self, number: int, *, least: int = 1) -> int:
        return max(round(self.share * number), least)


FULL = Depth(name="full", seconds=100.0, share=1.0)
SHORT = Depth(name="short", seconds=25.0, share=0.4)


class EpisodeRunner:
    """Plays episodes of `environment`; `make` makes another instance."""

    def __init__(
        self,
        environment: Environment,
        make: Callable[[], Environment],
        depth: Depth,
        seed: int,
        on_event: OnEvent = ignore,
    ) -> None:
        self.environment, self.make, self.depth, self.seed = environment, make, depth, seed
        self.incidents: Counter[str] = Counter()  # what broke, by first line and place
        self.num_episodes = self.num_provoked = 0  # the latter: episodes that try to break something
        self.arguments: dict[str, dict[str, Any]] = {}  # arguments of the drawn tasks, by task id
        self.honest: list[Episode] = []  # by solvers and demonstrators, for later parts
        self.solved: list[Episode] = []  # by solutions, with full marks, on tasks of every split
        self.voids: list[Episode] = []  # episodes without a verdict in which nothing broke
        self._events = EventLog(on_event)
        self._began_waited_s = _waited_s()
        self._ends_at = self._now() + depth.seconds
        self._late_at = self._ends_at
        self._sources = {str(path.resolve()) for path in sources_of(type(environment))}

    def begin(self, name: str, part: float) -> None:
        """The next part of the audit may take the share `part` of the time left."""
        now = self._now()
        self._late_at = now + max(self._ends_at - now, 0.0) * part
        self._events.begin(name, 0)

    def _now(self) -> float:
        """Monotonic time, without what other processes on this machine took, up to `_PATIENCE` times the
        total.
        """
        return time.monotonic() - min(_waited_s() - self._began_waited_s, _PATIENCE * self.depth.seconds)

    @property
    def is_late(self) -> bool:
        return self._now() > self._late_at

    @property
    def seconds_left(self) -> float:
        """Seconds left for this part."""
        return max(self._late_at - self._now(), 0.0)

    def draw(
        self, split: str, number: int, *, first: int = 0, seed: int | None = None, within_s: float = 1e9
    ) -> list[Drawn]:
        """`number` tasks of a split, cycling through families and levels. Stops early after `within_s`, but
        with at least one task per cell.
        """
        least, ends_at = (
            len(self.environment.families) * len(self.environment.levels),
            time.monotonic() + within_s,
        )
        found: list[Drawn] = []
        for at in range(first, first + number):
            if len(found) >= least and time.monotonic() > ends_at:
                break
            found.append(self._task(split, at, self.seed if seed is None else seed))
        return found

    def draw_cells(
        self, split: str, number: int, *, seed: int | None = None, within_s: float = 1e9
    ) -> list[Drawn]:
        """As `draw`, but asks for every index of every cell, as a curriculum does."""
        cells, ends_at = (
            list(product(self.environment.families, self.environment.levels)),
            time.monotonic() + within_s,
        )
        found: list[Drawn] = []
        for at in range(number):
            if len(found) >= len(cells) and time.monotonic() > ends_at:
                break
            family, level = cells[at % len(cells)]
            found.append(
                self._task(
                    split, at // len(cells), self.seed if seed is None else seed, family=family, level=level
                )
            )
        return found

    def _task(self, split: str, index: int, seed: int, **cell: Any) -> Drawn:
        """If `split` is missing, draws from the last split with another seed. Raises `BadEnvironment`."""
        known = self.environment.splits
        where = {"split": split, "seed": seed} if split in known else {"split": known[-1], "seed": seed + 1}
        arguments: dict[str, Any] = {**where, "index": index, **cell}
        try:
            drawn = self.environment.task(**arguments)
        except Exception as error:  # the boundary: third-party code
            raise BadEnvironment(
                f"{self.environment.name}: task({arguments}) raises {type(error).__name__}: {error} "
                f"({self._place(error)})"
            ) from error
        self.arguments.setdefault(drawn[0].id, arguments)
        return drawn

    def attempt(self) -> AttemptId:
        return AttemptId(group=_FIRST_GROUP + self.num_episodes, slot=0)

    async def each(
        self, items: Sequence[T], work: Callable[[T], Awaitable[R]], *, least: int = 1, width: int = _WIDTH
    ) -> list[R]:
        """Processes `items`, a few at a time. Stops when the part's time is up, but not before the first
        `least`; when the whole audit's time is up, after the first.
        """
        done: dict[int, R] = {}
        todo = iter(enumerate(items))

        async def hand() -> None:
            for number, item in todo:
                if self.is_late and number >= (least if self._now() < self._ends_at else 1):
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
        num_digests: int = 0,
        environment: Environment | None = None,
        provokes: bool = False,
    ) -> Episode:
        """One episode of a script, driven as in training."""
        episode = Episode(task=drawn[0], target=drawn[1], attempt=attempt or self.attempt(), noise=noise)
        act = scripted(script, episode.task, episode.attempt)
        await self.drive(episode, act, num_digests=num_digests, environment=environment, provokes=provokes)
        return episode

    async def drive(
        self,
        episode: Episode,
        act: Act,
        *,
        num_digests: int = 0,
        environment: Environment | None = None,
        provokes: bool = False,
        is_graded: bool = True,
    ) -> None:
        """Anything that breaks is an incident, unless the script tries to break something; only what ends
        every episode alike, such as a machine without isolation, ends the audit. The audit keeps the grader's
        own first result: an episode without a verdict stays without one, even if the driver found a verdict
        by asking again.
        """
        self.num_episodes += 1
        self.num_provoked += provokes
        self._events.advance()
        watched = Watched(environment or self.environment, episode, num_digests)
        driver = EpisodeDriver(watched.environment, noise_seed=episode.noise, grade_seed=GRADE_SEED)
        finished = await driver.run(
            episode.task, episode.target, episode.attempt, watched.acting(act), is_graded=is_graded
        )
        episode.sealed, episode.verdict = finished.sealed, finished.verdict
        episode.problem = self._problem(watched, finished, is_graded)
        if episode.problem:
            episode.verdict = Verdict.void(episode.problem)
            self.incidents[episode.problem] += not provokes
        elif watched.said is not None and watched.said.status is Status.VOID:
            episode.verdict = watched.said
            self.voids += [] if provokes else [episode]

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int = GRADE_SEED) -> Verdict:
        """Grades a capture once more, or an altered one. Void if the grader fails."""
        return await ask(self.environment.grade, sealed, target, grade_seed)

    def _problem(self, watched: Watched, finished: Finished, is_graded: bool) -> str:
        """One line on what broke; empty if nothing did, or if the work itself caused it."""
        error = watched.error
        if watched.said is not None and (outside := out_of_range(watched.said, self.environment)):
            return f"{Fault.ENV}: {outside}"
        is_own = error is not None and not isinstance(error, SandboxFailure | TimeoutError)
        is_unjudged = is_graded and watched.said is None and finished.verdict.status is Status.VOID
        if not is_own and not is_unjudged and finished.trajectory.fault not in (Fault.ENV, Fault.INFRA):
            return ""
        if error is None:
            return f"infra: {finished.trajectory.detail or finished.verdict.evidence}"
        text = f"{error}".splitlines() or ["without a message"]
        whose, told = "env" if is_own else "infra", clipped(text[0], 160)
        return f"{whose}: {type(error).__name__}: {told} ({self._place(error)})"

    def _place(self, error: Exception) -> str:
        """Where the environment's own source raised it; else the innermost frame."""
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if str(Path(frame.filename).resolve()) in self._sources]
        frame = (ours or frames or [None])[-1]
        return f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}" if frame else "nowhere"
