"""What a Python session gives, a list of prompts, a function, as files by which a run goes on in another
process.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from agito import plugins
from agito.errors import BadEnvironment
from agito.plugins import PromptSet

Prompts: TypeAlias = str | Path | Sequence[str | Mapping[str, Any]]
Function: TypeAlias = str | Callable[..., Any]


def named(
    prompts: Prompts,
    reward: Function,
    tools: Function | Sequence[Function] = (),
    *,
    turns: int = 0,
    tokens: int = 0,
) -> str:
    """The environment's name. Paths may carry options, `tasks.jsonl,tokens=64`. Raises `BadEnvironment`."""
    listed = [tools] if isinstance(tools, str) or callable(tools) else list(tools)
    data = str(prompts) if isinstance(prompts, str | Path) else str(_written(prompts))
    parts = [
        data,
        f"reward={_function(reward)}",
        *([f"tools={'+'.join(map(_function, listed))}"] if listed else []),
    ]
    parts += [f"{name}={value}" for name, value in (("turns", turns), ("tokens", tokens)) if value]
    found = PromptSet.parse(",".join(parts))
    assert found is not None
    return str(found.with_paths(plugins.path_from_root))


def _written(rows: Sequence[str | Mapping[str, Any]]) -> Path:
    """As JSONL, named by what it says."""
    lines: list[str] = []
    for at, row in enumerate(rows, 1):
        try:
            lines.append(
                json.dumps({"prompt": row} if isinstance(row, str) else dict(row), ensure_ascii=False)
            )
        except (TypeError, ValueError) as error:
            raise BadEnvironment(
                f"prompts, row {at}: give texts, or mappings of names to what JSON can say: {error}"
            ) from None
    return _kept("\n".join(lines) + "\n", "prompts", ".jsonl")


def _function(given: Function) -> str:
    """`path.py:name`. A function of a session without a file is kept as its source text."""
    if isinstance(given, str):
        return given
    name = getattr(given, "__name__", "")
    if not name.isidentifier():
        raise BadEnvironment(
            f"{given!r}: give a function that has a name, made by def; a run that goes on later finds it "
            "by that"
        )
    path, outer = inspect.getsourcefile(given), getattr(given, "__qualname__", name)
    if path is None or not Path(path).is_file() or outer != name:
        try:
            path = str(_kept(textwrap.dedent(inspect.getsource(given)), name, ".py"))
        except (OSError, TypeError) as error:
            raise BadEnvironment(
                f"{name}: its source cannot be read ({error}); put it into a file, FILE.py:{name}"
            ) from None
    found = f"{plugins.path_from_root(path)}:{name}"
    plugins.offer(found, given)
    return found


def _kept(text: str, name: str, suffix: str) -> Path:
    """In the person's own cache, by a hash of the text."""
    base = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(base) if base else Path.home() / ".cache") / "agito" / "prompts"
    path = folder / f"{name}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:16]}{suffix}"
    folder.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
    return path
