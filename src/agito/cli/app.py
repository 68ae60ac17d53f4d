"""The commands and their options. What they need is imported when they run, so that `--help` is immediate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agito import __version__
from agito.cli import author_commands, pretrained, results
from agito.cli.arguments import (
    ActingEffort,
    AdmitAnyway,
    AsJson,
    AtEffort,
    Baselines,
    Checkpoints,
    Choose,
    Command,
    DryRun,
    Endpoint,
    EndpointModel,
    Families,
    Group,
    Levels,
    MaybeRecipe,
    NumAttempts,
    NumTasks,
    OnPlace,
    OtherEnv,
    OutDir,
    Prompts,
    RecipeName,
    ResumeRun,
    Reward,
    RunName,
    RunPath,
    Seed,
    Sets,
    Sft,
    Split,
    Suite,
    Temperature,
    Tools,
    TrainEnv,
    TrainModel,
    TrainSeed,
    effort_of,
    environments,
    recipes,
    runs,
)
from agito.cli.exit_codes import guarded

_EXIT_CODES = (
    "Exit codes: 0 done, 1 unexpected, 2 usage (help instead of a command, too), 3 recipe, 4 not found, "
    "5 checkpoint, 6 no isolation, 7 disk full, 8 a process died, "
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
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
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
    recipe: MaybeRecipe = None,
    env: TrainEnv = None,
    model: TrainModel = None,
    prompts: Prompts = None,
    reward: Reward = None,
    tools: Tools = None,
    sft: Sft = None,
    sets: Sets = None,
    seed: TrainSeed = None,
    on: OnPlace = None,
    name: RunName = None,
    out: OutDir = None,
    resume: ResumeRun = None,
    admit_anyway: AdmitAnyway = False,
    dry_run: DryRun = False,
) -> None:
    """Train an agent.

    SFT warm-up (cold start), RL, evaluation, report. A run that is already there is moved aside, never
    overwritten.

    \b
    Examples:
      agito train quickstart
      agito train smoke --set rl.steps=5 --seed 1
      agito train --env path/to/own.py:Own
      agito train shell --model smollm2-135m
      agito train --prompts tasks.jsonl --reward my_reward.py:reward --model smollm2-135m
      agito train --resume runs/quickstart
    """
    from agito.cli.train import place_of, resume_run, train_run
    from agito.plugins import label

    if resume is not None:
        given = {"RECIPE": recipe, "--set": sets, "--name": name, "--out": out, "--seed": seed, "--on": on}
        given |= {"--env": env, "--model": model, "--admit-anyway": admit_anyway, "--prompts": prompts}
        given |= {"--reward": reward, "--tools": tools, "--sft": sft, "--dry-run": dry_run}
        if taken := [option for option, value in given.items() if value]:
            raise typer.BadParameter(
                f"a resumed run keeps its own recipe and place: leave {', '.join(taken)} out",
                param_hint="--resume",
            )
        return resume_run(resume)
    env = _with_prompts(prompts, reward, tools, env)
    if recipe is None and env is None:
        raise typer.BadParameter(
            "give a recipe, such as quickstart, --env ENV, --prompts DATA, or --resume RUN",
            param_hint="RECIPE",
        )
    place = place_of(name, out)
    named = [f'name="{label(env)}"'] if env and recipe is None else []
    keys = {"seed": seed, "compute.on": on, "env.name": env or None, "model.path": model or None}
    keys["sft.messages"] = sft
    overrides = [f"{key}={value}" for key, value in keys.items() if value is not None]
    base = None if prompts is not None else "quickstart"
    words = (*named, *(sets or []), *overrides)
    return train_run(recipe or base, words, place, admit_anyway=admit_anyway, dry=dry_run)


def _with_prompts(prompts: str | None, reward: str | None, tools: str | None, env: str | None) -> str | None:
    """Prompts as an environment's name; `env` where none are given."""
    if prompts is None:
        if reward or tools:
            raise typer.BadParameter(
                "give the prompts too: --prompts DATA", param_hint="--reward" if reward else "--tools"
            )
        return env
    if env is not None or reward is None:
        raise typer.BadParameter("with --reward FILE.py:NAME, and without --env", param_hint="--prompts")
    return ",".join([prompts, f"reward={reward}", *([f"tools={tools.replace(',', '+')}"] if tools else [])])


