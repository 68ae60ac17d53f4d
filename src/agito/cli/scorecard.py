"""`agito eval --suite`: the table of decisions, and the difference between two checkpoints."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.text import Text

from agito.cli.endpoint import (
    NUM_TASKS,
    asking,
    evaluate_endpoint,
    require_address,
    require_verdicts,
)
from agito.cli.evaluate import How
from agito.cli.exit_codes import say, work
from agito.cli.progress import shown, tell_loading
from agito.cli.summary import cause_lines, rate_text
from agito.cli.tables import counted, plain_table, print_table
from agito.cli.terminal import err, out
from agito.evaluation import scorecard
from agito.evaluation.scorecard import DECISIONS, Estimate, Measure, Scorecard
from agito.harness.endpoint import ChatHarness
from agito.recipe import EnvSection, Recipe
from agito.record.events import OnEvent
from agito.record.usage import causes
from agito.runtime import load_policy
from agito.training.progress.board import Phase, RunProgress
from agito.types import Dialect


def score(
    given: list[Path],
    suite: str | None,
    endpoint: str | None,
    model: str,
    how: How,
    *,
    baselines: bool,
    chooses: bool,
) -> None:
    """How a run, two of them, or an endpoint decides; without a suite, an endpoint's success."""
    if endpoint is not None and chooses:
        raise typer.BadParameter("an endpoint has no checkpoints", param_hint="--choose")
    if endpoint is not None and suite is None:
        return evaluate_endpoint(endpoint, model, given, how, baselines=baselines)
    assert suite is not None
    if endpoint is not None:
        return score_endpoint(endpoint, model, suite, how)
    if not 1 <= len(given) <= 2:
        raise typer.BadParameter("give one run, two to compare them, or --endpoint", param_hint="RUN")
    return score_checkpoints(given, suite, how)


def score_checkpoints(paths: Sequence[Path], suite: str, how: How) -> None:
    directories = [load_policy.find(path) for path in paths]
    recipe = how.changes.applied_to(scorecard.recipe_for(suite, load_policy.recipe_of(directories[0])))
    for directory in directories:
        learned = load_policy.recipe_of(directory).env
        if suite not in learned.names:
            say(f"{directory} learned {learned.title}, never {suite}: expect it to fail here")
    num_tasks, split = how.num_tasks or recipe.eval.tasks, how.split
    heat = recipe.eval.temperature if how.temperature is None else how.temperature
    named = dict(zip(_names(directories), directories, strict=True))
    tell_loading(load_policy.recipe_of(directories[0]))
    with shown(_board(list(named), num_tasks), err()) as view:
        card = work(
            lambda: scorecard.of_checkpoints(
                named, recipe, view.handle, suite=suite, split=split, num_tasks=num_tasks, temperature=heat
            )
        )
    show(card, as_json=how.as_json)


def score_endpoint(url: str, model: str, suite: str, how: How) -> None:
    """Any OpenAI-compatible endpoint."""
    require_address(url)
    natural = Recipe(env=EnvSection(dialect=Dialect.NATURAL))  # what an endpoint speaks
    recipe = how.changes.applied_to(scorecard.recipe_for(suite, natural))
    num_tasks = how.num_tasks or NUM_TASKS
    temperature = 1.0 if how.temperature is None else how.temperature

    async def score(on_event: OnEvent) -> Scorecard:
        async with asking(
            url,
            model,
            temperature=temperature,
            effort=how.changes.effort,
            turn_tokens=ChatHarness.TURN_TOKENS,
        ) as harness:
            return await scorecard.of_endpoint(
                harness, model, recipe, on_event, suite=suite, split=how.split, num_tasks=num_tasks
            )

    with shown(_board([model], num_tasks), err()) as view:
        card = work(lambda: score(view.handle))
    show(card, as_json=how.as_json)
    policy = card.columns[0]
    require_verdicts(policy.void, policy.over_all.num, _causes(card))


def _causes(card: Scorecard) -> dict[str, int]:
    return causes(reading.attempt for column in card.columns for reading in column.readings)


def show(card: Scorecard, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(card.to_json(), allow_nan=False))  # noqa: T201
        return
    console = out()
    has_difference = card.num_policies > 1
    names = [column.name for column in card.columns]
    table = plain_table("decisions, 95 % interval", *names, *(["difference"] if has_difference else []))
    table.add_row(
        Text("success", "bold"),
        *(
            rate_text(column.success, "bold" if at < card.num_policies else "")
            for at, column in enumerate(card.columns)
        ),
    )
    if any(column.void for column in card.columns):
        table.add_row(
            "  void as failure",
            *(rate_text(column.over_all) if column.void else "" for column in card.columns),
        )
    decision = ""
    for measure in card.measures:
        if measure.decision != decision:
            decision = measure.decision
            table.add_section()
            table.add_row(Text(f"({decision}) {DECISIONS[decision]}", "bold"))
        cells = [_text(column.estimate(measure.name), measure) for column in card.columns]
        difference = card.difference(measure.name)
        table.add_row(
            f"  {measure.title}", *cells, *([_text(difference, measure, signed=True)] if difference else [])
        )
    print_table(console, table)
    levels = ", ".join(map(str, card.levels))
    about = (
        f"{card.suite} · {card.split} · {', '.join(card.families)} · levels {levels} · "
        f"{counted(card.num_tasks, 'task')}"
    )
    console.print(about, style="dim")
    for line in cause_lines(_causes(card)):
        console.print(Text(line, "yellow"))


def _text(found: Estimate, measure: Measure, *, signed: bool = False) -> Text:
    """`12 % [8, 17]` for shares, else `1.3 [1.1, 1.5]`; a dash where nothing was measured."""
    if not math.isfinite(found.value):
        return Text("–", "dim")
    scale, unit, digits = (100, " %", 0) if measure.is_share else (1, "", 2)
    sign = "+" if signed else ""
    bounds = ", ".join(
        f"{scale * each:{sign}.{digits}f}" if math.isfinite(each) else "–" for each in (found.low, found.high)
    )
    return Text.assemble(f"{scale * found.value:{sign}.{digits}f}{unit}", (f" [{bounds}]", "dim"))


def _names(directories: Sequence[Path]) -> list[str]:
    """The shortest that tell them apart."""
    short = [directory.name for directory in directories]
    if len(set(short)) == len(short):
        return short
    return [str(directory) for directory in directories]


def _board(names: Sequence[str], num_tasks: int) -> RunProgress:
    return RunProgress([Phase(name, name, "tasks", num_tasks) for name in names])
