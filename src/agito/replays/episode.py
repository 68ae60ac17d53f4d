"""A recorded attempt again: its tokens through the same harness, in a fresh world with the same noise; and
where it differs first.

The policy is not asked: what is said is what was recorded. So this checks the world, the renderer, the
harness and the grader.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agito import config
from agito.errors import AgitoError, NotFound
from agito.evaluation.policies import HELDOUT_BASE, STRUCTURAL_BASE
from agito.protocols import MAIN, Row, Sampled, SampleRequest
from agito.recipe import Recipe
from agito.record import Recorded, RunDir, RunState, find_attempt
from agito.rollout import Plan, RecordedAttempt
from agito.runtime import load_policy as trained
from agito.runtime.run_context import RunContext, open_run_context
from agito.training.cold_start import DEMO_BASE
from agito.training.loop import RL_BASE
from agito.types import Attempt, AttemptId, Event, Segment, Task, Trajectory, Turn, span

_STREAMS = {  # phase → split and the group of its first task
    "demo": ("train", DEMO_BASE),
    "rl": ("train", RL_BASE),
    "before": ("heldout", HELDOUT_BASE),
    "after": ("heldout", HELDOUT_BASE),
    "structural": ("structural", STRUCTURAL_BASE),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Something that did not come out as it was recorded."""

    where: str  # such as "event 2" or "verdict"
    what: str  # such as "text"
    recorded: str
    again: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} was {self.recorded}, now {self.again}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reenacted:
    """Both attempts, and their differences in the order in which they happened."""

    recorded: Recorded
    again: Attempt
    differences: tuple[Difference, ...]


async def reenact(run: Path, attempt: AttemptId, *, phase: str | None = None) -> Reenacted:
    """Raises `NotFound` for a run, attempt or tokenizer that is not there, and `NoIsolation`."""
    if RunDir.state(run) in (RunState.ABSENT, RunState.FOREIGN):
        raise NotFound(f"{run}: no run there; give a run directory such as runs/quickstart")
    recorded = find_attempt(run / "trajectories", attempt, phase=phase)
    if not recorded.attempt.trajectory.segments:
        raise NotFound(
            f"attempt {attempt}: it never began ({recorded.attempt.trajectory.detail}), so there is "
            "nothing to act again"
        )
    recipe = config.read(Recipe, run / "config.toml")
    async with open_run_context(recipe) as run_context:
        run_context.policies.use_tokenizer_of(trained.find(run))
        return await _again(run_context, recorded)


async def _again(run_context: RunContext, recorded: Recorded) -> Reenacted:
    split, base = _STREAMS[recorded.phase]
    was = recorded.attempt.trajectory
    try:
        task, target = run_context.task(split, was.attempt.group - base)
    except ValueError as error:
        raise AgitoError(
            f"attempt {was.attempt}: the environment no longer has this task: {error}"
        ) from error
    parrot = _RecordedEngine(was)
    runner = run_context.runner(
        temperature=was.turns[0].temperature if was.turns else 1.0, observed=RecordedAttempt(was)
    )
    again = await runner.run(Plan(task=lambda _: (task, target)), was.attempt, {MAIN: parrot})
    found = [
        *_of_task(was.task, task),
        *_of_course(was, again.trajectory, parrot.heard),
        *_of_end(recorded.attempt, again),
    ]
    return Reenacted(recorded=recorded, again=again, differences=tuple(found))


@dataclass(slots=True)
class _RecordedEngine:
    """An engine that says what was recorded, turn by turn, and keeps what differs in what it is told."""

    was: Trajectory
    heard: dict[int, Difference] = field(default_factory=dict[int, Difference])  # by turn
    context: int = 1 << 20

    def open(self, seed: int) -> Row:
        return _ParrotRow(self)


