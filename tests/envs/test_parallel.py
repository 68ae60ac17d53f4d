"""`parallel`: phi is what it says, and a team pays where phi is high, and only there."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest

from agito.envs import load
from agito.envs.decisions.scene import call
from agito.envs.decisions.words import NAMES, VALUES
from agito.envs.parallel import ParallelEnvironment
from agito.envs.parallel.case import Parallel, ParallelTeam
from agito.envs.parallel.env import PHI
from agito.harness import TeamHarness
from agito.harness.team import TEAM_ROLES, TeamRules
from agito.protocols import AgentSpec, Environment, Renderer, Script, ScriptFactory, TeamScript
from agito.render import learn, renderer, texts_of
from agito.rollout import AttemptRunner, Plan
from agito.testing.environment import EnvironmentContract
from agito.testing.episodes import play
from agito.types import Attempt, AttemptId, Dialect, Target, Task

pytestmark = pytest.mark.anyio
ENV = ParallelEnvironment()
SAID = ("spawn worker", "report", "|", "worker: line", "done", "step", "submit", "all")


class TestParallelEnvironment(EnvironmentContract):
    async def make(self) -> Environment:
        return ParallelEnvironment()

    def renderers(self) -> Sequence[Renderer]:
        vocabulary = learn(["2 all kol line dun", "submit let"], size=300)
        return [renderer(dialect, vocabulary) for dialect in Dialect]


def task_of(phi: float, level: int, index: int = 0, split: str = "train") -> tuple[Task, Target]:
    return ENV.task(split=split, index=index, seed=4, family=f"phi-{100 * phi:g}", level=level)


def case_of(task: Task, target: Target) -> Parallel:
    team = ENV.fixed_split(task, target, role="worker")
    assert isinstance(team, ParallelTeam)
    return team.case


def test_phi_is_the_share_of_the_steps_that_can_be_taken_side_by_side() -> None:
    for (name, phi), level, split in product(PHI.items(), ENV.levels, ENV.splits):
        task, target = ENV.task(split=split, index=level, seed=1, family=name, level=level)
        case = case_of(task, target)
        assert case.phi == phi and task.tags == (f"phi={phi:g}",)
        assert task.cell == f"{name}-{level}"
        assert {len(words) for words in case.words.values()} == {case.num_steps}


async def played(script: TeamScript | ScriptFactory, phi: float, level: int, index: int) -> Attempt:
    """By a team whose tokens are those that a policy would sample."""
    task, target = task_of(phi, level, index)
    words = [
        *texts_of(Dialect.COMPACT, task, ()),
        *NAMES,
        *VALUES,
        *SAID,
        *map(str, range(task.limits.turns)),
    ]
    spec = AgentSpec(
        renderer=renderer(Dialect.COMPACT, learn([f" {word} " for word in words] * 20, size=900))
    )
    harness = TeamHarness(TeamRules(roles=TEAM_ROLES))
    plan = Plan(task=lambda _: (task, target), script=lambda *_: script)
    runner = AttemptRunner(ENV, harness, dict.fromkeys(TEAM_ROLES, spec), seed=5)
    return await runner.run(plan, AttemptId(group=index, slot=0), None)


async def both(phi: float, level: int, index: int) -> tuple[Attempt, Attempt]:
    """One agent alone, and a team that hands out what the structure allows."""
    task, target = task_of(phi, level, index)
    case, fixed = case_of(task, target), ENV.fixed_split(task, target, role="worker")
    assert isinstance(fixed, ParallelTeam)
    shared = ParallelTeam(case=case, hand=fixed.hand, role="worker", briefs=case.by_structure)
    alone = await played(ENV.solutions(task, target)[0], phi, level, index)
    return alone, await played(shared, phi, level, index)


@pytest.mark.parametrize("phi", PHI.values())
async def test_a_team_shortens_the_critical_path_by_what_phi_allows(phi: float) -> None:
    for index in range(3):
        alone, team = await both(phi, 5, index)
        assert alone.verdict.reward == team.verdict.reward == 1.0, team.verdict.evidence
        assert len(alone.trajectory.events) == 8 * 6 + 1
        ratio = team.trajectory.num_critical / alone.trajectory.num_critical
        assert 1 - phi < ratio < 1 - phi + 0.45, ratio
        assert (ratio > 1) == (phi == 0), "at phi = 0 a team must not help"
        assert (ratio < 0.6) == (phi >= 0.75), ratio


@pytest.mark.parametrize(("phi", "succeeds"), [(0.0, False), (0.5, True), (1.0, True)])
async def test_a_fixed_split_succeeds_where_its_halves_need_nothing_of_each_other(
    phi: float, succeeds: bool
) -> None:
    for index in range(3):
        task, target = task_of(phi, 2, index)
        attempt = await played(ENV.fixed_split(task, target, role="worker"), phi, 2, index)
        assert (attempt.verdict.scores["success"] == 1.0) == succeeds, attempt.verdict.evidence
        assert len(attempt.trajectory.segments) == 3


async def test_the_demonstrators_hand_out_half_of_the_tasks_at_every_phi_and_do_not_always_succeed() -> None:
    for phi in (0.0, 1.0):
        attempts = list[Attempt]()
        for index in range(40):
            task, target = task_of(phi, 1, index)
            script = ENV.team_demonstrator(task, target, role="worker", skill=0.6, seed=index)
            attempts.append(await played(script, phi, 1, index))
        shared = [each for each in attempts if len(each.trajectory.segments) > 1]
        assert 10 < len(shared) < 30
        assert 0 < sum(each.verdict.scores["success"] for each in shared) < len(shared)


async def test_a_step_without_what_it_needs_costs_and_brings_nothing() -> None:
    task, target = task_of(0.0, 2)
    case = case_of(task, target)
    first, second = case.line[:2]
    said = list[str]()

    def hasty() -> Script:
        for part, given in ((second, "let"), (first, "let"), (first, "nothing")):
            said.append((yield call("step", part=part, given=given)).text)
        given = said[1]
        for part in [each for each in case.line for _ in case.words[each]][1:]:
            given = (yield call("step", part=part, given=given)).text.split()[-1]
        yield call("submit", results=" ".join(words[-1] for words in case.words.values()))

    end = await play(ENV, task, target, hasty)
    assert said == ["no", case.words[first][0], "no"]
    assert end.verdict.reward == pytest.approx(16 / 18), end.verdict.evidence
    assert load("parallel").name == "parallel"
