"""Consoles for output: their width, and an ASCII substitute for each character that the terminal cannot
encode.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
import unicodedata

from rich.console import Console, RenderableType

_FILE_WIDTH = 160  # where nobody looks on, nothing needs to be cut
_HANDLER = "agito.plainly"
_PLAIN = {
    "✓": "+",
    "✗": "x",
    "→": ">",
    "←": "<",
    "↓": "v",
    "↵": "/",
    "⇥": "/",
    "·": "-",
    "•": "-",
    "–": "-",
    "—": "-",
    "−": "-",
    "…": "~",
    "×": "x",
    "│": "|",
    "└": "`",
    "∅": "0",
    "±": "~",
    "≤": "<",
    "≥": ">",
    **dict(zip("▁▂▃▄▅▆▇█", "_.,-=+*#", strict=True)),
}


def prepare() -> None:
    """Standard output and error never raise for a sign that cannot be encoded; call it once, before anything
    is printed.
    """
    codecs.register_error(_HANDLER, _plainly)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def out() -> Console:
    """For results."""
    return Console(highlight=False, width=_width(sys.stdout.isatty()))


def err() -> Console:
    """For what goes on meanwhile."""
    return Console(highlight=False, stderr=True, width=_width(sys.stderr.isatty()))


def show(console: Console, found: RenderableType) -> None:
    """As `print`, without the blanks behind a line where they would end up in a file."""
    if console.is_terminal:
        console.print(found)
        return
    with console.capture() as caught:
        console.print(found)
    console.print(
        "\n".join(line.rstrip() for line in caught.get().rstrip("\n").split("\n")),
        markup=False,
        soft_wrap=True,
    )


def _width(is_watched: bool) -> int | None:
    """None: as wide as the terminal, or as COLUMNS says."""
    return None if is_watched or os.environ.get("COLUMNS") else _FILE_WIDTH


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """One sign for one sign, so that columns stay in line."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_sign, error.object[error.start : error.end])), error.end


def _sign(char: str) -> str:
    if "\u2800" <= char <= "\u28ff":  # the spinner's
        return "*"
    if "\u2500" <= char <= "\u257f":
        return "-"
    return (
        _PLAIN.get(char) or unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode()[:1] or "?"
    )
