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
from agito.audit.digest import digest_of
from agito.audit.elsewhere import elsewhere
from agito.audit.feedback import feedback
from agito.audit.gradient import gradient
from agito.audit.honest import honest, informed
from agito.audit.levels import levels
from agito.audit.pool import duplicates, overlap, splits_gate
from agito.audit.scale import scalability
from agito.audit.stability import record, stability, with_incidents
from agito.audit.stage import FULL, Depth, Stage
from agito.audit.telling import telling
from agito.audit.unscripted import unscripted
from agito.audit.voiding import ways_out
from agito.audit.worlds import coverage, diversity, realism
from agito.concurrency import first_error
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
    """The card of the environment that `make` makes. Within the depth's time it looks as hard as it can, and
    at a least number always.

    Raises `NoIsolation` where the machine cannot run it at all; what breaks in single episodes is on the
    card.
    """
    began, environment = time.monotonic(), make()
    stage = Stage(environment, make, depth, seed, on_event)
    try:
        qualities = await (
            unscripted(stage) if isinstance(environment, Unscripted) else _qualities(stage, attackers)
        )
    except BaseExceptionGroup as group:
        raise first_error(group) from None
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
        episodes=stage.num_episodes,
        seed=seed,
        machine=_machine(),
        broke=tuple(
            Case(what=what, where=f"{count} times") for what, count in stage.incidents.most_common(MAX_CASES)
        ),
        qualities=qualities,
    )


async def _qualities(stage: Stage, attackers: Sequence[Attackers]) -> tuple[Quality, ...]:
    """What was played early is used late: traces are acted again when everything else has left its marks, and
    solved episodes are attacked, graded again elsewhere, and read.
    """
    looks, work, steadies, tells, grows = (list[Case]() for _ in range(5))
    stage.begin("tasks", 0.08)
    pools = [splits_gate(stage), overlap(stage, looks)]
    stage.begin("traces", 0.08)
    traces = await record(stage)
    stage.begin("honest work", 0.2)
    accepted, accepted_gate = await honest(stage, work)
    stage.begin("without the target", 0.1)
    free = await informed(stage, work)
    stage.begin("anti-cheating", 0.4)
    guarded = await cheating(stage, attackers, work)
    stage.begin("ways out", 0.2)
    kept = await ways_out(stage, steadies)
    stage.begin("stability", 0.4)
    steady = await stability(stage, traces, steadies)
    stage.begin("elsewhere", 0.3)
    acted = [trace.episode for trace in traces if not trace.differs]
    clock = await elsewhere(stage, acted, [*acted, *stage.solved], steadies)
    stage.begin("feedback richness", 0.4)
    told = with_gates(await feedback(stage), [await telling(stage, stage.solved, tells)], tells)
    stage.begin("difficulty gradient", 0.6)
    graded = with_gates(await gradient(stage), [await levels(stage, grows)], grows)
    stage.begin("scalability", 0.5)
    scaled = await scalability(stage)
    stage.begin("realism, coverage, diversity", 1.0)
    real, covered = await realism(stage), await coverage(stage)
    diverse = with_gates(await diversity(stage), [*pools, duplicates(stage.solved, looks)], looks)
    guarded = replace(guarded, measures=(*guarded.measures, accepted))
    guarded = with_gates(guarded, [accepted_gate, free], work)
    return (
        with_incidents(with_gates(steady, [kept, clock], steadies), stage),
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
