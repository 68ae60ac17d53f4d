"""One scripted episode, driven like any other."""

from __future__ import annotations

from dataclasses import dataclass

from agito.errors import BadEnvironment
from agito.protocols import Environment, Renderer, ScriptFactory
from agito.rollout.episode import EpisodeDriver
from agito.rollout.scripts import act_out, budget, nothing, scripted, through
from agito.types import AttemptId, EpisodeArtifacts, Event, Target, Task, TerminationReason, Verdict

__all__ = ["Played", "act_out", "budget", "essence", "nothing", "play", "through"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """One scripted episode, sealed and graded."""

    events: tuple[Event, ...]
    sealed: EpisodeArtifacts
    verdict: Verdict
    end: TerminationReason


def essence(event: Event) -> tuple[object, ...]:
    """What must be equal when an episode is replayed: everything but the measured times."""
    return (
        event.index,
        event.call,
        event.text,
        event.exit_code,
        event.fault,
        event.left,
        event.ended,
        event.truncated_bytes,
    )


async def play(
    env: Environment,
    task: Task,
    target: Target,
    factory: ScriptFactory,
    attempt: AttemptId | None = None,
    *,
    noise_seed: int = 0,
    renderer: Renderer | None = None,
) -> Played:
    """Opens, acts out, seals and grades one episode, as training does. Raises `BadEnvironment` if there was
    nothing to grade.
    """
    attempt = attempt or AttemptId(group=0, slot=0)
    act = scripted(factory, task, attempt, renderer=renderer)
    finished = await EpisodeDriver(env, noise_seed=noise_seed, grade_seed=0).run(task, target, attempt, act)
    if finished.sealed is None:
        raise BadEnvironment(f"{task.id}: {finished.verdict.evidence}")
    return Played(
        events=finished.trajectory.events,
        sealed=finished.sealed,
        verdict=finished.verdict,
        end=finished.trajectory.end,
    )
