"""The look of every table."""

from __future__ import annotations

from rich.table import Table


def plain_table(*headers: str) -> Table:
    """Without lines; a column named `tasks` is one of numbers."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for header in headers:
        table.add_column(header, justify="right" if header == "tasks" else "left", no_wrap=True)
    return table
