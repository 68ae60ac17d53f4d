"""`agito train`: the board while it goes on, the table at the end, and how to go on after an interruption."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from agito.api import place, require_place
from agito.audit import SHORT
from agito.cli.dry_run import dry_run
from agito.cli.exit_codes import say, work
from agito.cli.progress import heading_of, shown
from agito.cli.run_status import RunProgress, planned
from agito.cli.summary import print_summary
from agito.cli.terminal import err
from agito.concurrency import Interrupted
from agito.config import build, read
from agito.envs import bundled as environments
from agito.errors import NotFound
from agito.plugins import shown as environment
from agito.recipe import Recipe, bundled
from agito.recipe import read as read_recipe
from agito.record import RunDir, RunState, Summary
from agito.record.commits import load_meta, newest
from agito.record.events import OnEvent
from agito.runtime.recipe_check import fit
from agito.training import run as training_run
from agito.training.admission import Admission, admit


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
        raise NotFound(
            f"recipe {name!r}: that is an environment; train on it with --env {name}, or by a recipe: "
            f"{', '.join(named)}"
        )
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
                f"; it was not finished: to go on with it, agito train --resume {aside}"
                if was is RunState.UNFINISHED
                else ""
            )
        )
    _follow(
        recipe,
        path,
        lambda on_event: training_run.train(recipe, path, on_event, admission=admission, notes=fitted.notes),
    )


def _admitted(names: tuple[str, ...], anyway: bool) -> Admission:
    """Before anything is moved or made."""

    def begins(name: str) -> None:
        say(
            f"{environment(name)} is new here: auditing it first, at most {SHORT.seconds:.0f} s; its card "
            "is kept"
        )

    admission = work(lambda: admit(*names, anyway=anyway, begins=begins))
    if admission.anyway:
        say(f"admitted anyway: {', '.join(admission.failed) or 'never audited'}; the run says so")
    return admission


def resume_run(path: Path) -> None:
    if RunDir.state(path) in (RunState.ABSENT, RunState.FOREIGN):
        raise NotFound(f"{path}: no run there; --resume takes a run directory such as runs/quickstart")
    recipe = read(Recipe, path / "config.toml")
    _follow(recipe, path, lambda on_event: training_run.resume(path, on_event))


def _follow(recipe: Recipe, path: Path, start: Callable[[OnEvent], Awaitable[Summary]]) -> None:
    board = RunProgress(planned(recipe))
    try:
        with shown(board, err(), heading_of(recipe, path)) as view:
            summary = work(lambda: start(view.handle))
    except BaseException as error:
        if board.has_begun and RunDir.state(path) is RunState.UNFINISHED:
            now = board.current
            how = "To go on" if isinstance(error, Interrupted) else "Once its cause is mended"
            at = f" in {now.title}, {now.done}/{now.total}" if now else ""
            say(f"stopped{at}; {_committed(path)}. {how}: agito train --resume {path}")
        raise
    print_summary(summary, path)


def _committed(path: Path) -> str:
    """Where a resumed run begins."""
    checkpoint = newest(path / "checkpoints")
    if checkpoint is None:
        return "nothing is committed yet, so the cold start begins again"
    step = load_meta(checkpoint)["step"]
    return f"{checkpoint.name} is committed: it goes on from RL step {step}, and what came after is repeated"
