"""`agito eval`: success with intervals, and what scripts come to on the same tasks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from agito.audit import digest_of
from agito.cli.exit_codes import say, work
from agito.cli.progress import shown, tell_loading
from agito.cli.summary import cause_lines, rate_text, tier_text
from agito.cli.tables import plain_table, print_table
from agito.cli.terminal import err, out
from agito.envs import load
from agito.evaluation import saved_policy
from agito.evaluation.saved_policy import Evaluation
from agito.recipe import Recipe
from agito.runtime import load_policy
from agito.training.progress.board import Phase, RunProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """On which tasks, and how it is told. What is None is as in the checkpoint's run."""

    changes: saved_policy.Changes
    split: str
    num_tasks: int | None
    temperature: float | None
    as_json: bool
    num_attempts: int = 1  # at each task


def evaluate_checkpoint(path: Path, how: How, *, baselines: bool) -> None:
    directory, split = load_policy.find(path), how.split
    learned = load_policy.recipe_of(directory)
    recipe = how.changes.applied_to(learned)
    num_tasks = how.num_tasks or recipe.eval.tasks
    temperature = recipe.eval.temperature if how.temperature is None else how.temperature
    strange = (
        ""
        if recipe.env.names == learned.env.names
        else f" · it learned {learned.env.title}, another environment"
    )
    about = f"{recipe.env.title} · {split} · temperature {temperature:g} · seed {recipe.seed}{strange}"
    if how.changes.env is None:
        _tell_edited(directory, recipe)
    evaluation = _follow(directory, recipe, about, split, num_tasks, temperature, baselines, how.num_attempts)
    show_evaluation(evaluation, as_json=how.as_json)


def _tell_edited(directory: Path, recipe: Recipe) -> None:
    """The figures are then of other tasks, or of another grader, than those that the run was trained on."""
    about = directory.parent.parent / "run.json"
    admission = json.loads(about.read_text(encoding="utf-8")).get("admission") if about.is_file() else None
    if admission and admission["digest"] != "+".join(digest_of(load(name)) for name in recipe.env.names):
        say(
            f"the source of {recipe.env.title} has changed since this run was trained on it: its tasks and "
            "verdicts may be others"
        )


def _follow(
    directory: Path,
    recipe: Recipe,
    about: str,
    split: str,
    num_tasks: int,
    temperature: float,
    baselines: bool,
    num_attempts: int,
) -> Evaluation:
    console = err()
    heading = Text.assemble((str(directory), "bold"), "  ", (about, "dim"))
    tell_loading(recipe)
    with shown(board_of(num_tasks, num_attempts, baselines=baselines), console, heading) as view:
        return work(
            lambda: saved_policy.evaluate_checkpoint(
                directory,
                recipe,
                view.handle,
                split=split,
                num_tasks=num_tasks,
                temperature=temperature,
                baselines=baselines,
                num_attempts=num_attempts,
            )
        )


def board_of(num_tasks: int, num_attempts: int, *, baselines: bool) -> RunProgress:
    phases = [
        Phase("policy", "policy", "attempts" if num_attempts > 1 else "tasks", num_tasks * num_attempts),
        *([Phase("baselines", "scripts", "tasks", num_tasks)] if baselines else []),
    ]
    return RunProgress(phases)


def show_evaluation(evaluation: Evaluation, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(evaluation.to_json(), allow_nan=False))  # noqa: T201
    else:
        _print(evaluation)


def _print(evaluation: Evaluation) -> None:
    console = out()
    console.print()
    policy = evaluation.policy
    table = plain_table("success, 95 % interval", "policy", "tasks")
    table.add_row(Text("all", "bold"), rate_text(policy.overall, "bold green"), str(policy.overall.num))
    if policy.void:
        table.add_row("  void as failure", rate_text(policy.over_all), str(policy.over_all.num))
    for title, rates in (("", policy.families), ("level ", policy.levels), ("", policy.cells)):
        table.add_section()
        for name, each in rates.items():
            table.add_row(f"  {title}{name}", rate_text(each), str(each.num))
    if policy.passes is not None:
        table.add_section()
        for name, estimate in policy.passes.estimates.items():
            said = Text.assemble(
                f"{estimate.value:.2f}", (f" [{estimate.low:.2f}, {estimate.high:.2f}]", "dim")
            )
            table.add_row(f"  {name}", said, str(policy.passes.num_tasks))
    print_table(console, table)
    if evaluation.baselines:
        console.print()
        print_table(console, _baselines(evaluation))
    void = policy.void + sum(each.void for each in evaluation.baselines.values())
    console.print()
    console.print(
        f"{evaluation.wall_s:.0f} s · isolation {tier_text(evaluation.isolation_tier)} · {void} void",
        style="dim",
    )
    if policy.over_all.num:
        console.print(f"success over all tasks, void or not: {policy.over_all.success:.2f}", style="dim")
    for who, scores in {"the policy": policy, **evaluation.baselines}.items():
        for line in cause_lines(scores.void_causes):
            console.print(Text(f"{who}, {line}", "yellow"))


def _baselines(evaluation: Evaluation) -> Table:
    families = list(evaluation.policy.families)
    table = plain_table("scripts, same tasks", "success", *families, "tasks")
    for name, scores in evaluation.baselines.items():
        parts = [
            f"{scores.families[family].success:.2f}" if family in scores.families else "–"
            for family in families
        ]
        table.add_row(f"  {name}", rate_text(scores.overall), *parts, str(scores.overall.num))
    return table
