"""An attempt's steps, taken again in a fresh world: to see whether they end it again."""

from __future__ import annotations

from collections.abc import Sequence

from agito.errors import Uncapturable
from agito.rollout.guarded_session import Batch, Forking, GuardedFork, GuardedSession, Step


async def repeat(steps: Sequence[Step], session: GuardedSession) -> None:
    """Up to the end of the episode, forks and merges included."""
    worlds: list[GuardedSession | GuardedFork] = [session]
    for step in steps:
        world = worlds[step.world]
        if isinstance(step, Batch):
            events = await world.act(step.calls, step.left)
            if events and events[-1].ended:
                return
        elif isinstance(step, Forking):
            try:
                worlds.append(await world.fork())
            except (Uncapturable, RuntimeError):
                if session.failure is None:
                    raise
                return
        else:
            assert isinstance(world, GuardedFork)
            if (await world.merge(step.call, step.left, overwrite=step.overwrite)).ended:
                return
