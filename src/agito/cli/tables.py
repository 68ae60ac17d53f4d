"""The look of every table."""

from __future__ import annotations

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from agito.cli.terminal import show

_ROOM = 10_000  # more than any table needs
_INDENT = 4
_GAP = 2


def plain_table(*headers: str, wrapped: tuple[str, ...] = ()) -> Table:
    """Without lines; a column named `tasks` is one of numbers. Those in `wrapped` give way where the terminal
    is narrow.
    """
    table = Table(box=None, padding=(0, _GAP, 0, 0), header_style="dim", pad_edge=False)
    for header in headers:
        table.add_column(
            header, justify="right" if header == "tasks" else "left", no_wrap=header not in wrapped
        )
    return table


def counted(number: object, what: str) -> str:
    """`1 turn`, `0 turns`, `12 345 tokens`."""
    return f"{number:,} {what}".replace(",", " ") + ("" if number == 1 else "s")


def print_table(console: Console, table: Table) -> None:
    """As it is where it fits; in a narrower place each row over several lines, so that nothing is ever cut
    off.
    """
    show(console, table if needed_width(console, table) <= console.width else _stacked(table))


def needed_width(console: Console, table: Table) -> int:
    """The width below which something would be cut off."""
    widths = list[int]()
    for column in table.columns:
        found = [
            Measurement.get(console, console.options.update(width=_ROOM), cell)
            for cell in (column.header, *column.cells)
        ]
        widths.append(max(each.maximum if column.no_wrap else each.minimum for each in found))
    return sum(widths) + _GAP * (len(widths) - 1)


def _stacked(table: Table) -> RenderableType:
    """A row's first cell, and beneath it the others: behind their headers, in line with one another."""
    headers = [str(column.header) for column in table.columns]
    at = max((cell_len(header) for header in headers[1:] if header), default=0) + _GAP
    lines: list[RenderableType] = [Text(headers[0], "dim")] if headers[0] else []
    for first, *others in zip(*(tuple(column.cells) for column in table.columns), strict=True):
        lines.append(_text(first))
        for header, cell in zip(headers[1:], others, strict=True):
            said = _text(cell)
            if said.plain.strip() and header:
                row = Table.grid(padding=0)
                row.add_column(width=at, style="dim")
                row.add_column(overflow="fold")
                row.add_row(header, said)
                lines.append(Padding(row, (0, 0, 0, _INDENT)))
    return Group(*lines)


def _text(cell: RenderableType) -> Text:
    return cell if isinstance(cell, Text) else Text(str(cell))
