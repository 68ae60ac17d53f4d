"""`agito grade`: a folder that somebody made by hand, judged through the same path as in training."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import anyio
import typer
from rich.console import Console
from rich.text import Text

from agito.cli.episode import shown_text
from agito.cli.exit_codes import work
from agito.cli.terminal import out
from agito.envs import load
from agito.errors import BadEnvironment, BadRecipe, NotFound, SandboxFailure, Uncapturable
from agito.grading import taskfile
from agito.grading.functions import grade
from agito.grading.judge import judge
from agito.protocols import Environment
from agito.rollout import EpisodeDriver, scripted
from agito.rollout.scripts import nothing
from agito.types import AttemptId, Dialect, EpisodeArtifacts, Status, Target, Task, Verdict
from agito.worlds.sandbox import Pool, host_reads

_LIMIT_BYTES = 1 << 26


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the command line asks for. `task` is SPLIT/INDEX or SPLIT/FAMILY-LEVEL/INDEX; empty for a task
    file.
    """

    target: str
    task: str
    workspace: Path
    submit: str | None
    seed: int
    grade_seed: int


def grade_folder(wanted: Wanted, *, as_json: bool) -> None:
    """Ends with 0 whatever the verdict is, with `SandboxFailure`'s code when there is none."""
    files = read_folder(wanted.workspace)
    is_file = wanted.target.endswith(".py")
    name, verdict = work(lambda: _by_file(wanted, files) if is_file else _by_environment(wanted, files))
    if as_json:
        typer.echo(json.dumps(_as_json(name, verdict)))
    else:
        _print(out(), name, verdict)
    if verdict.status is Status.VOID:
        raise SandboxFailure(f"no verdict: {verdict.evidence}")


def begin_folder(wanted: Wanted) -> None:
    """Writes the files with which an episode begins into the folder, which must be empty or new, and prints
    the task.
    """
    if wanted.target.endswith(".py"):
        task, _ = taskfile.load(Path(wanted.target))
        write_folder(wanted.workspace, {})
        typer.echo(f"{task.statement}\n\nWrite {task.function} in {wanted.workspace / task.path}.")
        return
    task, files = work(lambda: _start(wanted))
    write_folder(wanted.workspace, files)
    typer.echo(task.prompt[Dialect.NATURAL])


