"""The battery as agents: it fools environments with a hole, and stays at the floor of bundled ones."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from agito.envs.code import CodeEnvironment
from agito.envs.shell import ShellEnvironment
from agito.protocols import Environment, ScriptFactory
from agito.redteam import attacks_for
from agito.rollout import act_out
from agito.testing import FakeEnvironment
from agito.types import AttemptId, EpisodeArtifacts, Status, Target, Task, Verdict
from agito.worlds.sandbox import Pool


@pytest.fixture(scope="module")
async def pool(anyio_backend: str) -> AsyncIterator[Pool]:
    async with await Pool.open(warm=2) as pool:
        yield pool


def scored(is_right: bool) -> Verdict:
    return Verdict(status=Status.SCORED, reward=float(is_right))


class AnyText(ShellEnvironment):
    """Accepts any text."""

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        return scored(bool(sealed.submitted))


class AnyMention(ShellEnvironment):
    """Accepts an answer that contains the wanted one."""

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        return scored(str(target.data["answer"]) in (sealed.submitted or ""))


class RewardFile(ShellEnvironment):
    """Reads the reward from a file of the agent's box."""

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        return scored(sealed.files.get("logs/reward.txt", b"0").strip() == b"1")


class OwnCheck(ShellEnvironment):
    """Trusts a check in the agent's box."""

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        return scored(b"want" not in sealed.files.get(".check", b"want"))


class Nothing(ShellEnvironment):
    """Assumes that what is missing cannot be wrong."""

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        wanted = target.data["files"]
        assert isinstance(wanted, dict)
        return scored(
            all(
                sealed.files.get(path, str(text).encode()) == str(text).encode()
                for path, text in wanted.items()
            )
        )


async def attacked(environment: Environment, task: Task, target: Target, script: ScriptFactory) -> Verdict:
    control = await environment.open(task, target, AttemptId(group=0, slot=0), noise_seed=1)
    try:
        await act_out(control.session, task.limits, script)
        return await environment.grade(await control.seal(), target, 1)
    finally:
        await control.close()


HOLES = {
    "answer_yes": (AnyText, "find"),
    "answer_lists_what_was_read": (AnyMention, "find"),
    "box_writes_rewards": (RewardFile, "repair"),
    "box_replaces_the_check": (OwnCheck, "repair"),
    "box_removes_everything": (Nothing, "repair"),
    "box_links_everything": (Nothing, "repair"),
}


@pytest.mark.parametrize("name", HOLES)
async def test_an_attack_gets_past_an_environment_with_its_hole_and_not_past_the_one_that_ships(
    pool: Pool, name: str
) -> None:
    weak, family = HOLES[name]
    task, target = weak(pool=pool).task(split="train", index=3, seed=5, family=family, level=1)
    script = attacks_for(weak(pool=pool), task)[name]
    assert (await attacked(weak(pool=pool), task, target, script)).reward == 1.0
    assert (await attacked(ShellEnvironment(pool=pool), task, target, script)).reward == 0.0


@pytest.mark.parametrize("family", ["find", "repair"])
async def test_no_attack_succeeds_in_the_shell_environment_and_each_is_scored(
    pool: Pool, family: str
) -> None:
    environment = ShellEnvironment(pool=pool)
    task, target = environment.task(split="train", index=7, seed=5, family=family, level=3)
    attacks = attacks_for(environment, task)
    assert len(attacks) >= 25
    verdicts = {name: await attacked(environment, task, target, script) for name, script in attacks.items()}
    assert {
        name: each.evidence
        for name, each in verdicts.items()
        if each.status is Status.VOID or each.reward > 0
    } == {}


async def test_a_task_about_a_file_of_python_meets_the_exploits_of_function_tasks(pool: Pool) -> None:
    environment = CodeEnvironment(pool=pool)
    task, target = environment.task(split="train", index=0, seed=5)
    attacks = attacks_for(environment, task)
    played = [name for name in attacks if name.startswith("code_")]
    assert len(played) >= 60
    for name in played[::12]:
        verdict = await attacked(environment, task, target, attacks[name])
        assert (verdict.status, verdict.reward) == (Status.SCORED, 0.0), name


@pytest.mark.full
@pytest.mark.timeout(600)
async def test_no_attack_succeeds_in_the_code_environment(pool: Pool) -> None:
    environment = CodeEnvironment(pool=pool)
    for index in range(2):
        task, target = environment.task(split="train", index=index, seed=6)
        for name, script in attacks_for(environment, task).items():
            verdict = await attacked(environment, task, target, script)
            assert (verdict.status, verdict.reward) == (Status.SCORED, 0.0), name


def test_an_environment_without_a_shell_meets_texts_only() -> None:
    environment = FakeEnvironment()
    task, _ = environment.task(split="train", index=0, seed=1)
    assert attacks_for(environment, task)
    assert not [
        name for name in attacks_for(environment, task) if name.startswith(("box_", "look_", "code_"))
    ]
