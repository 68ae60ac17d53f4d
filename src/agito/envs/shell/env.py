"""The `shell` environment: find a value or repair a configuration, with real bash in a real sandbox.

Chance level: without reading, one must guess one of 68 words: the value in *find*, the check's final word in
*repair*, even if a program in the sandbox repairs the files unread: .015; declared as 0.02.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from agito.envs.procedural import Place, SandboxedEnvironment
from agito.envs.shell import agents
from agito.envs.shell.check import check_script
from agito.envs.shell.instance import FAMILIES, LEVELS, SHAPES, SPLITS, Instance, generate
from agito.envs.shell.realistic import REALISTIC
from agito.envs.shell.words import TERSE, Words
from agito.protocols import Control, SandboxSpec, ScriptFactory
from agito.types import AttemptId, Dialect, EpisodeArtifacts, Json, Limits, Target, Task, Verdict
from agito.worlds.component import FaultProfile
from agito.worlds.workspace import SH, Workspace
from agito.worlds.world import SUBMIT, World

TOOLS = (SH, SUBMIT)
_PROGRAMS = (
    "bash",
    "cat",
    "cp",
    "echo",
    "env",
    "find",
    "grep",
    "head",
    "ls",
    "mkdir",
    "mv",
    "rm",
    "sed",
    "sleep",
    "sort",
    "tail",
    "wc",
)
_CAPTURE_BYTES = 1 << 18
_CALL_SECONDS = 2.0  # tasks need milliseconds; `grep -r x /` never ends


class ShellEnvironment(SandboxedEnvironment):
    """Procedural tasks in a file tree; see `docs/environments/shell.md`."""

    name = "shell"
    version = "2"
    families = FAMILIES
    levels = LEVELS
    splits = SPLITS
    chance_level = 0.02
    words: ClassVar[Words] = TERSE

    def draw(self, place: Place) -> tuple[Task, Target]:
        instance = self._instance(place.split, place.family, place.level, place.seed)
        ask = f"find {instance.target}" if place.family == "find" else "repair"
        task = Task(
            id=place.id,
            env=self.name,
            split=place.split,
            family=place.family,
            level=place.level,
            prompt={
                Dialect.COMPACT: ask,
                Dialect.NATURAL: self.words.prose[place.family].format(key=instance.target),
            },
            tools=TOOLS,
            limits=(limits := self.limits(place.level)),
            natural_limits=self.natural_limits(limits),
            tags=("fallback",) if instance.missing else (),
        )
        return task, Target(task_id=task.id, seed=place.seed, data=_key_data(instance))

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        instance = self._instance(task.split, task.family, task.level, target.seed)
        tree = instance.tree | ({".check": check_script(instance)} if instance.rules else {})
        workspace = Workspace(
            spec=SandboxSpec(
                work_mb=8,
                tmp_mb=4,
                mem_mb=128,
                procs=32,
                fsize_mb=4,
                cpu_s=10,
                output_bytes=4096,
                tools=tuple(program for program in _PROGRAMS if program not in instance.missing),
            ),
            tree={path: text.encode() for path, text in tree.items()},
            executable=(".check",) if instance.rules else (),
            capture_bytes=_CAPTURE_BYTES if instance.rules else 0,  # finding a value leaves no artefact
        )
        faults = {SH.name: FaultProfile(timeout=instance.timeout)}
        return World(task, [workspace.open(await self.pool())], attempt, noise_seed=noise_seed, faults=faults)

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        """find: the submitted line counts. repair: the check's final word and the files as they should be, up
        to line order."""
        wanted = target.data["files"]
        if isinstance(wanted, dict):
            wrong = _differences(wanted, sealed.files)
            is_told = sealed.submitted == target.data["receipt"]
            is_right = is_told and not wrong
            evidence = (wrong or "files as wanted") + (
                "" if is_told else f"; submitted {sealed.submitted!r}, which the check does not say"
            )
        else:
            is_right = sealed.submitted == target.data["answer"]
            evidence = f"submitted {sealed.submitted!r}, wanted {target.data['answer']!r}"
        reward = float(is_right)
        return Verdict.scored(reward, evidence=evidence, grade_seed=grade_seed)

    def solutions(self, task: Task, target: Target) -> Sequence[ScriptFactory]:
        return (agents.solver(task.prompt[Dialect.COMPACT], self.words),)

    def negative_controls(self, task: Task) -> Mapping[str, ScriptFactory]:
        return agents.negative_controls(
            task.prompt[Dialect.COMPACT], self.words, zlib.crc32(task.id.encode())
        )

    def demonstrator(self, task: Task, target: Target, *, skill: float, seed: int) -> ScriptFactory:
        return agents.demonstrator(task.prompt[Dialect.COMPACT], self.words, skill=skill, seed=seed)

    def limits(self, level: int) -> Limits:
        shape = SHAPES[level]
        return Limits(
            turns=shape.turns,
            calls=shape.turns,
            tokens=shape.tokens,
            turn_tokens=40,
            observation_bytes=300,
            call_seconds=_CALL_SECONDS,
        )

    def natural_limits(self, limits: Limits) -> Limits:
        return replace(limits, tokens=512 + 96 * limits.turns, turn_tokens=96)

    def _instance(self, split: str, family: str, level: int, seed: int) -> Instance:
        return generate(split=split, family=family, level=level, seed=seed, words=self.words)


class RealisticShellEnvironment(ShellEnvironment):
    """The same tasks in realistic names and files, for language models."""

    name, ids_begin_with = "shell-realistic", "shell"
    words = REALISTIC

    def limits(self, level: int) -> Limits:
        return self.natural_limits(super().limits(level))

    def natural_limits(self, limits: Limits) -> Limits:
        return replace(limits, tokens=1024 + 128 * limits.turns, turn_tokens=128, observation_bytes=900)


def _key_data(instance: Instance) -> dict[str, Json]:
    files: Json = {**instance.repaired} if instance.rules else None
    return {"answer": instance.answer, "files": files, "receipt": instance.receipt}


def _differences(wanted: dict[str, Json], found: Mapping[str, bytes]) -> str:
    """What differs from the wanted files, in words; empty if nothing. Line order and extra files such as
    notes do not count."""
    for path in sorted(wanted):
        if path not in found:
            return f"{path} is gone"
        if sorted(str(wanted[path]).split("\n")) != sorted(
            found[path].decode("utf-8", "replace").split("\n")
        ):
            return f"{path} is not as wanted"
    return ""
