"""The commands for whoever writes environments or agents: `envs`, `audit`, `grade`, `serve`, `gateway`."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal

import typer

from agito.cli.arguments import AsJson, Command, EnvName, Group, Split, environments, runs
from agito.cli.exit_codes import guarded


class _Listing(Group):
    """`agito envs` and `agito envs ENV...` list. The context's type is of Typer's own copy of click, hence
    `Any`.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        is_completing = ctx.resilient_parsing and not args  # then the commands are what may come
        if not is_completing and (not args or (args[0] not in self.commands and not args[0].startswith("-"))):
            like = get_close_matches(args[0], self.commands, cutoff=0.7) if len(args) > 1 else []
            if like:  # a second word is what such a command is about
                raise typer.BadParameter(f"there is no command {args[0]!r}; did you mean {like[0]}?")
            args = ["list", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_Listing, rich_markup_mode=None)


@app.callback()
def envs() -> None:
    """List, check and begin environments.

    \b
    Examples:
      agito envs
      agito envs path/to/own.py:Own
      agito envs new hidden_number
      agito envs check hidden_number.py:HiddenNumber
    """


@app.command("list", cls=Command)
@guarded
def list_(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="ENV", help="Only these; path.py:Class too.", autocompletion=environments),
    ] = None,
) -> None:
    """Families, levels, splits and chance level. The same as `agito envs [ENV]...`."""
    from agito.cli.machine import list_environments

    list_environments(names or [])


@app.command(cls=Command)
@guarded
def check(env: EnvName) -> None:
    """Does an environment keep the standard?

    Goes through every rule, and names the line and the remedy where one does not hold.
    """
    from agito.cli.envs import check_environment

    check_environment(env)


@app.command(cls=Command)
@guarded
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the environment, such as hidden_number.")],
    into: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="The folder to write it into. Default: this one.", show_default=False
        ),
    ] = Path(),
) -> None:
    """Write a small environment of your own, with its test."""
    from agito.cli.envs import new_environment

    new_environment(name, into)


@guarded
def audit(
    env: EnvName,
    short: Annotated[
        bool, typer.Option("--short", help="As before training on an environment that is new here.")
    ] = False,
    seconds: Annotated[
        float | None,
        typer.Option(metavar="S", min=1.0, help="What it may take, about. Default: 100, and 25 if short."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Of the tasks that are looked at.")
    ] = None,
    as_json: AsJson = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the card as a page.")] = None,
) -> None:
    """Is an environment fit to train on?

    Its card: the gates that training asks for, and figures on eight qualities.

    \b
    Examples:
      agito audit shell
      agito audit path/to/own.py:Own --html card.html
    """
    from agito.cli.audit import audit_environment

    audit_environment(env, short=short, seconds=seconds, seed=seed, as_json=as_json, html=html)


@guarded
def grade(
    target: Annotated[
        str, typer.Argument(metavar="ENV", help="An environment, or the path.py of a function task.")
    ],
    workspace: Annotated[Path, typer.Option(metavar="DIR", help="The folder to judge.")],
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK", help="SPLIT/INDEX or SPLIT/FAMILY-LEVEL/INDEX; nothing for a function task."
        ),
    ] = "",
    submit: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What was submitted at the end; left out: what the task asks for."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Other tasks.")] = 0,
    grade_seed: Annotated[int, typer.Option(metavar="N", min=0, help="Other hidden cases.")] = 0,
    begin: Annotated[
        bool,
        typer.Option("--begin", help="Instead, write the files that the task begins with into the folder."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Judge a folder that was made by hand.

    Through the same path as in training; prints the verdict with its evidence.

    \b
    Examples:
      agito grade code heldout/bug-2/7 --workspace try --begin
      agito grade code heldout/bug-2/7 --workspace try
      agito grade distinct.py --workspace try
    """
    from agito.cli.grade import Wanted, begin_folder, grade_folder

    wanted = Wanted(
        target=target, task=task, workspace=workspace, submit=submit, seed=seed, grade_seed=grade_seed
    )
    if begin:
        return begin_folder(wanted)
    return grade_folder(wanted, as_json=as_json)


@guarded
def serve(
    env: EnvName,
    mcp: Annotated[
        bool, typer.Option("--mcp", help="As an MCP server on standard input and output.")
    ] = False,
    verdicts: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Where verdicts are appended, one JSON object a line; the client never sees them.",
        ),
    ] = Path("verdicts.jsonl"),
    split: Split = "heldout",
    level: Annotated[int | None, typer.Option(metavar="N", help="Only this level.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of the stream of tasks.")] = 0,
) -> None:
    """Serve an environment to any agent.

    The agent opens tasks, acts and submits; grading stays on this side.

    \b
    Example:
      agito serve shell --mcp --verdicts verdicts.jsonl
    """
    if not mcp:
        raise typer.BadParameter(f"add --mcp, the way to serve it: agito serve {quote(env)} --mcp")
    from importlib.util import find_spec

    if find_spec("mcp") is None:
        raise typer.BadParameter(
            "needs the MCP SDK, which an extra installs: pip install 'agito[mcp]'", param_hint="--mcp"
        )
    from agito.cli import serve as mcp_server

    mcp_server.serve(env, verdicts, split=split, seed=seed, level=level)


@guarded
def gateway(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run, a checkpoint, a pre-trained model.", autocompletion=runs),
    ],
    host: Annotated[str, typer.Option(metavar="HOST", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="0: any that is free.")] = 8000,
    key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="That clients must send. Default: one is drawn, and printed."),
    ] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep what is served there, as trajectories.")
    ] = None,
    judge_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="With --record: of whoever reports outcomes. Default: drawn."),
    ] = None,
    temperature: Annotated[
        float, typer.Option(metavar="T", min=0.0, help="Where a client asks for none.")
    ] = 1.0,
    sampler: Annotated[
        Literal["embedded", "vllm"],
        typer.Option(metavar="NAME", help="embedded, or vllm: a server of its own, which is started."),
    ] = "embedded",
) -> None:
    """Serve a policy to any agent.

    Speaks OpenAI's chat completions and responses and Anthropic's messages.

    \b
    Examples:
      agito gateway runs/quickstart
      agito gateway models/smollm2-135m --record served
    """
    import secrets

    from agito.cli.gateway import Place, serve_policy

    drawn, judges = (f"agito-{secrets.token_urlsafe(24)}" for _ in range(2))
    place = Place(host=host, port=port, key=key or drawn, record=record, judge_key=judge_key or judges)
    if place.judge_key == place.key:
        raise typer.BadParameter("the agent has --key; give another", param_hint="--judge-key")
    serve_policy(checkpoint, place, temperature=temperature, sampler=sampler)
