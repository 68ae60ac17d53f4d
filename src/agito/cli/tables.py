"""The look of every table."""

from __future__ import annotations

from rich.table import Table


def plain_table(*headers: str, wrapped: tuple[str, ...] = ()) -> Table:
    """Without lines; a column named `tasks` is one of numbers. Those in `wrapped` give way where the terminal is narrow."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for header in headers:
        table.add_column(header, justify="right" if header == "tasks" else "left", no_wrap=header not in wrapped)
    return table