class _ParrotRow:
    def __init__(self, parrot: _RecordedEngine) -> None:
        self._parrot, self._turn, self._at = parrot, 0, 0

    async def sample(self, request: SampleRequest) -> Sampled:
        turns = self._parrot.was.turns
        if self._turn == len(turns):
            raise AgitoError("the recording ends here, but this time the episode goes on")
        turn, ids = turns[self._turn], _segment(self._parrot.was, turns[self._turn]).tokens.ids
        self._compare(ids[self._at : turn.start], request.extend)
        self._turn, self._at = self._turn + 1, turn.stop
        logprobs = _segment(self._parrot.was, turn).tokens.logprobs[turn.start : turn.stop]
        versions = span(0, len(request.extend) + turn.stop - turn.start)
        return Sampled(
            ids=ids[turn.start : turn.stop], logprobs=logprobs, stopped=turn.stopped, versions=versions
        )

    def branch(self, seed: int) -> Row:
        raise NotImplementedError("a solo attempt never branches")

    async def close(self) -> None:
        return

    def _compare(self, recorded: array[int], told: array[int]) -> None:
        if recorded == told:
            return
        number = next(
            (n for n, (a, b) in enumerate(zip(recorded, told, strict=False)) if a != b),
            min(len(recorded), len(told)),
        )
        shown = [str(ids[number]) if number < len(ids) else "nothing" for ids in (recorded, told)]
        self._parrot.heard[self._turn] = Difference(
            where=f"turn {self._turn}",
            what=f"token {self._at + number} before it",
            recorded=shown[0],
            again=shown[1],
        )


def _segment(trajectory: Trajectory, turn: Turn) -> Segment:
    return next(segment for segment in trajectory.segments if segment.id == turn.segment)


def _of_task(was: Task, now: Task) -> list[Difference]:
    pairs: dict[str, tuple[object, object]] = {
        "id": (was.id, now.id),
        "prompt": (dict(was.prompt), dict(now.prompt)),
        "limits": (was.limits, now.limits),
    }
    pairs["tools"] = ([tool.name for tool in was.tools], [tool.name for tool in now.tools])
    return _differences("task", pairs)


def _of_course(was: Trajectory, now: Trajectory, heard: dict[int, Difference]) -> list[Difference]:
    """Turn by turn: what the policy was told, then what came of what it said."""
    found: list[Difference] = []
    for number, turn in enumerate(was.turns):
        found += [heard[number]] if number in heard else []
        for index in turn.calls:
            found += _of_event(index, was.events[index], now.events)
    if len(now.events) > len(was.events):
        found.append(
            Difference(
                where="events", what="number", recorded=str(len(was.events)), again=str(len(now.events))
            )
        )
    return found


def _of_event(index: int, was: Event, events: Sequence[Event]) -> list[Difference]:
    where = f"event {index}"
    if index >= len(events):
        return [Difference(where=where, what="it", recorded="there", again="missing")]
    now = events[index]
    pairs: dict[str, tuple[object, object]] = {"call": (_said(was), _said(now))}
    for name in ("text", "exit_code", "fault", "ended", "truncated_bytes", "left"):
        pairs[name] = (getattr(was, name), getattr(now, name))
    return _differences(where, pairs)


def _of_end(was: Attempt, now: Attempt) -> list[Difference]:
    ends = {
        "value": (was.trajectory.end, now.trajectory.end),
        "fault": (was.trajectory.fault, now.trajectory.fault),
    }
    verdicts: dict[str, tuple[object, object]] = {
        "status": (was.verdict.status, now.verdict.status),
        "reward": (was.verdict.reward, now.verdict.reward),
        "scores": (dict(was.verdict.scores), dict(now.verdict.scores)),
    }
    return [*_differences("end", ends), *_differences("verdict", verdicts)]


def _differences(where: str, pairs: Mapping[str, tuple[object, object]]) -> list[Difference]:
    return [
        Difference(where=where, what=what, recorded=_shown(was), again=_shown(now))
        for what, (was, now) in pairs.items()
        # two rewards that are both not a number are the same
        if was != now and not (was != was and now != now)
    ]


def _said(event: Event) -> tuple[str, dict[str, object], str | None]:
    return event.call.tool, dict(event.call.arguments), event.call.problem


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, int | float) else str(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
