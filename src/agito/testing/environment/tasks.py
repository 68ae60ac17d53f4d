"""Rules about an environment's task distribution."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence

from agito.protocols import Environment
from agito.testing.contract import require, rule
from agito.testing.environment.base import EnvironmentBase
from agito.testing.episodes import play
from agito.types import Dialect, Target, Task

SHORT = 4  # a shorter answer can appear in a prompt by chance


def text_of(task: Task) -> str:
    """All text in a task that the policy could read."""
    tools = [[tool.name, tool.description, json.dumps(tool.parameters)] for tool in task.tools]
    return "\n".join(
        (task.id, task.family, *task.prompt.values(), *task.tags, *(line for tool in tools for line in tool))
    )


def has_word(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None


def refuses(env: Environment, **arguments: object) -> bool:
    try:
        env.task(**({"split": "train", "index": 0, "seed": 1} | arguments))  # type: ignore[arg-type]
    except ValueError:
        return True
    return False


class TaskRules(EnvironmentBase):
    @rule("give it a name, a version, families, levels and the splits train, heldout and structural")
    async def test_an_environment_says_what_it_consists_of(self) -> None:
        async with self.environment() as env:
            require(bool(env.name) and bool(env.version), f"name={env.name!r} version={env.version!r}")
            require(bool(env.families) and bool(env.levels), f"families={env.families} levels={env.levels}")
            missing = {"train", "heldout", "structural"} - set(env.splits)
            require(not missing, f"splits={env.splits} lack {sorted(missing)}")
            require(0 <= env.chance_level < 1, f"chance_level={env.chance_level} is not in [0, 1)")

    @rule(
        "derive everything from the arguments: no clock, no hidden state, no unseeded randomness, no hash()"
    )
    async def test_a_task_is_a_pure_function_of_its_arguments(self) -> None:
        async with self.environment() as first, self.environment() as second:
            for split in first.splits:
                tasks = [
                    first.task(split=split, index=index, seed=self.seed) for index in range(self.num_tasks)
                ]
                for index in reversed(range(self.num_tasks)):
                    again = second.task(split=split, index=index, seed=self.seed)
                    require(again == tasks[index], f"{split}-{index} came out differently the second time")

    @rule("put what identifies the task (split, index, seed) into its id, and copy the id into the target")
    async def test_tasks_are_labelled_truthfully_and_their_ids_are_unique(self) -> None:
        async with self.environment() as env:
            seen: set[str] = set()
            for split in env.splits:
                for seed in (self.seed, self.seed + 1):
                    for index in range(self.num_tasks):
                        task, target = env.task(split=split, index=index, seed=seed)
                        require(task.id not in seen, f"the id {task.id} stands for two tasks")
                        seen.add(task.id)
                        require(
                            target.task_id == task.id, f"the target of {task.id} is labelled {target.task_id}"
                        )
                        require(
                            (task.env, task.split) == (env.name, split),
                            f"{task.id} says env={task.env} split={task.split}",
                        )
                        require(
                            task.family in env.families and task.level in env.levels,
                            f"{task.id} is in no declared cell: {task.cell}",
                        )

    @rule("let `index` walk through all cells, and honour `family` and `level` when they are given")
    async def test_families_and_levels_rotate_evenly_unless_fixed(self) -> None:
        async with self.environment() as env:
            num_cells = len(env.families) * len(env.levels)
            cells = Counter(
                env.task(split="train", index=index, seed=self.seed)[0].cell for index in range(2 * num_cells)
            )
            require(
                len(cells) == num_cells and set(cells.values()) == {2},
                f"two rounds of {num_cells} cells gave {dict(cells)}",
            )
            for family in env.families:
                for level in env.levels:
                    task, _ = env.task(split="train", index=3, seed=self.seed, family=family, level=level)
                    require(
                        (task.family, task.level) == (family, level),
                        f"asked for {family}-{level}, got {task.cell}",
                    )

    @rule(
        "raise ValueError with the known names in the message",
        says="an unknown split, family or level is refused",
    )
    async def test_an_unknown_split_family_or_level_is_refused(self) -> None:
        async with self.environment() as env:
            require(refuses(env, split="no such split"), "split='no such split' was accepted")
            require(refuses(env, family="no such family"), "family='no such family' was accepted")
            require(refuses(env, level=max(env.levels) + 1), f"level={max(env.levels) + 1} was accepted")

    @rule("mix the split's name into the random seed, and give `structural` another structure")
    async def test_no_task_is_in_two_splits(self) -> None:
        async with self.environment() as env:
            owner: dict[str, str] = {}
            for split in env.splits:
                for task, target in self.sample(env, split):
                    body = json.dumps([sorted(task.prompt.items()), target.data], sort_keys=True, default=str)
                    require(owner.setdefault(body, split) == split, f"{task.id} is also in {owner[body]}")

    @rule("write the task in both dialects, and describe each tool by a JSON schema of an object")
    async def test_a_task_can_be_read_in_both_dialects(self) -> None:
        async with self.environment() as env:
            for task, _ in self.sample(env, "train"):
                for dialect in Dialect:
                    require(bool(task.prompt.get(dialect, "").strip()), f"{task.id} has no {dialect} prompt")
                names = [tool.name for tool in task.tools]
                require(bool(names) and len(set(names)) == len(names), f"{task.id} has the tools {names}")
                for tool in task.tools:
                    require(
                        tool.parameters.get("type") == "object",
                        f"the parameters of {tool.name} are no schema of an object",
                    )

    @rule("keep answers and seeds in the target; build prompt, tags and id from what the policy may know")
    async def test_nothing_of_the_target_stands_in_the_task(self) -> None:
        async with self.environment() as env:
            for split in env.splits:
                tasks = [
                    env.task(split=split, index=index, seed=self.seed)
                    for index in range(self.num_stream(env))
                ]
                for task, target in tasks:
                    require(
                        not (target.seed >= 10_000 and has_word(text_of(task), str(target.seed))),
                        f"{task.id} shows the seed of the target",
                    )
                for family in env.families:
                    require_hidden(
                        [
                            (task, await self.secrets(env, task, target))
                            for task, target in tasks
                            if task.family == family
                        ]
                    )

    async def secrets(self, env: Environment, task: Task, target: Target) -> set[str]:
        """What must not appear in the task: by default what the solutions submit. Answers common to all tasks
        do not count.
        """
        submitted: set[str] = set()
        for factory in env.solutions(task, target):
            played = await play(env, task, target, factory)
            if played.sealed.submitted:
                submitted.add(played.sealed.submitted)
        return submitted


def require_hidden(answers: Sequence[tuple[Task, set[str]]]) -> None:
    """Checks that no task of a family shows its own answer. An answer shared by all is no secret, and a short
    one can appear by chance.
    """
    shared = set[str].intersection(*(secrets for _, secrets in answers)) if len(answers) > 1 else set[str]()
    short: list[bool] = []
    for task, secrets in answers:
        for secret in secrets - shared:
            shown = has_word(text_of(task), secret)
            require(not (shown and len(secret) >= SHORT), f"{task.id} shows its own answer {secret!r}")
            short.append(shown)
    shown_often = len(short) >= SHORT and sum(short) > len(short) / 2
    require(
        not shown_often,
        f"{sum(short)} of {len(short)} tasks, such as {answers[0][0].id}, show their own answer",
    )
