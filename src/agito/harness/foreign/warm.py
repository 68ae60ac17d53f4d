"""What a guest written in Python can share with the others: its interpreter, with all that it imports."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath

from agito.protocols import WarmPython

_PYTHON = re.compile(r"python(3(\.\d+)?)?")
_ASKED = (
    "import sys; library = [*sys.path]; import json, os, site; site.main(); "
    "own = os.path.realpath(getattr(sys, '_base_executable', sys.executable)); "
    "print(json.dumps([own, sys.prefix, library, site.getsitepackages(), [*sys.modules]]))"
)
_ANSWER_S = 30.0


def warm_python(
    argv: Sequence[str],
    sources: Sequence[Path],
    beside: Iterable[PurePath],
    inside: Callable[[Path], str | None],
    env: Mapping[str, str],
) -> WarmPython | None:
    """Of a command `python SCRIPT …`, whose `sources` are read for what they import; None for another one.
    `beside`: files by their path from the script's folder, where Python looks first. `inside`: where a path
    of the host is seen in a sandbox. `env`: variables that are the same for every attempt.
    """
    if not _PYTHON.fullmatch(Path(argv[0]).name) or not argv[1:] or not argv[1].endswith(".py"):
        return None
    try:
        done = subprocess.run(
            [argv[0], "-I", "-S", "-c", _ASKED], capture_output=True, text=True, timeout=_ANSWER_S, check=True
        )
        interpreter, prefix, library, places, at_start = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    own = {name for path in beside for name in _module(path)} - set(at_start)
    return WarmPython(
        interpreter=interpreter,
        executable=inside(Path(argv[0])) or argv[0],
        prefix=inside(Path(prefix)) or prefix,
        library=tuple(inside(Path(place)) or place for place in library),
        site=tuple(inside(Path(place)) or place for place in places),
        modules=tuple(dict.fromkeys(name for source in sources for name in _imported(source))),
        env=env,
        own=tuple(sorted(own)),
    )


def _module(path: PurePath) -> Iterator[str]:
    """That a file is, or makes of its folder."""
    if path.suffix == ".py" and len(path.parts) == 1:
        yield path.stem
    elif path.parts[1:] == ("__init__.py",):
        yield path.parts[0]


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
