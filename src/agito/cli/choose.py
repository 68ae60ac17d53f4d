"""`agito eval RUN --choose`: every checkpoint of a run on the same tasks, and which is best."""

from __future__ import annotations

import json
from pathlib import Path

from rich.text import Text

from agito.cli.evaluate import How
from agito.cli.exit_codes import work
from agito.cli.progress import shown, tell_loading
from agito.cli.summary import rate_text
from agito.cli.tables import plain_table, print_table
from agito.cli.terminal import err, out
from agito.errors import NotFound
from agito.evaluation.saved_policy import evaluate_checkpoint
from agito.record import Rate
from agito.record.commits import load_meta
from agito.runtime import load_policy
from agito.training.progress.board import Phase, RunProgress


def choose_checkpoint(run: Path, how: How) -> None:
    """On the split that is asked for, which should not be the one that success is reported on. Raises
    `NotFound`.
    """
    found = {path: int(str(load_meta(path)["step"])) for path in (run / "checkpoints").glob("[sf]*")}
    if not found:
        raise NotFound(f"{run}: no run with checkpoints; --choose takes a run, such as runs/tasks")
    rates = {path: _success(path, how) for path in sorted(found, key=lambda path: (found[path], path.name))}
    best = max(rates, key=lambda path: rates[path].success)  # the first of those that are as good
    if how.as_json:
        told = {path.name: [each.success, each.low, each.high, each.num] for path, each in rates.items()}
        print(json.dumps({"split": how.split, "best": str(best), "checkpoints": told}))  # noqa: T201
        return
    table = plain_table("checkpoint", f"success, {how.split}", "attempts")
    for path, each in rates.items():
        table.add_row(
            Text(path.name, "bold" if path == best else ""),
            rate_text(each, "bold green" if path == best else ""),
            str(each.num),
        )
    console = out()
    console.print()
    print_table(console, table)
    console.print(f"\nbest  {best}", highlight=False, soft_wrap=True)


def _success(directory: Path, how: How) -> Rate:
    recipe = how.changes.applied_to(load_policy.recipe_of(directory))
    num_tasks = how.num_tasks or recipe.eval.tasks
    temperature = recipe.eval.temperature if how.temperature is None else how.temperature
    tell_loading(recipe)
    phases = [Phase("policy", directory.name, "attempts", num_tasks * how.num_attempts)]

    with shown(RunProgress(phases), err(), Text(str(directory), "bold")) as view:
        evaluation = work(
            lambda: evaluate_checkpoint(
                directory,
                recipe,
                view.handle,
                split=how.split,
                num_tasks=num_tasks,
                temperature=temperature,
                baselines=False,
                num_attempts=how.num_attempts,
            )
        )
    return evaluation.policy.overall
