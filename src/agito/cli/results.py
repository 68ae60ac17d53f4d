"""Commands that read runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agito.cli.arguments import AsJson, runs
from agito.cli.exit_codes import guarded


@guarded
def compare(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN RUN [RUN ...]",
            help="Finished runs; the others are compared with the first.",
            autocompletion=runs,
            show_default=False,
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Compare finished runs, side by side.

    Success with 95 % intervals, and how far apart, task by task where the tasks are the same; cells, tokens,
    time; what differs in recipe, commit and machine.

    \b
    Example:
      agito compare runs/quickstart runs/mine
    """
    from agito.cli.compare import compare_runs

    if len(paths) < 2:
        raise typer.BadParameter("give two runs or more", param_hint="RUN")
    compare_runs(paths, as_json=as_json)


@guarded
def export(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="A run, or one of its checkpoints.", autocompletion=runs, show_default=False
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.", show_default=False)],
) -> None:
    """Write a trained policy as a Hugging Face folder.

    All weights, an adapter merged in; tokenizer and chat template as the policy used them. The folder's path
    goes to standard output, how vLLM serves it to standard error.

    \b
    Example:
      agito export runs/smollm2-shell my-agent
    """
    from agito.cli.models import export_policy

    export_policy(run, folder)
