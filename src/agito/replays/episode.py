"""Replays a recorded attempt: its tokens through the same harness, in a fresh world with the same noise;
reports the first difference.

The recorded tokens stand in for the policy, so this checks the world, the renderer, the harness and the
grader.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from agito import config
from agito.errors import AgitoError, NotFound
from agito.evaluation.policies import HELDOUT_BASE, STRUCTURAL_BASE
from agito.protocols import MAIN, Row, Sampled, SampleRequest
from agito.recipe import Recipe
from agito.record import Recorded, RunDir, RunState, find_attempt
from agito.record.rundir import no_run
from agito.rollout import Plan, RecordedAttempt
from agito.runtime import load_policy
from agito.runtime.run_context import RunContext, open_run_context
from agito.training.cold_start import DEMO_BASE
from agito.training.loop import RL_BASE
from agito.types import Attempt, AttemptId, Event, Segment, Task, Thinking, Trajectory, Turn, span

_STREAMS = {  # phase → split and group of its first task
    "demo": ("train", DEMO_BASE),
    "rl": ("train", RL_BASE),
    "before": ("heldout", HELDOUT_BASE),
    "after": ("heldout", HELDOUT_BASE),
    "structural": ("structural", STRUCTURAL_BASE),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Something that did not come out as recorded."""

    where: str  # such as "event 2" or "verdict"
    what: str  # such as "text"
    recorded: str
    again: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} was {self.recorded}, now {self.again}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeReplay:
    """Both attempts, and their differences in order."""

    recorded: Recorded
    again: Attempt
    differences: tuple[Difference, ...]


async def replay_episode(run: Path, attempt: AttemptId, *, phase: str | None = None) -> EpisodeReplay:
    """Raises `NotFound` for a missing run, attempt or tokenizer, and `NoIsolation`."""
    if RunDir.state(run) in (RunState.ABSENT, RunState.FOREIGN):
        raise NotFound(f"{run}: {no_run(run)}")
    recorded = find_attempt(run / "trajectories", attempt, phase=phase)
    if not recorded.attempt.trajectory.segments:
        raise NotFound(
            f"attempt {attempt}: it never began ({recorded.attempt.trajectory.detail}), so there is "
            "nothing to replay"
        )
    if (lineage := recorded.attempt.trajectory.lineage) is not None:
        raise NotFound(f"attempt {attempt}: a fork of {lineage.parent} begins in its middle; replay that one")
    recipe = config.read(Recipe, run / "config.toml")
    async with open_run_context(recipe) as run_context:
        run_context.policies.use_tokenizer_of(load_policy.find(run))
        return await _replay(run_context, recorded)


async def _replay(run_context: RunContext, recorded: Recorded) -> EpisodeReplay:
    split, base = _STREAMS[recorded.phase]
    was = recorded.attempt.trajectory
    try:
        task, target = run_context.task(split, was.attempt.group - base)
    except ValueError as error:
        raise AgitoError(
            f"attempt {was.attempt}: the environment no longer has this task: {error}"
        ) from error
    engine = _RecordedEngine(was)
    runner = run_context.runner(
        temperature=was.turns[0].temperature if was.turns else 1.0, observed=RecordedAttempt(was)
    )
    engines = {segment.policy: engine for segment in was.segments} | {MAIN: engine}
    again = await runner.run(
        Plan(task=lambda _: (task, target), thinking=lambda _: _thinking(run_context.recipe, was)),
        was.attempt,
        engines,
    )
    found = [
        *_task_differences(was.task, task),
        *_course_differences(was, again.trajectory, engine.prompt_differences),
        *_end_differences(recorded.attempt, again),
    ]
    return EpisodeReplay(recorded=recorded, again=again, differences=tuple(found))


def _thinking(recipe: Recipe, was: Trajectory) -> Thinking | None:
    """As it was asked for."""
    if not recipe.effort.is_on or not was.turns:
        return None
    first = was.turns[0]
    return replace(recipe.effort.thinking(first.effort), mode=first.mode if first.is_steered else None)


