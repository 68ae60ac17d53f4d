"""An audit, from an environment to its card."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence

import anyio

from agito.grading.audit.attacks import ATTACKERS, Attackers
from agito.grading.audit.card import Card
from agito.grading.audit.cheating import cheating
from agito.grading.audit.digest import digest_of
from agito.grading.audit.feedback import feedback
from agito.grading.audit.gradient import gradient
from agito.grading.audit.scale import scalability
from agito.grading.audit.stability import stability, with_incidents
from agito.grading.audit.stage import FULL, Depth, Stage, Watcher
from agito.grading.audit.worlds import coverage, diversity, realism
from agito.protocols import Environment
from agito.running import first_error

SEED = 20_261


class Silent:
    """A `Watcher` that looks away."""

    def part(self, name: str) -> None:
        return

    def episode(self) -> None:
        return


async def audit(
    make: Callable[[], Environment],
    *,
    depth: Depth = FULL,
    seed: int = SEED,
    watcher: Watcher | None = None,
    attackers: Sequence[Attackers] = ATTACKERS,
) -> Card:
    """The card of the environment that `make` makes. Within the depth's time it looks as hard as it can, and at a least number always.

    Raises `NoIsolation` where the machine cannot run it at all; what breaks in single episodes is on the card.
    """
    began, environment = time.monotonic(), make()
    stage = Stage(environment, make, depth, seed, watcher or Silent())
    try:
        stage.begin("stability", 0.25)
        steady = await stability(stage)
        stage.begin("anti-cheating", 0.45)
        guarded = await cheating(stage, attackers)
        stage.begin("difficulty gradient", 0.6)
        graded = await gradient(stage)
        stage.begin("scalability", 0.5)
        scaled = await scalability(stage)
        stage.begin("feedback richness", 0.5)
        told = await feedback(stage)
        stage.begin("realism, coverage, diversity", 1.0)
        looks = [await realism(stage), await coverage(stage), await diversity(stage)]
    except BaseExceptionGroup as group:
        raise first_error(group) from None
    finally:
        with anyio.CancelScope(shield=True):
            await environment.aclose()
    real, covered, diverse = looks
    return Card(
        environment=environment.name, version=environment.version, digest=digest_of(environment), chance_level=environment.chance_level,
        depth=depth.name, seconds=round(time.monotonic() - began, 1), episodes=stage.num_episodes, seed=seed, machine=_machine(),
        qualities=(with_incidents(steady, stage), real, covered, graded, diverse, told, guarded, scaled),
    )  # fmt: skip


def _machine() -> dict[str, str]:
    return {"cores": str(len(os.sched_getaffinity(0))), "load": f"{os.getloadavg()[0]:.2f}", "python": platform.python_version()}
