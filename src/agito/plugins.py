"""Somebody else's class, by a bundled name or by `path.py:Class` from anywhere: environments and harnesses
alike.
"""

from __future__ import annotations

import ast
import importlib
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from agito.config import meant
from agito.errors import AgitoError, NotFound


def make(
    kind: str, name: str, bundled: Mapping[str, str], members: Sequence[str], bad: type[AgitoError]
) -> object:
    """An instance, made without arguments, that has every one of `members`.

    `kind` is for messages. Raises `NotFound` for an unknown name, a missing file or class, and `bad` for a
    file or class that fails or lacks a member.
    """
    target = bundled.get(name, name)
    module_name, _, class_name = target.rpartition(":")
    if not module_name and name.endswith(".py"):
        raise NotFound(f"{kind} {name!r}: name its class too, {name}:Class{_in_file(kind, name)}")
    if not module_name:
        hint = _in_file(kind, f"{name}.py") or meant(name, tuple(bundled))
        raise NotFound(f"{kind} {name!r}: there is {', '.join(bundled)}; your own is path.py:Class{hint}")
    module = (
        _from_file(kind, Path(module_name), bad)
        if module_name.endswith(".py")
        else importlib.import_module(module_name)
    )
    found = getattr(module, class_name, None)
    if found is None:
        raise NotFound(f"{kind} {name!r}: {module_name} has no {class_name}")
    try:
        made = found()
    except Exception as error:  # the boundary: it is somebody else's class
        raise bad(f"{kind} {name!r}: {class_name}() fails: {_explained(error)}") from error
    missing = [each for each in members if not hasattr(made, each)]
    if missing:
        raise bad(
            f"{kind} {name!r}: {class_name} lacks {', '.join(missing)}, which every {kind} has: pydoc "
            f"agito.protocols.{kind.title()}"
        )
    return made


def _in_file(kind: str, path: str) -> str:
    """The classes of a file that look like what is wanted, by the names of their bases."""
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, ValueError, SyntaxError):
        return ""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    found = [
        f"{path}:{each.name}"
        for each in classes
        if any(kind.title() in ast.unparse(base) for base in each.bases)
    ]
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _from_file(kind: str, path: Path, bad: type[AgitoError]) -> ModuleType:
    """Always from the source: cached bytecode can be stale when a file is edited twice within a second."""
    if not path.is_file():
        raise NotFound(f"{kind} file {path}: there is no such file")
    module = ModuleType(f"agito_{'env' if kind == 'environment' else kind}_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    try:
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)
    except Exception as error:  # the boundary: it is somebody else's file
        raise bad(f"{kind} file {path}: {_explained(error)}") from error
    return module


def _explained(error: Exception) -> str:
    """With the line of whoever raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    at = f" (line {frames[-1].lineno} of {frames[-1].filename})" if len(frames) > 1 else ""
    return f"{type(error).__name__}: {error}{at}"
