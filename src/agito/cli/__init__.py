"""The command line: `agito`, or `python -m agito`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence

_MIN_WIDTH, _MAX_WIDTH = 20, 100  # of help


def main(argv: Sequence[str] | None = None) -> None:
    """Ends the process with a stable exit code; see `agito.errors`."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "--debug" in words:
        os.environ["AGITO_DEBUG"] = "1"
    try:
        from agito.cli.app import app
        from agito.cli.terminal import prepare

        prepare()
        width = max(min(shutil.get_terminal_size().columns, _MAX_WIDTH) - 2, _MIN_WIDTH)
        app(args=[word for word in words if word != "--debug"], prog_name="agito", terminal_width=width)
    except KeyboardInterrupt:  # before any command had begun
        sys.exit(130)


__all__ = ["main"]
