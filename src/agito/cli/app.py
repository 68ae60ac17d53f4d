"""The commands and their options. What they need is imported when they run, so that `--help` is immediate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agito import __version__
from agito.cli import authors, pretrained
from agito.cli.arguments import (
    AsJson,
    Command,
    Group,
    RecipeName,
    Seed,
    Sets,
    Split,
    environments,
    recipes,
    runs,
)
from agito.cli.guard import guarded

_EXIT_CODES = (
    "Exit codes: 0 done, 1 unexpected, 2 usage, 3 recipe, 4 not found, 5 checkpoint, 6 no isolation, 7 "
    "disk full, 8 a process died, "
    "9 diverged, 10 sandbox, 11 answer reachable, 12 environment paused, 13 not fit to train on, 14 "
    "endpoint, 130 Ctrl-C."
)

app = typer.Typer(
    name="agito",
    cls=Group,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EXIT_CODES,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"agito {__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version and end.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Train agents: model, environment and harness, closed into one loop.

    \b
    First steps:
      agito doctor                    what this machine offers
      agito train smoke               a first run, in about a minute
      agito envs new hidden_number    an environment of your own
    """


@app.command(cls=Command)
@guarded
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="A bundled recipe (agito recipes), or the path of a TOML file.",
            autocompletion=recipes,
        ),
    ] = None,
    env: Annotated[
        str | None,
        typer.Option(
            metavar="ENV",
            help="Train on this environment, all of it, with the rest as in RECIPE or quickstart.",
            autocompletion=environments,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Begin from this pre-trained model: a folder, a name of `agito models`, a hub id.",
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Train on prompts: JSONL, Parquet, the folder of a data set. With --reward and --model.",
        ),
    ] = None,
    reward: Annotated[
        str | None, typer.Option(metavar="FILE.py:NAME", help="The reward function of --prompts.")
    ] = None,
    tools: Annotated[
        str | None, typer.Option(metavar="FILE.py:NAME,NAME", help="Functions that the model may call.")
    ] = None,
    sft: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Imitate these conversations first: JSONL with `messages`."),
    ] = None,
    sets: Sets = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Same as --set seed=N.")] = None,
    on: Annotated[
        str | None, typer.Option(metavar="PLACE", help="Same as --set compute.on=PLACE: local, or ray.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The run goes to runs/NAME. Default: named after what it trains."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run goes to this folder instead.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Go on with the run in this folder, bit for bit.", autocompletion=runs
        ),
    ] = None,
    admit_anyway: Annotated[
        bool,
        typer.Option(
            "--admit-anyway", help="Train even on an environment that fails its audit; the run says so."
        ),
    ] = False,
) -> None:
    """Train an agent.

    Cold start, reinforcement, evaluation, report. A run that is already there is moved aside, never
    overwritten.

    \b
    Examples:
      agito train quickstart
      agito train smoke --set rl.steps=5 --seed 1
      agito train --env path/to/own.py:Own
      agito train shell-full --model smollm2-135m
      agito train --prompts tasks.jsonl --reward my_reward.py:reward --model smollm2-135m
      agito train --resume runs/quickstart
    """
    from agito.cli.train import resume_run, train_run
    from agito.recipe import label

    if resume is not None:
        taken = [
            option
            for option, value in {
                "RECIPE": recipe,
                "--set": sets,
                "--name": name,
                "--out": out,
                "--seed": seed,
                "--on": on,
                "--env": env,
                "--model": model,
                "--admit-anyway": admit_anyway,
                "--prompts": prompts,
                "--reward": reward,
                "--tools": tools,
                "--sft": sft,
            }.items()
            if value
        ]
        if taken:
            raise typer.BadParameter(
                f"a resumed run keeps its own recipe and place: leave {', '.join(taken)} out",
                param_hint="--resume",
            )
        return resume_run(resume)
    env = _prompts(prompts, reward, tools, env)
    if recipe is None and env is None:
        raise typer.BadParameter(
            "give a recipe, such as quickstart, or --env ENV, or --prompts, or --resume RUN",
            param_hint="RECIPE",
        )
    if name is not None and out is not None:
        raise typer.BadParameter("give one of --name and --out", param_hint="--out")
    named = [f'name="{label(env)}"'] if env and recipe is None else []
    given = {
        "seed": seed,
        "compute.on": on,
        "env.name": env or None,
        "model.path": model or None,
        "sft.messages": sft,
    }
    overrides = [
        *named,
        *(sets or []),
        *(f"{key}={value}" for key, value in given.items() if value is not None),
    ]
    place = out or (Path("runs") / name if name else None)
    base = None if prompts is not None else "quickstart"
    return train_run(recipe or base, tuple(overrides), place, admit_anyway=admit_anyway)


