"""Graders that hang, raise or exhaust memory: for the work alone that is a zero, for everything void,
sometimes a verdict.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from agito.errors import SandboxExhausted, SandboxFailure, WorkerDied
from agito.grading.judge import judge
from agito.types import EpisodeArtifacts, Status, Target, Verdict

pytestmark = pytest.mark.anyio
KEY = Target(task_id="t", seed=1, data={})
WORK = EpisodeArtifacts(task_id="t", submitted="work", files={}, digest="w")
SOLVED = EpisodeArtifacts(task_id="t", submitted="solved", files={}, digest="s")


async def hangs() -> None:
    await anyio.sleep_forever()


async def raises() -> None:
    raise KeyError("cell")


async def recurses() -> None:
    await recurses()


async def exhausts_memory() -> None:
    raise MemoryError


async def leaves() -> None:
    raise SystemExit(1)


async def loses_its_box() -> None:
    raise SandboxFailure("pid 1 is gone")


async def uses_up_its_box() -> None:
    raise SandboxExhausted("no memory left")


async def breaks_in_parts() -> None:
    raise ExceptionGroup("two parts", [ValueError("one"), ValueError("two")])


WAYS = [hangs, raises, recurses, exhausts_memory, leaves, loses_its_box, uses_up_its_box, breaks_in_parts]


class Grader:
    """Fails as `way` does on the work and on the reference, each a given number of times; then judges.
    `asked`: what it was asked about.
    """

    def __init__(
        self,
        way: Callable[[], Awaitable[None]],
        *,
        on_work: int,
        on_reference: int = 0,
        is_void: bool = False,
    ) -> None:
        self.way, self.is_void = way, is_void
        self.left = {"work": on_work, "solved": on_reference, None: on_reference}
        self.asked: list[str | None] = []

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        self.asked.append(sealed.submitted)
        if self.left[sealed.submitted] > 0:
            self.left[sealed.submitted] -= 1
            if self.is_void:
                return Verdict.void("cannot be read")
            await self.way()
        return Verdict(
            status=Status.SCORED, reward=0.75 if sealed.submitted == "work" else 1.0, grade_seed=grade_seed
        )


async def solved() -> EpisodeArtifacts:
    return SOLVED


async def verdict_of(
    grader: Grader, reference: Callable[[], Awaitable[EpisodeArtifacts]] | None = solved, lowest: float = 0.0
) -> Verdict:
    return await judge(grader.grade, WORK, KEY, 7, reference, deadline_s=0.05, lowest=lowest)


async def test_a_grader_that_works_is_asked_once_and_nobody_is_solved_for_it() -> None:
    async def never() -> EpisodeArtifacts:
        raise AssertionError

    grader = Grader(raises, on_work=0)
    assert (await verdict_of(grader, never)).reward == 0.75 and grader.asked == ["work"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_grader_that_the_work_alone_breaks_costs_it_the_reward_and_is_no_way_out(
    way: Callable[[], Awaitable[None]],
) -> None:
    grader = Grader(way, on_work=99)
    verdict = await verdict_of(grader, lowest=-1.0)
    assert (verdict.status, verdict.reward, verdict.grade_seed) == (Status.SCORED, -1.0, 7), verdict
    assert [flag.kind for flag in verdict.flags] == ["broke_grader"] and not verdict.flags[0].is_proof
    assert grader.asked == ["work", "work", "solved", "work", "solved"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("on_work", [1, 2])
async def test_any_completion_of_a_grader_is_the_verdict(
    way: Callable[[], Awaitable[None]], on_work: int
) -> None:
    for on_reference in (0, 99):
        verdict = await verdict_of(Grader(way, on_work=on_work, on_reference=on_reference))
        assert (verdict.reward, verdict.flags) == (0.75, ())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("on_reference", [1, 99])
async def test_a_grader_that_fails_on_the_reference_too_gives_no_verdict(
    way: Callable[[], Awaitable[None]], on_reference: int
) -> None:
    verdict = await verdict_of(Grader(way, on_work=99, on_reference=on_reference))
    assert verdict.status is Status.VOID and "on a reference too" in verdict.evidence


async def test_a_void_that_the_work_alone_brings_about_is_no_way_out_either() -> None:
    assert (await verdict_of(Grader(raises, on_work=99, is_void=True))).reward == 0.0
    assert (await verdict_of(Grader(raises, on_work=99, on_reference=99, is_void=True))).status is Status.VOID


async def broken() -> EpisodeArtifacts:
    raise SandboxFailure("no world")


async def endless() -> EpisodeArtifacts:
    await anyio.sleep_forever()
    raise AssertionError


@pytest.mark.parametrize("reference", [None, broken, endless])
async def test_without_a_solved_reference_an_empty_capture_stands_beside_and_a_lost_sandbox_accuses_nobody(
    reference: Callable[[], Awaitable[EpisodeArtifacts]] | None,
) -> None:
    grader = Grader(raises, on_work=99)
    assert (await verdict_of(grader, reference)).reward == 0.0
    assert grader.asked == ["work", "work", None, "work", None]
    assert (await verdict_of(Grader(loses_its_box, on_work=99), reference)).status is Status.VOID
    assert (await verdict_of(Grader(uses_up_its_box, on_work=99), reference)).reward == 0.0


async def test_a_process_of_ours_that_died_is_no_grader() -> None:
    async def dies() -> None:
        raise WorkerDied("the engine is gone")

    with pytest.raises(WorkerDied):
        await verdict_of(Grader(dies, on_work=99))


async def test_who_cancels_the_grading_is_obeyed() -> None:
    with anyio.move_on_after(0.01) as scope:
        await judge(Grader(hangs, on_work=99).grade, WORK, KEY, 7, solved, deadline_s=60.0)
    assert scope.cancelled_caught
