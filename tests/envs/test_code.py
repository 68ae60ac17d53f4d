"""The coding tasks: solvable in several ways, not guessable, and judged by cases that detect every wrong
line."""

from __future__ import annotations

import random
import subprocess
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from agito.envs.code import CodeEnvironment
from agito.envs.code.env import function_task
from agito.envs.code.instance import FAMILIES, INPUTS, LEVELS, ONLY, SPLITS, Instance, generate
from agito.envs.code.steps import run, spoil
from agito.envs.code.words import TERSE
from agito.grading.candidate_box import BOX
from agito.grading.functions import draw
from agito.grading.scrub import prove
from agito.protocols import Environment, Renderer
from agito.render import learn, renderer
from agito.testing import EnvironmentContract
from agito.testing.episodes import play
from agito.types import AttemptId, Dialect
from agito.worlds.sandbox import Pool

_ATTEMPT = AttemptId(group=0, slot=0)
CELLS = [(family, level) for family in FAMILIES for level in LEVELS]


class OfOneLevel(CodeEnvironment):
    levels = (3,)


class TestTheCodeEnvironment(EnvironmentContract):
    num_tasks, num_episodes, num_noise = 4, 10, 1

    async def make(self) -> Environment:
        return OfOneLevel(warm=1)

    def renderers(self) -> Sequence[Renderer]:
        vocabulary = learn(["fix write cat edit test submit"], size=300)
        return [renderer(dialect, vocabulary) for dialect in Dialect]


@pytest.mark.full
class TestEveryLevelOfTheCodeEnvironment(TestTheCodeEnvironment):
    num_tasks, num_episodes, num_noise = 8, 48, 3

    async def make(self) -> Environment:
        return CodeEnvironment()


@pytest.fixture(scope="module")
async def env(anyio_backend: str) -> AsyncGenerator[CodeEnvironment]:
    environment = CodeEnvironment(warm=1)
    yield environment
    await environment.aclose()


def instances(count: int) -> list[tuple[str, int, Instance]]:
    return [
        (family, level, generate(split="train", family=family, level=level, seed=seed))
        for family, level in CELLS
        for seed in range(count)
    ]


def test_comments_mean_what_the_lines_of_the_reference_do() -> None:
    for family, level, instance in instances(20):
        names: dict[str, object] = {}
        exec(instance.reference, names)
        function = names[instance.entry]
        assert callable(function)
        for x in INPUTS:
            assert function(x) == run(instance.functions, instance.entry, x), (
                family,
                level,
                instance.reference,
            )
        for steps in instance.functions.values():
            assert [TERSE.meaning(step.words) for step in steps] == [step.code for step in steps]


def test_every_fault_alone_fails_a_hidden_case_whatever_the_seed() -> None:
    for _, _, instance in instances(10):
        for seed in range(5):
            chosen = instance.hidden(random.Random(seed))
            for faults in (instance.faults, *((fault,) for fault in instance.faults)):
                assert any(instance.shows(x, faults) for x in chosen)


def test_hidden_cases_kill_nearly_every_mutant_that_any_input_can_tell() -> None:
    rng = random.Random(0)
    killed = living = 0
    wide = [*range(-60, 80), *range(-1000, 1000, 37)]
    for _, _, instance in instances(12):
        chosen = instance.hidden(random.Random(1))
        for name, steps in instance.functions.items():
            for at, step in enumerate(steps):
                if step.call:
                    continue
                mutant = dict(instance.functions) | {
                    name: (*steps[:at], spoil(rng, step, ("add", "sub", "mul", "mod")), *steps[at + 1 :])
                }
                if all(
                    run(mutant, instance.entry, x) == run(instance.functions, instance.entry, x) for x in wide
                ):
                    continue  # equivalent
                is_killed = any(
                    run(mutant, instance.entry, x) != run(instance.functions, instance.entry, x)
                    for x in chosen
                )
                killed += is_killed
                living += not is_killed
    assert killed > 300
    assert living / (killed + living) < 0.05, (killed, living)


