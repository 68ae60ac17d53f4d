"""The shell tasks in the real sandbox: solvable, not guessable, and judged alike by check and grader."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

import anyio
import pytest

from agito.envs.shell import ShellEnvironment
from agito.envs.shell.check import check_script
from agito.envs.shell.instance import FAMILIES, LEVELS, SPLITS, generate
from agito.envs.shell.words import TERSE
from agito.protocols import Control, ScriptFactory
from agito.testing.episodes import Played, act_out, budget, play
from agito.types import AttemptId, Call, Dialect, EpisodeArtifacts, Fault, Limits, Status, Target, Task

pytestmark = pytest.mark.anyio
CELLS = [(family, level) for family in FAMILIES for level in LEVELS]
CONCURRENT = 4


@pytest.fixture(scope="module")
async def env() -> AsyncGenerator[ShellEnvironment]:
    environment = ShellEnvironment()
    yield environment
    await environment.aclose()


def tasks(
    env: ShellEnvironment, count: int, *, split: str = "train", seed: int = 7, levels: Sequence[int] = LEVELS
) -> list[tuple[Task, Target]]:
    """`count` tasks of every family and level."""
    cells = [(family, level) for family, level in CELLS if level in levels]
    return [
        env.task(split=split, index=at * len(cells) + number, seed=seed, family=family, level=level)
        for at in range(count)
        for number, (family, level) in enumerate(cells)
    ]


async def play_all(
    env: ShellEnvironment, cases: Sequence[tuple[Task, Target, ScriptFactory]], *, noise_seed: int = 0
) -> list[Played]:
    found: dict[int, Played] = {}
    limiter = anyio.CapacityLimiter(CONCURRENT)

    async def one(at: int) -> None:
        task, key, script = cases[at]
        async with limiter:
            found[at] = await play(env, task, key, script, AttemptId(group=at, slot=0), noise_seed=noise_seed)

    async with anyio.create_task_group() as group:
        for at in range(len(cases)):
            group.start_soon(one, at)
    return [found[at] for at in range(len(cases))]


def rewards(played: Sequence[Played]) -> list[float]:
    assert all(each.verdict.status is Status.SCORED for each in played)
    return [each.verdict.reward for each in played]


@pytest.mark.parametrize("split", SPLITS)
async def test_the_solution_earns_full_marks_in_every_cell_and_split_whatever_faults_it_meets(
    env: ShellEnvironment, split: str
) -> None:
    cases = [(task, target, env.solutions(task, target)[0]) for task, target in tasks(env, 4, split=split)]
    for noise_seed in range(2):
        wrong = [
            case[0].id
            for case, reward in zip(
                cases, rewards(await play_all(env, cases, noise_seed=noise_seed)), strict=True
            )
            if reward != 1
        ]
        assert not wrong


async def test_the_solutions_meet_every_fault_that_the_tasks_promise(env: ShellEnvironment) -> None:
    cases = [(task, target, env.solutions(task, target)[0]) for task, target in tasks(env, 4)]
    played = await play_all(env, cases)
    assert any(event.text == "timeout" for each in played for event in each.events)
    missing = [any(event.exit_code == 127 for event in each.events) for each in played]
    fallback = ["fallback" in task.tags for task, _, _ in cases]
    assert any(missing) and all(promised for met, promised in zip(missing, fallback, strict=True) if met)
    assert sum(fallback) >= len(cases) / 5


async def test_negative_controls_stay_at_the_floor(env: ShellEnvironment) -> None:
    by_name: dict[str, list[tuple[Task, Target, ScriptFactory]]] = {}
    for task, target in tasks(env, 12, levels=(1, 3)):
        for name, script in env.negative_controls(task).items():
            by_name.setdefault(name, []).append((task, target, script))
    assert {"null", "no_tools", "random", "claim", "open_loop"} <= by_name.keys()
    for name, cases in by_name.items():
        earned = rewards(await play_all(env, cases if name != "random" else cases[:12]))
        assert sum(earned) <= 2, (
            f"{name}: {sum(earned)} of {len(earned)}; guessing earns about 0.35 of 48, and more than 2 "
            "once in 180 draws"
        )


async def test_the_demonstrators_success_rises_with_its_skill(env: ShellEnvironment) -> None:
    pairs = tasks(env, 10, levels=(2, 4))
    success: list[float] = []
    for skill in (0.0, 0.5, 1.0):
        cases = [
            (task, key, env.demonstrator(task, key, skill=skill, seed=at))
            for at, (task, key) in enumerate(pairs)
        ]
        success.append(sum(rewards(await play_all(env, cases))) / len(cases))
    assert success[0] + 0.1 < success[1] < success[2] - 0.1
    assert success[2] == 1.0


async def test_a_demonstration_is_a_function_of_its_seed(env: ShellEnvironment) -> None:
    task, target = env.task(split="train", index=0, seed=1, family="repair", level=4)
    first, again, other = [
        await play(env, task, target, env.demonstrator(task, target, skill=0.4, seed=seed))
        for seed in (3, 3, 4)
    ]
    assert [event.call for event in first.events] == [event.call for event in again.events]
    others = [
        [
            e.call
            for e in (
                await play(env, task, target, env.demonstrator(task, target, skill=0.4, seed=seed))
            ).events
        ]
        for seed in range(5, 9)
    ]
    assert any(calls != [event.call for event in other.events] for calls in others)


async def test_the_check_script_agrees_with_the_grader_on_broken_and_mended_trees(
    env: ShellEnvironment,
) -> None:
    """The grader also requires the other files unchanged, so only the check can be more lenient."""
    for at in range(12):
        task, target = env.task(split="heldout", index=at, seed=2, family="repair", level=1 + at % 5)
        for script in (env.solutions(task, target)[0], env.demonstrator(task, target, skill=0.3, seed=at)):
            control = await env.open(task, target, AttemptId(group=at, slot=0), noise_seed=0)
            events = await act_out(control.session, replace(task.limits, calls=task.limits.calls - 1), script)
            wanted = target.data["files"]
            assert isinstance(wanted, dict)
            fork = await control.fork(await control.snapshot(), AttemptId(group=at, slot=1))
            sealed = await fork.seal()
            submitted = replace(sealed, submitted=str(target.data["receipt"]))
            is_right = (await env.grade(submitted, target, 0)).reward == 1.0
            said = await _check(env, task, target, sealed)
            is_content = said == f"ok {target.data['receipt']}\n"
            assert is_content or not is_right, f"{task.id}: right, and the check says {said!r}"
            if is_content and not is_right:
                assert _is_something_else_changed(wanted, sealed), (
                    f"{task.id}: the check is content, the grader is not"
                )
            assert events
            await fork.close()
            await control.close()


async def _check(env: ShellEnvironment, task: Task, target: Target, sealed: EpisodeArtifacts) -> str:
    """What `./.check` says about the captured files; run until it does not time out."""
    control = await env.open(task, target, AttemptId(group=0, slot=0), noise_seed=3)
    for path, data in sealed.files.items():
        if path != ".check":
            lines = data.decode().removesuffix("\n")
            await spoken(control, f"printf '%s\\n' '{lines}' >{path}")
    said = await spoken(control, "./.check")
    await control.close()
    return said


def _is_something_else_changed(wanted: object, sealed: EpisodeArtifacts) -> bool:
    assert isinstance(wanted, dict)
    return any(
        sorted(str(text).split("\n")) != sorted(sealed.files.get(path, b"").decode().split("\n"))
        for path, text in wanted.items()
    ) or (set(sealed.files) - {".check"} != set(wanted))


async def test_reading_the_check_shows_no_more_than_running_it(env: ShellEnvironment) -> None:
    """It contains no key, file, value or receipt, and reveals no more when it is kept from stopping at the
    first broken rule."""
    for at in range(20):
        task, target = env.task(split="heldout", index=at, seed=4, family="repair", level=2 + at % 4)
        instance = generate(split="heldout", family="repair", level=task.level, seed=target.seed)
        text = check_script(instance)
        secrets = {
            instance.receipt,
            *instance.files,
            *(word for rule in instance.rules for word in (rule.key, rule.value)),
        }
        assert not [secret for secret in secrets if secret in re.findall(r"[\w/]+", text)]
        control = await env.open(task, target, AttemptId(group=at, slot=0), noise_seed=0)
        says = await spoken(control, "./.check")
        assert says == f"{instance.complaint(instance.rules[0])}\n"
        everything = await spoken(control, "sed 's/exit [01]/:/' .check >c; bash c 2>/dev/null; cat c .check")
        for rule in instance.rules[1:]:
            assert instance.complaint(rule) not in everything and not re.search(
                rf"\b{rule.key}\b", everything
            )
        assert f"ok {instance.receipt}" not in everything
        await control.close()


async def spoken(control: Control, command: str) -> str:
    """Repeated when it times out, which never happens twice in a row."""
    for _ in range(2):
        (event,) = await control.session.act(
            [Call(tool="sh", arguments={"command": command})], budget(Limits())
        )
        if event.fault is not Fault.TIMEOUT:
            break
    return event.text


async def test_a_command_times_out_as_often_however_it_is_spelled(env: ShellEnvironment) -> None:
    found: dict[str, list[int]] = {}
    for at in range(40):
        task, target = env.task(split="heldout", index=at, seed=1, family="repair", level=5)
        for command in (
            "./.check",
            " ./.check",
            "bash .check",
            ". ./.check",
            "grep -r x .",
            "cat *",
            "x=.check; bash $x",
        ):
            control = await env.open(task, target, AttemptId(group=at, slot=0), noise_seed=0)
            call = Call(tool="sh", arguments={"command": command})
            events = [(await control.session.act([call], budget(task.limits)))[0] for _ in range(4)]
            found.setdefault(command, []).append(sum(event.fault is Fault.TIMEOUT for event in events))
            await control.close()
    assert sum(found["./.check"]) > 15 and all(each == found["./.check"] for each in found.values())


def test_a_task_is_a_pure_function_of_its_arguments() -> None:
    first, second = ShellEnvironment(), ShellEnvironment()
    for split in SPLITS:
        listed = tasks(first, 3, split=split)
        assert listed == tasks(second, 3, split=split)
        assert len({task.id for task, _ in listed}) == len(listed)
    changed = [first.task(split="train", index=0, seed=1)[1], first.task(split="train", index=1, seed=0)[1]]
    assert first.task(split="train", index=0, seed=0)[1] not in changed


def test_a_task_says_neither_its_seed_nor_its_answer() -> None:
    env = ShellEnvironment()
    for task, target in tasks(env, 6, seed=987_654):
        assert "987654" not in task.id and str(target.seed) not in task.id
        answer = str(target.data["answer"]).partition("=")[2]
        for dialect in Dialect:
            words = task.prompt[dialect].replace("`", " ").replace(".", " ").split()
            assert not answer or answer not in words


def test_families_and_levels_take_turns_evenly() -> None:
    env = ShellEnvironment()
    cells = [env.task(split="train", index=at, seed=0)[0].cell for at in range(len(CELLS))]
    assert sorted(cells) == sorted(f"{family}-{level}" for family, level in CELLS)


def test_the_structural_split_asks_for_keys_that_training_uses_in_the_other_family_alone() -> None:
    env = ShellEnvironment()
    for family in FAMILIES:
        other = set(TERSE.only["repair" if family == "find" else "find"])
        seen = {split: _asked(env, split, family) for split in SPLITS}
        assert seen["structural"] <= other
        assert not seen["train"] & other and not seen["heldout"] & other
        assert seen["train"] & seen["heldout"] and seen["train"] <= set(TERSE.keys)


def _asked(env: ShellEnvironment, split: str, family: str) -> set[str]:
    """The keys that matter for the task, from the prompt or from the required changes."""
    found: set[str] = set()
    for at in range(60):
        task, target = env.task(split=split, index=at, seed=0, family=family, level=3)
        instance = generate(split=split, family=family, level=3, seed=target.seed)
        found |= {instance.target} if family == "find" else {rule.key for rule in instance.rules}
        assert task.family == family
    return found


@pytest.mark.parametrize("bad", [{"split": "test"}, {"family": "dance"}, {"level": 9}])
def test_an_unknown_split_family_or_level_is_refused_with_what_there_is(bad: dict[str, object]) -> None:
    arguments: dict[str, object] = {"split": "train", "index": 0, "seed": 0, **bad}
    with pytest.raises(ValueError, match="shell has"):
        ShellEnvironment().task(**arguments)  # type: ignore[arg-type]


async def test_a_grader_reads_only_what_was_captured(env: ShellEnvironment) -> None:
    task, target = env.task(split="train", index=0, seed=0, family="repair", level=1)
    wanted = target.data["files"]
    assert isinstance(wanted, dict)
    files = {path: str(text).encode() for path, text in wanted.items()}
    sealed = EpisodeArtifacts(task_id=task.id, submitted=str(target.data["receipt"]), files=files, digest="")
    assert (await env.grade(sealed, target, 0)).reward == 1.0
    assert (await env.grade(replace(sealed, submitted="done"), target, 0)).reward == 0.0
    assert (await env.grade(replace(sealed, submitted=None), target, 0)).reward == 0.0
    assert (await env.grade(replace(sealed, files={**files, "notes.txt": b"done"}), target, 0)).reward == 1.0
    assert (await env.grade(replace(sealed, files=dict(list(files.items())[1:])), target, 0)).reward == 0.0