@app.command(cls=Command)
@guarded
def watch(run: RunPath) -> None:
    """Watch a run that another process writes.

    Draws what its own terminal shows, from the events in its folder, until it ends.

    \b
    Example:
      agito watch runs/quickstart
    """
    from agito.cli.watch import watch_run

    watch_run(run)


@app.command("eval", cls=Command)
@guarded
def evaluate(
    checkpoints: Checkpoints = None,
    env: OtherEnv = None,
    split: Split = "heldout",
    level: Levels = None,
    family: Families = None,
    n: NumTasks = None,
    attempts: NumAttempts = 1,
    choose: Choose = False,
    temperature: Temperature = None,
    seed: Seed = None,
    baselines: Baselines = True,
    suite: Suite = None,
    endpoint: Endpoint = None,
    model: EndpointModel = "default",
    effort: AtEffort = None,
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
      agito eval runs/think --effort all
      agito eval runs/chain runs/smoke --suite decisions
      agito eval --suite decisions --endpoint http://localhost:8000/v1 --model NAME
    """
    from agito.cli.choose import choose_checkpoint
    from agito.cli.efforts import compare_efforts
    from agito.cli.evaluate import How, evaluate_checkpoint
    from agito.evaluation.saved_policy import Changes

    families, levels, asked = tuple(family or ()), tuple(level or ()), effort_of(effort, with_all=True)
    how = How(
        changes=Changes(env=env, families=families, levels=levels, seed=seed, effort=asked),
        split=split,
        num_tasks=n,
        temperature=temperature,
        as_json=as_json,
        num_attempts=attempts,
    )
    given = checkpoints or []
    if suite is not None or endpoint is not None:
        from agito.cli.scorecard import score  # which asks endpoints

        return score(given, suite, endpoint, model, how)
    if len(given) != 1:
        raise typer.BadParameter("give one run or checkpoint; two go with --suite", param_hint="RUN")
    if choose:
        return choose_checkpoint(given[0], how)
    if effort == "all":
        return compare_efforts(given[0], how)
    return evaluate_checkpoint(given[0], how, baselines=baselines)


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
    effort: ActingEffort = None,
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
    from agito.evaluation.saved_policy import Changes

    changes = Changes(
        env=env,
        families=(family,) if family else (),
        levels=(level,) if level is not None else (),
        seed=seed,
        effort=effort_of(effort),
    )
    choice = Choice(split=split, index=index, changes=changes)
    if checkpoint is not None:
        return watch_checkpoint(checkpoint, choice, temperature=temperature, pause=pause)
    if temperature is not None or pause or effort is not None:
        raise typer.BadParameter(
            "--temperature, --effort and --pause go with --checkpoint", param_hint="--checkpoint"
        )
    return play_yourself(env or "shell", choice)


@app.command(cls=Command)
@guarded
def replay(
    run: RunPath,
    attempt: Annotated[
        str | None,
        typer.Argument(metavar="ATTEMPT", help="GROUP.SLOT or GROUP.SLOT.TRY; left out: some are listed."),
    ] = None,
    phase: Annotated[
        str | None,
        typer.Option(
            metavar="PHASE",
            help="One of demo, sft, before, rl, after, structural and baselines. "
            "Default: the last in which it was made.",
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
    """Replay a recorded attempt, token by token.

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


app.command(cls=Command)(results.compare)
app.command(cls=Command)(author_commands.audit)
app.command(cls=Command)(author_commands.grade)
app.command(cls=Command)(author_commands.serve)
app.command(cls=Command)(author_commands.gateway)
app.add_typer(author_commands.app, name="envs")
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
    """List the recipes, or every key of one.

    \b
    Examples:
      agito recipes
      agito recipes quickstart
    """
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
    """Simulate asynchronous training with tools as slow as yours.

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
    """Check what this machine supports.

    Isolation, torch, cores, memory, disk; what is missing, and the remedy.

    \b
    Example:
      agito doctor
    """
    from agito.cli.machine import diagnose

    diagnose()
