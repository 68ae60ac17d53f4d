"""SIGKILL to a guest at random moments: what it was answered is kept, and trained on once."""

from __future__ import annotations

import os
import random
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from tests.gateway.test_guests import GUESTS, TASK

from agito.harness import SOLO
from agito.harness.foreign import CommandHarness
from agito.protocols import Agent, AgentSpec
from agito.testing import ByteRenderer, FakeSession
from agito.testing.histories import KnowingEngine, violations_in
from agito.types import AttemptId, Dialect, Fault, TerminationReason
from agito.worlds.sandbox import Pool

pytestmark = pytest.mark.anyio
_AT_A_TIME, _LOOK_S = 5, 0.005


def processes(name: str) -> list[int]:
    """Those with this word in their command line: the guest, and what has started it."""
    found = list[int]()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if name.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("where", ["as whoever trains", "in a sandbox"])
async def test_of_twenty_five_guests_killed_at_random_moments_nothing_is_lost_or_trained_on_twice(
    where: str, tmp_path: Path
) -> None:
    found = list[tuple[int, list[str], Fault | None, TerminationReason]]()
    turn = anyio.CapacityLimiter(_AT_A_TIME)

    async def kill(name: str, engine: KnowingEngine, rng: random.Random, moment: int) -> None:
        """Once the policy has said so many tokens, a little later."""
        while sum(engine.sampled.values()) < moment or not processes(name):  # noqa: ASYNC110 - of /proc
            await anyio.sleep(_LOOK_S)
        await anyio.sleep(rng.random() * 0.02)
        with suppress(ProcessLookupError, IndexError):
            os.kill(rng.choice(processes(name)), signal.SIGKILL)

    async def one(number: int) -> None:
        rng, engine = random.Random(number), KnowingEngine(random.Random(number))
        name = f"killed_{os.getpid()}_{number}.py"
        shutil.copy(GUESTS / "plain.py", tmp_path / name)
        sandbox = Pool.open if where == "in a sandbox" else None
        harness = CommandHarness(f"/usr/bin/python3 {name}", folder=str(tmp_path), sandbox=sandbox)
        agent = Agent(spec=AgentSpec(renderer=ByteRenderer(Dialect.NATURAL)), engine=engine)
        async with turn, anyio.create_task_group() as tasks:
            tasks.start_soon(kill, name, engine, rng, rng.choice((0, 0, 1, 60, 120, 200)))
            attempt = AttemptId(group=0, slot=number)
            made = await harness.run(TASK, FakeSession(), {SOLO: agent}, attempt, seed=number)
            tasks.cancel_scope.cancel()
        found.append(
            (len(made.turns), violations_in(made.segments, made.turns, engine), made.fault, made.end)
        )
        assert not processes(name)

    async with anyio.create_task_group() as tasks:
        for number in range(25):
            tasks.start_soon(one, number)
    assert [each for each in found if each[1]] == []
    assert {fault for turns, _, fault, _ in found if turns} == {None}  # scored as it stands
    assert {fault for turns, _, fault, _ in found if not turns} <= {Fault.TASK, None}  # void, and tried again
    assert sum(end is TerminationReason.ABANDONED for *_, end in found) > 5, found