def _prompts(prompts: str | None, reward: str | None, tools: str | None, env: str | None) -> str | None:
    """As an environment's name; `env` where no prompts are given."""
    if prompts is None:
        if reward or tools:
            raise typer.BadParameter(
                "give the prompts too: --prompts DATA", param_hint="--reward" if reward else "--tools"
            )
        return env
    if env is not None or reward is None:
        raise typer.BadParameter("with --reward FILE.py:NAME, and without --env", param_hint="--prompts")
    return ",".join([prompts, f"reward={reward}", *([f"tools={tools.replace(',', '+')}"] if tools else [])])


@app.command("eval", cls=Command)
@guarded
def evaluate(
    checkpoints: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN", help="A run, or one of its checkpoints. Two with --suite.", autocompletion=runs
        ),
    ] = None,
    env: Annotated[
        str | None,
        typer.Option(
            metavar="ENV", help="Another environment than that of the run.", autocompletion=environments
        ),
    ] = None,
    split: Split = "heldout",
    level: Annotated[
        list[int] | None, typer.Option(metavar="N", help="Only this level; again for more.")
    ] = None,
    family: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this family; again for more.")
    ] = None,
    n: Annotated[
        int | None, typer.Option("--n", metavar="N", min=1, help="Number of tasks. Default: as in the run.")
    ] = None,
    attempts: Annotated[
        int, typer.Option(metavar="K", min=1, help="At each task; from 2 on pass@k and pass^k are told too.")
    ] = 1,
    temperature: Annotated[
        float | None, typer.Option(metavar="T", min=0.0, help="0 is greedy. Default: as in the run.")
    ] = None,
    seed: Seed = None,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Scripts on the same tasks, too.")
    ] = True,
    suite: Annotated[str | None, typer.Option(metavar="NAME", help="A scorecard instead: decisions.")] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="URL", help="With --suite: an OpenAI-compatible endpoint, ending in /v1."),
    ] = None,
    model: Annotated[str, typer.Option(metavar="NAME", help="The endpoint's model.")] = "default",
    as_json: AsJson = False,
) -> None:
    """Evaluate a run or a checkpoint.

    Success with 95 % intervals per family and level, beside scripts on the same tasks. With --suite, how it
    decides.

    \b
    Examples:
      agito eval runs/quickstart
      agito eval runs/quickstart --split structural --n 100
      agito eval models/smollm2-135m --env shell --level 1
      agito eval runs/chain runs/smoke --suite decisions
      agito eval --suite decisions --endpoint http://localhost:8000/v1 --model NAME
    """
    from agito.evaluation.checkpoint import Changes

    changes = Changes(env=env, families=tuple(family or ()), levels=tuple(level or ()), seed=seed)
    given = checkpoints or []
    if endpoint is not None and suite is None:
        raise typer.BadParameter(
            "an endpoint is measured by a scorecard: add --suite decisions", param_hint="--endpoint"
        )
    if suite is not None:
        from agito.cli.scorecard import score_checkpoints, score_endpoint

        if endpoint is not None:
            score_endpoint(
                endpoint,
                model,
                suite,
                changes,
                split=split,
                num_tasks=n,
                temperature=temperature,
                as_json=as_json,
            )
        elif 1 <= len(given) <= 2:
            score_checkpoints(
                given, suite, changes, split=split, num_tasks=n, temperature=temperature, as_json=as_json
            )
        else:
            raise typer.BadParameter("give one run, two to compare them, or --endpoint", param_hint="RUN")
        return
    if len(given) != 1:
        raise typer.BadParameter("give one run or checkpoint; two go with --suite", param_hint="RUN")
    from agito.cli.evaluate import evaluate_checkpoint

    evaluate_checkpoint(
        given[0],
        changes,
        split=split,
        num_tasks=n,
        temperature=temperature,
        baselines=baselines,
        as_json=as_json,
        num_attempts=attempts,
    )


@app.command(cls=Command)
@guarded
def play(
    env: Annotated[
        str | None,
        typer.Argument(
            metavar="ENV",
            help="Default: shell, or that of the checkpoint's run.",
            autocompletion=environments,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Watch this run, or checkpoint, act instead.", autocompletion=runs),
    ] = None,
    split: Split = "heldout",
    family: Annotated[str | None, typer.Option(metavar="NAME", help="Only this family.")] = None,
    level: Annotated[int | None, typer.Option(metavar="N", help="Only this level.")] = None,
    index: Annotated[int, typer.Option(metavar="N", min=0, help="Which task of the split.")] = 0,
    seed: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Other tasks. Default: 0, or the run's own.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(metavar="T", min=0.0, help="Of the checkpoint; 0 is greedy.")
    ] = None,
    pause: Annotated[
        bool, typer.Option("--pause", help="Wait for Enter after each of the checkpoint's turns.")
    ] = False,
) -> None:
    """Act in an episode yourself, or watch one.

    \b
    Examples:
      agito play shell --level 2
      agito play --checkpoint runs/quickstart --index 3
    """
    from agito.cli.play import Choice, play_yourself, watch_checkpoint
    from agito.evaluation.checkpoint import Changes

    changes = Changes(
        env=env, families=(family,) if family else (), levels=(level,) if level is not None else (), seed=seed
    )
    choice = Choice(split=split, index=index, changes=changes)
    if checkpoint is not None:
        return watch_checkpoint(checkpoint, choice, temperature=temperature, pause=pause)
    if temperature is not None or pause:
        raise typer.BadParameter("--temperature and --pause go with --checkpoint", param_hint="--checkpoint")
    return play_yourself(env or "shell", choice)


