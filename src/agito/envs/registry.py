"""Environments by name, or by `path.py:Class` from anywhere."""

from __future__ import annotations

import ast
import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType

from agito.errors import BadEnvironment, NotFound
from agito.protocols import Environment, Isolated

_BUNDLED = {
    "shell": "agito.envs.shell:ShellEnvironment",
    "decisions": "agito.envs.decisions:DecisionsEnvironment",
    "desk": "agito.envs.desk:DeskEnvironment",
    "research": "agito.envs.research:ResearchEnvironment",
    "code": "agito.envs.code:CodeEnvironment",
    "web": "agito.envs.web:WebEnvironment",
    "web-text": "agito.envs.web:TextWebEnvironment",
}


_MEMBERS = tuple(name for name in vars(Environment) if not name.startswith("_"))


def bundled() -> tuple[str, ...]:
    return tuple(_BUNDLED)


def isolation_of(environment: Environment) -> str:
    """What keeps the environment's episodes in, or `unknown`."""
    return environment.isolation_tier if isinstance(environment, Isolated) else "unknown"


def load(name: str) -> Environment:
    """Raises `NotFound` for an unknown name, a missing file or class; `BadEnvironment` for a class that is no environment, and for a file
    or class that fails."""
    target = _BUNDLED.get(name, name)
    module_name, _, class_name = target.rpartition(":")
    if not module_name and name.endswith(".py"):
        raise NotFound(f"environment {name!r}: name its class too, {name}:Class{_meant(name)}")
    if not module_name:
        raise NotFound(f"environment {name!r}: there is {', '.join(_BUNDLED)}; your own is path.py:Class{_meant(name)}")
    module = _from_file(Path(module_name)) if module_name.endswith(".py") else importlib.import_module(module_name)
    found = getattr(module, class_name, None)
    if found is None:
        raise NotFound(f"environment {name!r}: {module_name} has no {class_name}")
    try:
        environment = found()
    except Exception as error:  # the boundary: it is somebody else's class
        raise BadEnvironment(f"environment {name!r}: {class_name}() fails: {_told(error)}") from error
    missing = [each for each in _MEMBERS if not hasattr(environment, each)]
    if missing or not isinstance(environment, Environment):
        raise BadEnvironment(
            f"environment {name!r}: {class_name} lacks {', '.join(missing)}, which every environment has: pydoc agito.protocols.Environment"
        )
    return environment


def _meant(name: str) -> str:
    """Where a file has that name: the environments in it."""
    path = Path(name if name.endswith(".py") else f"{name}.py")
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, ValueError, SyntaxError):
        return ""
    found = [
        f"{path}:{node.name}"
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any("Environment" in ast.unparse(base) for base in node.bases)
    ]
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _from_file(path: Path) -> ModuleType:
    """Always from the source: cached bytecode can be stale when a file is edited twice within a second."""
    if not path.is_file():
        raise NotFound(f"environment file {path}: there is no such file")
    module = ModuleType(f"agito_env_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    try:
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)
    except Exception as error:  # the boundary: it is somebody else's file
        raise BadEnvironment(f"environment file {path}: {_told(error)}") from error
    return module


def _told(error: Exception) -> str:
    """With the line of whoever raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    at = f" (line {frames[-1].lineno} of {frames[-1].filename})" if len(frames) > 1 else ""
    return f"{type(error).__name__}: {error}{at}"
