"""Rules about an environment's task distribution."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from agito.grading.marked_answers import SHORT, Posed, alone, has_word, mark
from agito.protocols import Environment
from agito.testing.contract import Unmet, require, rule
from agito.testing.environment.base import EnvironmentBase
from agito.testing.episodes import play
from agito.types import Dialect, Target, Task

ENOUGH = 40  # tasks of a family, to tell an answer that is given away from one among options


def texts_of(task: Task) -> Mapping[str, str]:
    """All text in a task that the policy could read, by where it stands."""
    tools = [[tool.name, tool.description, json.dumps(tool.parameters)] for tool in task.tools]
    return {
        "id, family and tags": "\n".join((task.id, task.family, *task.tags)),
        "tools": "\n".join(line for tool in tools for line in tool),
        **{f"{dialect} prompt": text for dialect, text in task.prompt.items()},
    }


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

    @rule(
        "keep answers and seeds in the target; build prompt, tags and id from what the policy may know; an "
        "answer may be one of several options that the task lists alike",
    )
    async def test_nothing_of_the_target_stands_in_the_task(self) -> None:
        async with self.environment() as env:
            for split in env.splits:
                tasks = [
                    env.task(split=split, index=index, seed=self.seed)
                    for index in range(self.num_stream(env))
                ]
                for task, target in tasks:
                    text = "\n".join(texts_of(task).values())
                    require(
                        not (target.seed >= 10_000 and has_word(text, str(target.seed))),
                        f"{task.id} shows the seed of the target",
                    )
                for family in env.families:
                    first = [drawn for drawn in tasks if drawn[0].family == family]
                    answers = await self.answers(env, first)
                    if are_shown(answers):
                        more = [
                            env.task(split=split, index=index, seed=self.seed, family=family)
                            for index in range(len(tasks), len(tasks) + ENOUGH - len(first))
                        ]
                        require_hidden(await self.answers(env, [*first, *more]), env.chance_level)

    async def answers(
        self, env: Environment, tasks: Sequence[tuple[Task, Target]]
    ) -> list[tuple[Task, frozenset[str]]]:
        """The secrets of each task; what all have in common is none."""
        found = [(task, await self.secrets(env, task, target)) for task, target in tasks]
        shared = set[str].intersection(*(own for _, own in found)) if len(found) > 1 else set[str]()
        return [(task, frozenset(own - shared)) for task, own in found]

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


def are_shown(answers: Sequence[tuple[Task, frozenset[str]]]) -> bool:
    """Whether a long answer stands anywhere in its task, or most short ones do, alone or among options."""
    shown = [
        (len(answer), any(has_word(text, answer) for text in texts_of(task).values()))
        for task, own in answers
        for answer in own
    ]
    if any(is_shown and length >= SHORT for length, is_shown in shown):
        return True
    return len(shown) >= SHORT and sum(is_shown for _, is_shown in shown) > len(shown) / 2


def require_hidden(answers: Sequence[tuple[Task, frozenset[str]]], chance: float) -> None:
    """Checks that no task of a family gives its answer away. A short one can stand alone by chance."""
    for place in texts_of(answers[0][0]):
        posed = [
            Posed(task=task.id, text=texts_of(task).get(place, ""), answers=own) for task, own in answers
        ]
        given = alone(posed)
        long = [each for each in given if len(each.answer) >= SHORT]
        if long:
            raise Unmet(
                f"{long[0].task} shows its own answer {long[0].answer!r} in its {place}, and no other option"
            )
        num = sum(len(own) for _, own in answers)
        if num >= SHORT and len(given) > num / 2:
            raise Unmet(
                f"{len(given)} of {num} tasks, such as {given[0].task}, show their own answer in their "
                f"{place}, and no other option"
            )
        if (found := mark(posed, chance)) is not None:
            raise Unmet(
                f"the answer can be picked among the options in the {place}, {found.how}: right in "
                f"{found.hits} of {found.num} tasks, such as {found.task}"
            )
