"""Loads a function task from one file: its docstring is the statement; it holds the reference, `hidden(rng)`,
and optionally ENTRY and VISIBLE.

```python
'''Return the distinct numbers in ascending order.'''

VISIBLE = [([3, 1, 3],), ([],)]


def hidden(rng):
    return [([rng.randrange(9) for _ in range(6)],) for _ in range(8)]


def solve(xs):
    return sorted(set(xs))
```
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from agito.errors import BadRecipe, NotFound
from agito.grading.cases import FunctionTask, admit
from agito.types import Json

ENTRY = "solution.py:solve"
_MODULE = "agito_task"
_SETTINGS = {"ENTRY": str, "VISIBLE": list, "TOLERANCE": float, "CASE_SECONDS": float}


def load(path: Path) -> tuple[FunctionTask, str]:
    """The task, and the secret from which its cases are drawn. Executes the file, which is trusted.

    Raises `NotFound`, or `BadRecipe` naming the problem.
    """
    try:
        source = path.read_text(encoding="utf-8")
    except OSError as error:
        raise NotFound(f"task file {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise BadRecipe(f"task file {path}: is no text in UTF-8: {error}") from None
    # dataclasses look up the types of their fields there
    module = sys.modules[_MODULE] = ModuleType(_MODULE)
    module.__file__ = str(path)
    names: dict[str, Any] = module.__dict__
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), names)
    except (Exception, SystemExit) as error:  # whatever the file does wrong is reported as its error
        raise BadRecipe(f"task file {path}: {type(error).__name__}: {error}") from error
    for name, kind in _SETTINGS.items():
        if name in names and not isinstance(names[name], kind):
            raise BadRecipe(f"task file {path}: {name} must be a {kind.__name__}")
    statement, hidden = names.get("__doc__"), names.get("hidden")
    if not isinstance(statement, str) or not callable(hidden):
        raise BadRecipe(
            f"task file {path}: needs a docstring, which is the statement, and a function hidden(rng), "
            "which draws argument lists"
        )
    secret = hashlib.sha256(source.encode()).hexdigest()
    try:
        task = FunctionTask(
            name=path.stem,
            statement=statement.strip(),
            entry=names.get("ENTRY", ENTRY),
            reference=source,
            visible=tuple(tuple(each) for each in cast("list[list[Any]]", names.get("VISIBLE", []))),
            hidden=cast("Callable[[random.Random], Sequence[Sequence[Json]]]", hidden),
            tolerance=names.get("TOLERANCE", 0.0),
            case_seconds=names.get("CASE_SECONDS", 2.0),
        )
        admit(task, secret=secret)
    except ValueError as error:
        raise BadRecipe(f"task file {path}: {error}") from error
    except Exception as error:  # from its own functions, or a VISIBLE that is no list of lists
        raise BadRecipe(f"task file {path}: {type(error).__name__}: {error}") from error
    return task, secret
