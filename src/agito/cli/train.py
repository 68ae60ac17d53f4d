"""`agito train`: the board while it goes on, the table at the end, and how to go on after an interruption."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from shlex import quote

import typer

from agito.api import place, require_place
from agito.audit import SHORT
from agito.cli.dry_run import dry_run
from agito.cli.exit_codes import say, work
from agito.cli.progress import heading_of, shown, tell_loading
from agito.cli.summary import print_summary
from agito.cli.terminal import err
from agito.concurrency import Interrupted
from agito.config import build, read
from agito.envs import bundled as environments
from agito.errors import NotFound
from agito.plugins import classes_in
from agito.plugins import shown as environment
from agito.recipe import Recipe, bundled
from agito.recipe import read as read_recipe
from agito.record import RunDir, RunState, Summary
from agito.record.commits import load_meta, newest
from agito.record.events import OnEvent
from agito.record.rundir import no_run
from agito.runtime.recipe_check import fit
from agito.training import run as training_run
from agito.training.admission import Admission, admit
from agito.training.progress.board import RunProgress, planned
from agito.training.progress.stopped import resume_command, stopped

_NOTHING = "nothing was begun"


def train_run(
    name: str | None,
    overrides: tuple[str, ...],
    out: Path | None,
    *,
    admit_anyway: bool = False,
    dry: bool = False,
) -> None:
    """By a recipe of this name, or by the defaults."""
    if name in environments() and name not in bundled():
        named = [each for each in bundled() if read_recipe(each).env.names == (name,)]
        also = f", or by a recipe: {', '.join(named)}" if named else ""
        raise NotFound(f"recipe {name!r}: that is an environment; train on it with --env {name}" + also)
    if name is not None and (hint := _instead(name)):
        raise NotFound(f"recipe {name!r}: {hint}")
    fitted = fit(read_recipe(name, overrides) if name is not None else build(Recipe, {}, overrides))
    recipe = fitted.recipe
    path = out or Path("runs") / recipe.name
    if dry:
        dry_run(recipe, path)
        return
    require_place(path)
    admission = _admitted(recipe.env.names, admit_anyway)
    for note in (*admission.doubts, *fitted.notes):
        say(note)
    was = RunDir.state(path)
    aside = place(path)
    if aside is not None:
        say(
            f"the earlier run is now {aside}"
            + (
                f"; it was not finished: to go on with it, {resume_command(aside)}"
                if was is RunState.UNFINISHED
                else ""
            )
        )
    _follow(
        recipe,
        path,
        lambda on_event: training_run.train(recipe, path, on_event, admission=admission, notes=fitted.notes),
    )


def _instead(name: str) -> str:
    """What stands where a recipe should, and how it is given; empty for what may be a recipe."""
    path, file = Path(name), f"{name.removesuffix('.py')}.py"
    if name in bundled() or path.suffix == ".toml":
        return ""
    if ":" in name or ",reward=" in name:
        return f"that is an environment; train on it with --env {quote(name)}"
    if found := classes_in(file):
        return f"that is an environment's file; train on it with --env {quote(f'{file}:{found[0]}')}"
    if path.suffix == ".py":
        return f"that is no recipe; an environment in this file is given with --env {quote(f'{name}:Class')}"
    if RunDir.state(path) in (RunState.UNFINISHED, RunState.FINISHED):
        config = path / "config.toml"
        again = f"begin it anew by its {quote(str(config))}"
        return f"that is a run; go on with it by {resume_command(path)}, or {again}"
    if (path / "config.json").is_file():
        return f"that is a model; begin from it with --model {quote(name)}"
    if path.suffix in (".jsonl", ".ndjson", ".json", ".parquet", ".arrow"):
        return f"those are prompts; train on them with --prompts {quote(name)} --reward FILE.py:NAME"
    return ""


def place_of(name: str | None, out: Path | None) -> Path | None:
    """The run's folder; None where it is named after what it trains."""
    if name is None:
        return out
    if out is not None:
        raise typer.BadParameter("give one of --name and --out", param_hint="--out")
    if not name.strip() or "/" in name or name in (".", ".."):
        raise typer.BadParameter(
            f"{name!r}: it names a folder in runs; a path goes with --out", param_hint="--name"
        )
    return Path("runs") / name


def _admitted(names: tuple[str, ...], anyway: bool) -> Admission:
    """Before anything is moved or made."""

    def begins(name: str) -> None:
        say(
            f"{environment(name)} is new here: auditing it first, which takes about {SHORT.seconds:.0f} s, "
            "longer on a busy machine; its card is kept"
        )

    try:
        admission = work(lambda: admit(*names, anyway=anyway, begins=begins))
    except Interrupted:
        say(f"{_NOTHING}: no run was made or moved")
        raise
    if admission.anyway:
        say(f"admitted anyway: {', '.join(admission.failed) or 'never audited'}; the run says so")
    return admission


def resume_run(path: Path) -> None:
    if RunDir.state(path) in (RunState.ABSENT, RunState.FOREIGN):
        raise NotFound(f"{path}: {no_run(path)}")
    recipe = read(Recipe, path / "config.toml")
    if RunDir.state(path) is RunState.UNFINISHED:
        say(f"goes on with the run in {path}: {_begins_at(path)}")
    _follow(recipe, path, lambda on_event: training_run.resume(path, on_event))


def _begins_at(path: Path) -> str:
    """Where a resumed run goes on."""
    checkpoint = newest(path / "checkpoints")
    if checkpoint is None:
        return "it had no checkpoint yet, so it begins again from the start"
    return f"from its checkpoint {checkpoint.name}, after step {load_meta(checkpoint)['step']}"


def _follow(recipe: Recipe, path: Path, start: Callable[[OnEvent], Awaitable[Summary]]) -> None:
    board = RunProgress(planned(recipe))
    tell_loading(recipe)
    try:
        with shown(board, err(), heading_of(recipe, path)) as view:
            summary = work(lambda: start(view.handle))
    except BaseException as error:
        is_interrupted = isinstance(error, Interrupted)
        told = stopped(board, path, interrupted=is_interrupted)
        if told and (board.has_begun or is_interrupted):  # else what is wrong is said alone
            say(told)
        elif is_interrupted and RunDir.state(path) is RunState.ABSENT:
            say(f"{_NOTHING}: there is no run in {path}")
        raise
    print_summary(summary, path)
