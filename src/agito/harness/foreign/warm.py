"""What a guest written in Python can share with the others: its interpreter, with all that it imports."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from agito.protocols import WarmPython

_PYTHON = re.compile(r"python(3(\.\d+)?)?")
_ASKED = (
    "import sys; library = [*sys.path]; import json, os, site; site.main(); "
    "own = os.path.realpath(getattr(sys, '_base_executable', sys.executable)); "
    "print(json.dumps([own, sys.prefix, library, site.getsitepackages()]))"
)
_ANSWER_S = 30.0


def warm_python(
    argv: Sequence[str], sources: Sequence[Path], inside: Callable[[Path], str | None]
) -> WarmPython | None:
    """Of a command `python SCRIPT …`, whose `sources` are read for what they import; None for another one.
    `inside`: where a path of the host is seen in a sandbox.
    """
    if not _PYTHON.fullmatch(Path(argv[0]).name) or not argv[1:] or not argv[1].endswith(".py"):
        return None
    try:
        done = subprocess.run(
            [argv[0], "-I", "-S", "-c", _ASKED], capture_output=True, text=True, timeout=_ANSWER_S, check=True
        )
        interpreter, prefix, library, places = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return WarmPython(
        interpreter=interpreter,
        executable=inside(Path(argv[0])) or argv[0],
        prefix=inside(Path(prefix)) or prefix,
        library=tuple(inside(Path(place)) or place for place in library),
        site=tuple(inside(Path(place)) or place for place in places),
        modules=tuple(dict.fromkeys(name for source in sources for name in _imported(source))),
    )


def _imported(source: Path) -> Iterator[str]:
    """The modules that a file imports wherever it is read, not in its functions."""
    try:
        waiting = list(ast.parse(source.read_bytes()).body)
    except (OSError, SyntaxError, ValueError):
        return
    while waiting:
        match waiting.pop(0):
            case ast.Import(names=names):
                yield from (each.name for each in names)
            case ast.ImportFrom(module=str(name), level=0):
                if name != "__future__":
                    yield name
            case ast.If(body=body, orelse=others) | ast.Try(body=body, orelse=others):
                waiting += [*body, *others]
            case _:
                pass