@app.command(cls=Command)
@guarded
def replay(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run's folder, such as runs/quickstart.", autocompletion=runs),
    ],
    attempt: Annotated[
        str | None,
        typer.Argument(metavar="ATTEMPT", help="GROUP.SLOT or GROUP.SLOT.TRY; left out: some are listed."),
    ] = None,
    phase: Annotated[
        str | None,
        typer.Option(
            metavar="PHASE",
            help="demo, before, rl, after or structural. Default: the last in which it was made.",
        ),
    ] = None,
    step: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="List the attempts of this step. Default: the last."),
    ] = None,
    schedule: Annotated[
        bool, typer.Option("--schedule", help="Instead, what the decoupled loop's schedule decided.")
    ] = False,
    updates: Annotated[
        bool,
        typer.Option("--updates", help="Instead, RL from the recorded tokens: are the weights the same?"),
    ] = False,
) -> None:
    """Act a recorded attempt again, token by token.

    In a fresh world; says where it diverges from what was recorded.

    \b
    Examples:
      agito replay runs/quickstart
      agito replay runs/quickstart 1000004.0
    """
    from agito.cli.replay import list_attempts, parse_attempt, replay_attempt, replay_schedule, replay_updates

    if (attempt is not None) + schedule + updates > 1:
        raise typer.BadParameter("an attempt, --schedule and --updates exclude one another")
    if schedule:
        return replay_schedule(run)
    if updates:
        return replay_updates(run)
    if attempt is None:
        return list_attempts(run, phase, step)
    return replay_attempt(run, parse_attempt(attempt), phase)


app.command(cls=Command)(authors.audit)
app.command(cls=Command)(authors.grade)
app.command(cls=Command)(authors.serve)
app.add_typer(authors.app, name="envs")
app.add_typer(pretrained.app, name="models")


@app.command("recipes", cls=Command)
@guarded
def list_recipes(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE", help="Every key of this one, with its value.", autocompletion=recipes
        ),
    ] = None,
) -> None:
    """List the recipes, or every key of one."""
    from agito.cli.recipes import print_recipe, print_recipes

    return print_recipes() if name is None else print_recipe(name)


@app.command(cls=Command)
@guarded
def plan(
    recipe: RecipeName,
    sets: Sets = None,
    tool_median: Annotated[
        float, typer.Option(metavar="S", min=0.0, help="Median seconds of a tool call.")
    ] = 0.0,
    tool_p99: Annotated[
        float,
        typer.Option(
            metavar="S",
            min=0.0,
            help="99th percentile (log-normal). Default: as the median.",
            show_default=False,
        ),
    ] = 0.0,
    turns: Annotated[int, typer.Option(metavar="N", min=1, help="Turns of an episode.")] = 6,
    turn_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens sampled in a turn.")] = 16,
    words: Annotated[int, typer.Option(metavar="N", min=1, help="Words read back from a tool.")] = 12,
    engines: Annotated[
        int, typer.Option(metavar="N", min=1, help="Engine processes, each as fast as the one measured here.")
    ] = 1,
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Steps to simulate.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Foresee what overlapping would bring.

    Throughput, idle time and token age of the decoupled loop for several bounds on staleness, from latencies
    measured here.

    \b
    Example:
      agito plan quickstart --tool-median 0.5 --tool-p99 20
    """
    from agito import recipe as recipe_module
    from agito.cli.plan import Tools
    from agito.cli.plan import plan as plan_recipe

    tools = Tools(turns=turns, turn_tokens=turn_tokens, words=words, median_s=tool_median, p99_s=tool_p99)
    plan_recipe(
        recipe_module.read(recipe, tuple(sets or ())), tools, engines=engines, steps=steps, as_json=as_json
    )


@app.command(cls=Command)
@guarded
def doctor() -> None:
    """Say what this machine offers.

    Isolation, torch, cores, memory, disk; what is missing, and the remedy.
    """
    from agito.cli.machine import diagnose

    diagnose()