def read_folder(folder: Path) -> dict[str, bytes]:
    """Regular files, links never followed. Raises `NotFound` and `BadRecipe`."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise NotFound(f"--workspace {folder}: {error.strerror}; name a folder") from None
    try:
        return host_reads.read_all(handle, _LIMIT_BYTES)
    except Uncapturable as error:
        raise BadRecipe(f"--workspace {folder}: {error}") from None
    finally:
        os.close(handle)


def write_folder(folder: Path, files: dict[str, bytes]) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadRecipe(f"--workspace {folder}: is not empty; name a new folder to begin in")
    folder.mkdir(parents=True, exist_ok=True)  # some episodes begin with no file at all
    for path, data in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)


async def _by_file(wanted: Wanted, files: dict[str, bytes]) -> tuple[str, Verdict]:
    if wanted.task:
        raise BadRecipe(f"task {wanted.task!r}: a task file holds one task; leave it out")
    task, secret = taskfile.load(Path(wanted.target))

    def captured(these: dict[str, bytes]) -> EpisodeArtifacts:
        return EpisodeArtifacts(task_id=task.name, submitted=wanted.submit, files=these, digest="")

    async def solved() -> EpisodeArtifacts:
        return captured({task.path: task.reference.encode()})

    async with await Pool.open(warm=0) as pool:

        async def ask(sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
            return await grade(pool, task, sealed.files, secret=secret, grade_seed=grade_seed)

        return task.name, await judge(
            ask, captured(files), Target(task_id=task.name, seed=0, data={}), wanted.grade_seed, solved
        )


async def _by_environment(wanted: Wanted, files: dict[str, bytes]) -> tuple[str, Verdict]:
    environment = load(wanted.target)
    try:
        task, target = task_of(environment, wanted)
        given = [path for path in await _begun(environment, task, target) if not path.startswith(".")]
        if files and given and not files.keys() & set(given):
            raise BadRecipe(
                f"--workspace {wanted.workspace}: none of the files with which {task.id} begins is there; "
                "was it begun for another task?"
            )
        # a folder has seen no episode
        submitted = str(target.data.get("receipt", "done")) if wanted.submit is None else wanted.submit
        sealed = EpisodeArtifacts(
            task_id=task.id, submitted=submitted, files=files, digest=_digest(task.id, files, submitted)
        )
        driver = EpisodeDriver(environment, noise_seed=0, grade_seed=wanted.grade_seed)
        return task.id, await driver.grade(sealed, task, target)
    finally:
        with anyio.CancelScope(shield=True):
            await environment.aclose()


async def _start(wanted: Wanted) -> tuple[Task, dict[str, bytes]]:
    environment = load(wanted.target)
    try:
        task, target = task_of(environment, wanted)
        return task, await _begun(environment, task, target)
    finally:
        with anyio.CancelScope(shield=True):
            await environment.aclose()


async def _begun(environment: Environment, task: Task, target: Target) -> dict[str, bytes]:
    """The files with which an episode begins. Raises `BadEnvironment`."""
    attempt = AttemptId(group=0, slot=0)
    act = scripted(nothing(), task, attempt)
    finished = await EpisodeDriver(environment, noise_seed=0).run(task, target, attempt, act, is_graded=False)
    if finished.sealed is None:
        raise BadEnvironment(f"{task.id} cannot be begun: {finished.verdict.evidence}")
    return dict(finished.sealed.files)


def task_of(environment: Environment, wanted: Wanted) -> tuple[Task, Target]:
    """Raises `BadRecipe` for a task that the environment does not have."""
    split, *cell, index = wanted.task.split("/") if "/" in wanted.task else ("", "")
    family, _, level = cell[0].rpartition("-") if len(cell) == 1 else ("", "", "")
    if not index.isdigit() or len(cell) > 1 or (cell and not level.isdigit()):
        raise BadRecipe(
            f"task {wanted.task!r}: write SPLIT/INDEX or SPLIT/FAMILY-LEVEL/INDEX, such as heldout/bug-2/7"
        )
    try:
        return environment.task(
            split=split,
            index=int(index),
            seed=wanted.seed,
            family=family or None,
            level=int(level) if level else None,
        )
    except ValueError as error:
        raise BadRecipe(f"task {wanted.task!r}: {error}") from None


def _digest(task_id: str, files: dict[str, bytes], submitted: str) -> str:
    state = {
        "task": task_id,
        "submitted": submitted,
        "files": {path: hashlib.sha256(data).hexdigest() for path, data in files.items()},
    }
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode("utf-8", "surrogateescape")).hexdigest()[
        :32
    ]


def _as_json(name: str, verdict: Verdict) -> dict[str, object]:
    is_scored = verdict.status is Status.SCORED
    return {
        "task": name,
        "status": verdict.status.value,
        "reward": verdict.reward if is_scored else None,
        "scores": dict(verdict.scores),
        "evidence": verdict.evidence,
        "grade_seed": verdict.grade_seed,
        "flags": [
            {"kind": flag.kind, "is_proof": flag.is_proof, "detail": flag.detail} for flag in verdict.flags
        ],
    }


def _print(console: Console, name: str, verdict: Verdict) -> None:
    is_scored = verdict.status is Status.SCORED
    color = "yellow" if not is_scored else "green" if verdict.reward > 0 else "red"
    console.print(
        Text.assemble((f"reward {verdict.reward:g}" if is_scored else "void", f"bold {color}"), f"  {name}")
    )
    if verdict.scores:
        console.print(
            Text("scores    " + "  ".join(f"{score} {value:.2f}" for score, value in verdict.scores.items()))
        )
    console.print(Text(f"evidence  {_readable(verdict.evidence)}"))
    for flag in verdict.flags:
        console.print(
            Text.assemble(
                (f"flag      {flag.kind}{' (proof)' if flag.is_proof else ''}", "bold"),
                f"  {_readable(flag.detail)}",
            )
        )


def _readable(text: str) -> str:
    """What a candidate wrote, as a terminal can show it: names of files and values may hold anything."""
    return shown_text(text.encode("utf-8", "backslashreplace").decode())