@dataclass(slots=True)
class _RecordedEngine:
    """An engine that returns recorded tokens turn by turn, and notes where its prompts differ from the
    recorded ones. Segments are numbered in the order in which their rows were opened."""

    was: Trajectory
    prompt_differences: dict[int, Difference] = field(default_factory=dict[int, Difference])  # by turn
    context: int = 1 << 20
    num_rows: int = 0

    def open(self, seed: int) -> Row:
        segments, number = sorted(segment.id for segment in self.was.segments), self.num_rows
        self.num_rows += 1
        turns = enumerate(self.was.turns)
        return _RecordedRow(
            self, [at for at, turn in turns if [turn.segment] == segments[number : number + 1]]
        )


class _RecordedRow:
    def __init__(self, engine: _RecordedEngine, turns: Sequence[int]) -> None:
        self._engine, self._turns, self._num_done, self._at = engine, turns, 0, 0

    async def sample(self, request: SampleRequest) -> Sampled:
        if self._num_done == len(self._turns):
            raise AgitoError("the recording ends here, but the replayed episode continues")
        number = self._turns[self._num_done]
        turn = self._engine.was.turns[number]
        ids = _segment(self._engine.was, turn).tokens.ids
        self._compare(number, ids[self._at : turn.start], request.extend)
        self._num_done, self._at = self._num_done + 1, turn.stop
        logprobs = _segment(self._engine.was, turn).tokens.logprobs[turn.start : turn.stop]
        versions = span(0, len(request.extend) + turn.stop - turn.start)
        return Sampled(
            ids=ids[turn.start : turn.stop], logprobs=logprobs, stopped=turn.stopped, versions=versions
        )

    def branch(self, seed: int) -> Row:
        raise NotImplementedError("a solo attempt never branches")

    async def close(self) -> None:
        return

    def _compare(self, turn: int, recorded: array[int], given: array[int]) -> None:
        if recorded == given:
            return
        number = next(
            (n for n, (a, b) in enumerate(zip(recorded, given, strict=False)) if a != b),
            min(len(recorded), len(given)),
        )
        shown = [str(ids[number]) if number < len(ids) else "nothing" for ids in (recorded, given)]
        self._engine.prompt_differences[turn] = Difference(
            where=f"turn {turn}",
            what=f"token {self._at + number} before it",
            recorded=shown[0],
            again=shown[1],
        )


def _segment(trajectory: Trajectory, turn: Turn) -> Segment:
    return next(segment for segment in trajectory.segments if segment.id == turn.segment)


def _task_differences(was: Task, now: Task) -> list[Difference]:
    pairs: dict[str, tuple[object, object]] = {
        "id": (was.id, now.id),
        "prompt": (dict(was.prompt), dict(now.prompt)),
        "limits": (was.limits, now.limits),
    }
    pairs["tools"] = ([tool.name for tool in was.tools], [tool.name for tool in now.tools])
    return _differences("task", pairs)


def _course_differences(was: Trajectory, now: Trajectory, prompts: dict[int, Difference]) -> list[Difference]:
    """Turn by turn: differences in the prompt, then in the events that follow."""
    found: list[Difference] = []
    for number, turn in enumerate(was.turns):
        found += [prompts[number]] if number in prompts else []
        for index in turn.calls:
            found += _event_differences(index, was.events[index], now.events)
    if len(now.events) > len(was.events):
        found.append(
            Difference(
                where="events", what="number", recorded=str(len(was.events)), again=str(len(now.events))
            )
        )
    return found


def _event_differences(index: int, was: Event, events: Sequence[Event]) -> list[Difference]:
    where = f"event {index}"
    if index >= len(events):
        return [Difference(where=where, what="it", recorded="there", again="missing")]
    now = events[index]
    pairs: dict[str, tuple[object, object]] = {"call": (_call_of(was), _call_of(now))}
    for name in ("text", "exit_code", "fault", "ended", "truncated_bytes", "left"):
        pairs[name] = (getattr(was, name), getattr(now, name))
    return _differences(where, pairs)


def _end_differences(was: Attempt, now: Attempt) -> list[Difference]:
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
        # Two NaN rewards count as equal.
        if was != now and not (was != was and now != now)
    ]


def _call_of(event: Event) -> tuple[str, dict[str, object], str | None]:
    return event.call.tool, dict(event.call.arguments), event.call.problem


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, int | float) else str(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
