"""`agito eval RUN --effort all`: what thinking buys."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from rich.text import Text

from agito.cli.evaluate import How
from agito.cli.exit_codes import work
from agito.cli.progress import shown, tell_loading
from agito.cli.tables import plain_table, print_table
from agito.cli.terminal import err, out
from agito.errors import BadRecipe
from agito.evaluation.adaptivity import LEAST_GAP
from agito.evaluation.effort import Auto, EffortCurve, evaluate_efforts
from agito.evaluation.intervals import Estimate
from agito.runtime import load_policy
from agito.training.progress.board import Phase, RunProgress

_COLUMNS = {"success": 2, "u": 2, "think_tokens": 1, "cost": 1, "calls": 1, "leaked": 1}


def compare_efforts(path: Path, how: How) -> None:
    """Raises `BadRecipe` for a checkpoint that was trained at no effort."""
    directory = load_policy.find(path)
    recipe = how.changes.applied_to(load_policy.recipe_of(directory))
    if not recipe.effort.is_on:
        raise BadRecipe(f"{path}: it was trained at no effort (effort.settings); ask for one: --effort high")
    num_tasks = how.num_tasks or recipe.eval.tasks
    temperature = recipe.eval.temperature if how.temperature is None else how.temperature
    about = f"{recipe.env.title} · {how.split} · temperature {temperature:g} · seed {recipe.seed}"
    heading = Text.assemble((str(directory), "bold"), "  ", (about, "dim"))
    phases = [Phase(effort.value, effort.value, "tasks", num_tasks) for effort in recipe.effort.settings]
    tell_loading(recipe)
    with shown(RunProgress(phases), err(), heading) as view:
        curve, _ = work(
            lambda: evaluate_efforts(
                directory,
                recipe,
                view.handle,
                split=how.split,
                num_tasks=num_tasks,
                temperature=temperature,
            )
        )
    if how.as_json:
        print(json.dumps(curve.to_json(), allow_nan=False))  # noqa: T201
    else:
        _print(curve)


def _print(curve: EffortCurve) -> None:
    console = out()
    console.print()
    table = plain_table("mean, 95 % interval", *(name.replace("_", " ") for name in _COLUMNS), "tasks")
    for effort, each in curve.efforts.items():
        cells = [_cell(each.measures[name], digits) for name, digits in _COLUMNS.items()]
        table.add_row(Text(effort.value, "bold"), *cells, str(each.num))
    print_table(console, table)
    over = sum(each.over_budget for each in curve.efforts.values())
    turns = sum(each.num_turns for each in curve.efforts.values())
    void = sum(each.void for each in curve.efforts.values())
    if curve.auto:
        _print_auto(curve.auto)
    console.print()
    console.print(f"{over} of {turns} turns over their budget · {void} void", style="dim")


def _print_auto(auto: Auto) -> None:
    """What it makes of a task, beside the best fixed effort and the oracle."""
    console, found = out(), auto.adaptivity
    console.print()
    if found is not None:
        named = {
            "auto": found.auto,
            "best fixed effort": found.fixed,
            "oracle": found.oracle,
            "gap": found.gap,
        }
        console.print(Text("u  ", "bold").append_text(_listed(named)))
        if found.capture is None:
            console.print(f"capture is not told: the gap is below {LEAST_GAP:g}", style="dim")
        else:
            console.print(Text("capture  ", "bold").append_text(_cell(found.capture, 2)))
    table = plain_table("by level", *map(str, auto.p_think), "follows difficulty (Spearman)")
    rows = {
        "P(think)": (auto.p_think, "p_think"),
        "think tokens over high": (auto.think_ratio, "think_ratio"),
    }
    for title, (values, name) in rows.items():
        cells = [f"{values[level]:.2f}" if level in values else "" for level in auto.p_think]
        follows = auto.follows[name]
        table.add_row(title, *cells, f"{follows:.2f}" if math.isfinite(follows) else "constant")
    print_table(console, table)


def _listed(named: Mapping[str, Estimate]) -> Text:
    parts = [Text(f"{name} ").append_text(_cell(each, 3)) for name, each in named.items()]
    return Text(" · ").join(parts)


def _cell(each: Estimate, digits: int) -> Text:
    interval = f" [{each.low:.{digits}f}, {each.high:.{digits}f}]"
    return Text.assemble(f"{each.value:.{digits}f}", (interval, "dim"))