def test_the_visible_tests_are_incomplete_for_many_tasks_and_useful_for_most() -> None:
    silent = [
        not any(instance.shows(x, instance.faults) for x in instance.visible)
        for _, _, instance in instances(20)
    ]
    assert 0.02 < sum(silent) / len(silent) < 0.5


def test_the_structural_split_asks_each_family_for_what_training_leaves_to_the_other() -> None:
    for family in FAMILIES:
        foreign = ONLY["missing" if family == "bug" else "bug"]
        for level in LEVELS:
            for seed in range(10):
                train, structural = (
                    {
                        step.word
                        for steps in generate(
                            split=split, family=family, level=level, seed=seed
                        ).functions.values()
                        for step in steps
                    }
                    for split in ("train", "structural")
                )
                assert foreign not in train and foreign in structural


@pytest.mark.parametrize("split", SPLITS)
def test_the_line_that_must_be_edited_stands_once_in_its_file(split: str) -> None:
    for family, level in CELLS:
        for seed in range(10):
            instance = generate(split=split, family=family, level=level, seed=seed)
            for name in instance.functions:
                text = instance.source(name, instance.faults)
                found, wanted = TERSE.read(text)
                assert all(text.count(old) == 1 for old in found)
                assert found == ["pass"] or len(found) == len(wanted)


async def test_the_history_is_real_git_and_never_held_the_right_lines(
    env: CodeEnvironment, tmp_path: Path
) -> None:
    task, target = env.task(split="train", index=0, seed=3, family="bug", level=4)
    control = await env.open(task, target, _ATTEMPT, noise_seed=0)
    for path, data in (await control.seal()).files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=20
        ).stdout

    assert git("status", "--porcelain") == ""
    assert git("log", "--format=%s").split("\n")[:3] == ["first version", "tests", "start"]
    git("fsck", "--full", "--strict")
    instance = generate(split="train", family="bug", level=4, seed=target.seed)
    history = git("log", "-p", "--all")
    for fault in instance.faults:
        assert instance.functions[fault.function][fault.at].code not in history


async def test_the_right_lines_cannot_be_reached_from_inside_an_episode(env: CodeEnvironment) -> None:
    async with await Pool.open(warm=0) as pool:
        for family in FAMILIES:
            task, target = env.task(split="heldout", index=1, seed=3, family=family, level=4)
            instance = generate(split="heldout", family=family, level=4, seed=target.seed)
            control = await env.open(task, target, _ATTEMPT, noise_seed=0)
            box = await pool.start(replace(BOX, mem_mb=512))
            await box.write((await control.seal()).files)
            bodies = [instance.source(fault.function, ()) for fault in instance.faults]
            await prove(box, bodies, one_commit=False, libraries=False)
            await box.close()


async def test_an_honest_helper_passes_and_learning_the_visible_cases_by_heart_does_not(
    env: CodeEnvironment,
) -> None:
    for level in (1, 3, 5):
        task, target = env.task(split="heldout", index=level, seed=5, family="missing", level=level)
        helped = await play(env, task, target, env.solutions(task, target)[1])
        assert (helped.verdict.reward, helped.verdict.flags) == (1.0, ()), helped.verdict.evidence
        learned = await play(env, task, target, env.negative_controls(task)["by_heart"])
        assert learned.events[-2].text.startswith("ok "), (
            "the negative control does not even pass the visible tests"
        )
        assert learned.verdict.reward == 0.0


def test_the_cases_of_a_task_cannot_be_drawn_without_its_key(env: CodeEnvironment) -> None:
    _, target = env.task(split="train", index=0, seed=3)
    task = function_task(target)
    drawn = [
        [case.arguments for case in draw(task, secret=str(seed), grade_seed=0)]
        for seed in (target.seed, target.seed + 1)
    ]
    assert drawn[0] != drawn[1]


async def test_what_was_never_submitted_earns_nothing_and_what_could_not_be_read_is_void(
    env: CodeEnvironment,
) -> None:
    task, target = env.task(split="train", index=0, seed=3)
    sealed = (await play(env, task, target, env.solutions(task, target)[0])).sealed
    assert (await env.grade(sealed, target, 0)).reward == 1.0
    assert (await env.grade(replace(sealed, submitted=None), target, 0)).reward == 0.0
