"""Environments by name, or by `path.py:Class` from anywhere."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

from agito.errors import NotFound
from agito.protocols import Environment

_BUNDLED = {
    "shell": "agito.envs.shell:ShellEnvironment",
    "decisions": "agito.envs.decisions:DecisionsEnvironment",
    "desk": "agito.envs.desk:DeskEnvironment",
    "research": "agito.envs.research:ResearchEnvironment",
    "code": "agito.envs.code:CodeEnvironment",
    "web": "agito.envs.web:WebEnvironment",
    "web-text": "agito.envs.web:TextWebEnvironment",
}


def bundled() -> tuple[str, ...]:
    return tuple(_BUNDLED)


def load(name: str) -> Environment:
    """Raises `NotFound` for an unknown name, a missing file or class; `ValueError` for a class that is no environment."""
    target = _BUNDLED.get(name, name)
    module_name, _, class_name = target.rpartition(":")
    if not module_name:
        raise NotFound(f"environment {name!r}: there is {', '.join(_BUNDLED)}; your own is path.py:Class")
    module = _from_file(Path(module_name)) if module_name.endswith(".py") else importlib.import_module(module_name)
    found = getattr(module, class_name, None)
    if found is None:
        raise NotFound(f"environment {name!r}: {module_name} has no {class_name}")
    environment = found()
    if not isinstance(environment, Environment):
        raise ValueError(f"environment {name!r}: {class_name} does not have every method of agito.protocols.Environment")
    return environment


def _from_file(path: Path) -> ModuleType:
    """Always from the source: cached bytecode can be stale when a file is edited twice within a second."""
    if not path.is_file():
        raise NotFound(f"environment file {path}: there is no such file")
    module = ModuleType(f"agito_env_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    return module
