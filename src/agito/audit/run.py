"""An audit, from an environment to its card."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import anyio

from agito.audit.attacks import ATTACKERS, Attackers
from agito.audit.card import MAX_CASES, Card, Case, Quality, with_gates
from agito.audit.cheating import cheating
from agito.audit.cost import scalability
from agito.audit.diversity import coverage, diversity, realism
from agito.audit.env_hash import digest_of
from agito.audit.episode_runner import FULL, Depth, EpisodeRunner
from agito.audit.feedback import feedback
from agito.audit.gradient import gradient
from agito.audit.honest import honest, informed
from agito.audit.leaked_answers import leak_gate
from agito.audit.levels import levels
from agito.audit.other_process import run_elsewhere
from agito.audit.stability import record, stability, with_incidents
from agito.audit.task_pool import duplicates, overlap, splits_gate
from agito.audit.unscripted import unscripted
from agito.audit.ways_out import ways_out
from agito.concurrency import first_error
from agito.envs.blame import blame_environment
from agito.errors import AgitoError, BadEnvironment
from agito.protocols import Environment, Unscripted
from agito.record.events import OnEvent, ignore

SEED = 20_261


async def audit(
    make: Callable[[], Environment],
    *,
    depth: Depth = FULL,
    seed: int = SEED,
    on_event: OnEvent = ignore,
    attackers: Sequence[Attackers] = ATTACKERS,
) -> Card:
    """The card of the environment that `make` makes. Does as much as the depth's time allows, and always a
    minimum.

    Raises `NoIsolation` if the machine cannot run it at all, and `BadEnvironment` where a part of it that no
    episode can be played without fails; single broken episodes are noted on the card.
    """
    began, environment = time.monotonic(), make()
    runner = EpisodeRunner(environment, make, depth, seed, on_event)
    try:
        qualities = await (
            unscripted(runner) if isinstance(environment, Unscripted) else _qualities(runner, attackers)
        )
    except (Exception, BaseExceptionGroup) as error:  # the boundary: an environment may return anything
        cause = first_error(error) if isinstance(error, BaseExceptionGroup) else error  # pyright: ignore[reportUnknownArgumentType]
        is_ours = isinstance(cause, AgitoError) or not isinstance(cause, Exception)
        if found := "" if is_ours else blame_environment(cause, environment):
            raise BadEnvironment(found) from cause
        raise cause from None
    finally:
        with anyio.CancelScope(shield=True):
            await environment.aclose()
    return Card(
        environment=environment.name,
        version=environment.version,
        digest=digest_of(environment),
        chance_level=environment.chance_level,
        depth=depth.name,
        seconds=round(time.monotonic() - began, 1),
        episodes=runner.num_episodes,
        seed=seed,
        machine=_machine(),
        broke=tuple(
            Case(what=what, where=f"{count} times") for what, count in runner.incidents.most_common(MAX_CASES)
        ),
        qualities=qualities,
    )


async def _qualities(runner: EpisodeRunner, attackers: Sequence[Attackers]) -> tuple[Quality, ...]:
    """Early episodes are used later: traces are replayed after everything else has run, and solved episodes
    are attacked, regraded elsewhere, and read.
    """
    looks, work, steadies, tells, grows = (list[Case]() for _ in range(5))
    runner.begin("tasks", 0.08)
    pools = [splits_gate(runner), overlap(runner, looks)]
    runner.begin("traces", 0.08)
    traces = await record(runner)
    runner.begin("honest work", 0.2)
    accepted, accepted_gate = await honest(runner, work)
    runner.begin("without the target", 0.1)
    free = await informed(runner, work)
    runner.begin("anti-cheating", 0.4)
    guarded = await cheating(runner, attackers, work)
    runner.begin("ways out", 0.2)
    kept = await ways_out(runner, steadies)
    runner.begin("stability", 0.4)
    steady = await stability(runner, traces, steadies)
    runner.begin("elsewhere", 0.3)
    acted = [trace.episode for trace in traces if not trace.differs]
    clock = await run_elsewhere(runner, acted, [*acted, *runner.solved], steadies)
    runner.begin("feedback richness", 0.4)
    told = with_gates(await feedback(runner), [await leak_gate(runner, runner.solved, tells)], tells)
    runner.begin("difficulty gradient", 0.6)
    graded = with_gates(await gradient(runner), [await levels(runner, grows)], grows)
    runner.begin("scalability", 0.5)
    scaled = await scalability(runner)
    runner.begin("realism, coverage, diversity", 1.0)
    real, covered = await realism(runner), await coverage(runner)
    diverse = with_gates(await diversity(runner), [*pools, duplicates(runner.solved, looks)], looks)
    guarded = replace(guarded, measures=(*guarded.measures, accepted))
    guarded = with_gates(guarded, [accepted_gate, free], work)
    return (
        with_incidents(with_gates(steady, [kept, clock], steadies), runner),
        real,
        covered,
        graded,
        diverse,
        told,
        guarded,
        scaled,
    )


def _machine() -> dict[str, str]:
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "load": f"{os.getloadavg()[0]:.2f}",
        "python": platform.python_version(),
    }
