"""Prompts with a reward function as an environment: what the assistant says is its submission, tools are
Python functions.

No script solves or demonstrates its tasks, so nothing here says how hard they are; the audit says what could
not be measured.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

from agito import plugins
from agito.envs.prompts.data import Row, read_splits
from agito.envs.prompts.reward import ANSWERS, RewardFunction
from agito.envs.prompts.run_python import boxes
from agito.envs.prompts.tools import CALLS, Functions, FunctionTool
from agito.errors import BadEnvironment
from agito.plugins import PromptSet
from agito.protocols import Control, SandboxPool, Script, ScriptFactory
from agito.types import (
    AttemptId,
    Call,
    Dialect,
    EpisodeArtifacts,
    Json,
    Limits,
    Status,
    Target,
    Task,
    Verdict,
)
from agito.worlds.sandbox import Pool
from agito.worlds.world import SUBMIT, World

FAMILY, LEVEL = "prompts", 1
_SAID = replace(SUBMIT, is_speech=True)
_OBSERVATION, _SECONDS, _CALL_SECONDS = 4096, 300.0, 30.0
_TURNS_WITH_TOOLS = 8
_TEMPLATE_TOKENS = 1024  # what a chat template may add to a prompt, descriptions of tools apart
# Columns that are taken for the answer, the first that is there; nothing depends on it but the audit and what
# stands beside a grader.


class PromptsEnvironment:
    """One family, one level. `train` comes in a new order each round through the rows; the other splits
    always in the same.
    """

    families, levels = (FAMILY,), (LEVEL,)
    splits = ("train", "heldout", "validation")
    unscripted = "prompts come with a reward function alone: no solver, no negative control, no demonstrator"

    def __init__(self, prompts: PromptSet) -> None:
        """Raises `NotFound` and `BadEnvironment` for whatever does not fit together."""
        self.prompts = prompts
        data, heldout = Path(prompts.data), Path(prompts.heldout) if prompts.heldout else None
        self._rows, self.num_equal_rows = read_splits(data, heldout, prompts.holdout)
        (function,) = plugins.functions("reward", prompts.reward, BadEnvironment)
        self._reward = RewardFunction(function, prompts.reward)
        self._reward.require(self.columns)
        found = plugins.functions("tools", prompts.tools, BadEnvironment) if prompts.tools else ()
        self._tools = tuple(map(FunctionTool.of, found))
        names = [tool.spec.name for tool in self._tools]
        if SUBMIT.name in names or len(set(names)) < len(names):
            raise BadEnvironment(
                f"tools {prompts.tools}: every tool needs a name of its own, other than {SUBMIT.name}"
            )
        self._by_id = {row.id: row for rows in self._rows.values() for row in rows}
        self._orders: dict[tuple[int, int], list[int]] = {}
        self._pool: SandboxPool | None = None
        self._opening = anyio.Lock()

    @property
    def name(self) -> str:
        return self.prompts.label

    @property
    def version(self) -> str:
        """Of every row and every option; the sources of its functions are part of the digest, not of this."""
        said = hashlib.blake2b(digest_size=6)
        for split in self.splits:
            said.update(f"{split}:{','.join(row.id for row in self._rows[split])};".encode())
        options = replace(
            self.prompts,
            data="",
            reward=_bare(self.prompts.reward),
            tools=_bare(self.prompts.tools),
            heldout="",
        )
        said.update(str(options).encode())
        return said.hexdigest()

    @property
    def sources(self) -> tuple[Path, ...]:
        named = [self.prompts.reward, *self.prompts.tools.split("+")]
        return tuple(dict.fromkeys(Path(path) for each in named if (path := each.rpartition(":")[0])))

    @property
    def columns(self) -> tuple[str, ...]:
        """Beside the prompt."""
        return tuple(
            dict.fromkeys(name for rows in self._rows.values() for row in rows for name in row.columns)
        )

    @property
    def answer_column(self) -> str | None:
        return next((name for name in ANSWERS if name in self.columns), None)

    @property
    def chance_level(self) -> float:
        return max(self.prompts.chance, 0.0)

    @property
    def reward_range(self) -> tuple[float, float]:
        return self._reward.range

    @property
    def isolation_tier(self) -> str:
        return self._pool.tier if self._pool else "in memory"

    def num_tasks(self, split: str) -> int:
        return len(self._rows[split])

    def task(
        self, *, split: str, index: int, seed: int, family: str | None = None, level: int | None = None
    ) -> tuple[Task, Target]:
        """Raises `ValueError` for a split, family or level that there is not."""
        if split not in self.splits or family not in (None, FAMILY) or level not in (None, LEVEL):
            known = f"{', '.join(self.splits)}; {FAMILY}; level {LEVEL}"
            raise ValueError(f"split={split!r} family={family!r} level={level}: {self.name} has {known}")
        row = self._row(split, index, seed)
        task = Task(
            id=f"{self.name}-{split}-{row.id}",
            env=self.name,
            split=split,
            family=FAMILY,
            level=LEVEL,
            prompt=dict.fromkeys(Dialect, row.text),
            messages=row.messages,
            tools=(*(tool.spec for tool in self._tools), _SAID),
            limits=self._limits(row),
        )
        return task, Target(task_id=task.id, seed=0, data={"row": row.id, "columns": dict(row.columns)})

    def _row(self, split: str, index: int, seed: int) -> Row:
        rows = self._rows[split]
        epoch, at = divmod(index, len(rows))
        if split == "train":
            at = self._order(epoch, seed, len(rows))[at]
        return rows[at]

    def _order(self, epoch: int, seed: int, size: int) -> list[int]:
        key = (epoch, seed)
        if key not in self._orders:
            if len(self._orders) > 8:
                self._orders.clear()
            self._orders[key] = random.Random(f"epoch/{seed}/{epoch}").sample(range(size), size)
        return self._orders[key]

    def _limits(self, row: Row) -> Limits:
        """`tokens` is more than the episode can take, whatever the tokenizer: the context is what limits
        it.
        """
        turns = self.prompts.turns or (_TURNS_WITH_TOOLS if self._tools else 1)
        observed = _OBSERVATION if self._tools else 0
        most = len(
            json.dumps(
                [row.messages, [tool.spec.parameters for tool in self._tools]], ensure_ascii=False
            ).encode()
        )
        return Limits(
            turns=turns,
            calls=4 * turns,
            tokens=most + _TEMPLATE_TOKENS + turns * (self.prompts.tokens + observed),
            turn_tokens=self.prompts.tokens,
            seconds=_SECONDS,
            call_seconds=_CALL_SECONDS,
            observation_bytes=_OBSERVATION,
        )

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        return World(task, [Functions(self._tools)] if self._tools else [], attempt, noise_seed=noise_seed)

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        """What the reward function says of the completion. Raises what it raises."""
        low, _ = self.reward_range
        if sealed.submitted is None:
            evidence = "it ended without an answer"
            return Verdict(
                status=Status.SCORED,
                reward=low,
                scores={"success": 0.0},
                evidence=evidence,
                grade_seed=grade_seed,
            )
        row = self._by_id[str(target.data["row"])]
        made = sealed.files.get(CALLS)
        said: dict[str, Any] = {
            **row.columns,
            "completion": sealed.submitted,
            "prompt": row.text,
            "messages": _whole(row, json.loads(made) if made else [], sealed.submitted),
        }
        with boxes(self.pool):
            outcome = await self._reward(said)
        told = ", ".join(f"{name} {value:g}" for name, value in outcome.scores.items())
        return Verdict(
            status=Status.SCORED,
            reward=outcome.reward,
            scores=outcome.scores,
            evidence=told,
            grade_seed=grade_seed,
        )

    def solutions(self, task: Task, target: Target) -> Sequence[ScriptFactory]:
        """No solution: what the answer's column holds, or nothing, for a grader to be tried on."""
        return (lambda: say(self.reference(target)),)

    def reference(self, target: Target) -> str:
        """The row's answer as text, or nothing where no column is called so."""
        columns, name = target.data["columns"], self.answer_column
        answer = columns.get(name) if name and isinstance(columns, dict) else None
        return (
            ""
            if answer is None
            else answer
            if isinstance(answer, str)
            else json.dumps(answer, ensure_ascii=False)
        )

    def negative_controls(self, task: Task) -> Mapping[str, ScriptFactory]:
        """Nothing, and the commonest answer."""
        found = {"nothing": lambda: say("")}
        if self.answer_column:
            found["commonest answer"] = lambda: say(self.commonest(1)[0])
        return found

    def commonest(self, count: int) -> list[str]:
        """Answers of the training rows."""
        answers = Counter(
            self.reference(Target(task_id="", seed=0, data={"columns": dict(row.columns)}))
            for row in self._rows["train"]
        )
        return [answer for answer, _ in answers.most_common(count)]

    def demonstrator(self, task: Task, target: Target, *, skill: float, seed: int) -> ScriptFactory:
        raise BadEnvironment(f"{self.name}: {self.unscripted}; begin with sft.demos = 0, or by sft.messages")

    async def pool(self) -> SandboxPool:
        """Of the sandboxes in which reward functions run code; opened when one first does."""
        async with self._opening:
            self._pool = self._pool or await Pool.open(warm=2)
        return self._pool

    async def aclose(self) -> None:
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await pool.aclose()


def say(text: str) -> Script:
    """A script that answers at once."""
    yield Call(tool=SUBMIT.name, arguments={"answer": text})


def _bare(names: str) -> str:
    """Functions without their paths, which differ from machine to machine."""
    return "+".join(each.rpartition(":")[2] for each in names.split("+"))


def _whole(
    row: Row, calls: Sequence[tuple[str, Mapping[str, Json], str]], completion: str
) -> list[dict[str, Json]]:
    """The whole conversation, as a chat API has it."""
    messages: list[dict[str, Json]] = [dict(message) for message in row.messages]
    for number, (name, arguments, answer) in enumerate(calls):
        called: Json = [
            {
                "id": f"call-{number}",
                "type": "function",
                "function": {"name": name, "arguments": dict(arguments)},
            }
        ]
        messages.append({"role": "assistant", "content": "", "tool_calls": called})
        messages.append({"role": "tool", "tool_call_id": f"call-{number}", "name": name, "content": answer})
    return [*messages, {"role": "assistant", "content": completion}]
