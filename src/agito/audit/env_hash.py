"""Identifies the environment that a card is about: a hash of its name, version and source.

The source is the file of the environment's class, those of its base classes, and whatever these import from
their own folder. Comments, docstrings and layout do not count. The machinery below (sandbox, world) is not
included; the long tests cover changes there.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from types import CodeType
from typing import cast

from agito.plugins import is_made_here
from agito.protocols import Environment, Sourced


def digest_of(environment: Environment) -> str:
    """Equal for equal source, wherever the files are."""
    found = hashlib.sha256(
        f"{type(environment).__qualname__}\n{environment.name}\n{environment.version}".encode()
    )
    if is_made_here(type(environment)):
        found.update(b"\nmade by whoever gave it")
    for each in type(environment).__mro__:
        if (module := sys.modules.get(each.__module__)) is None or not hasattr(module, "__file__"):
            found.update(_compiled(each).encode())
    sources = sources_of(
        type(environment), *(environment.sources if isinstance(environment, Sourced) else ())
    )
    for path in sorted(sources, key=lambda path: (path.parent.name, path.name)):
        found.update(
            f"\n{path.parent.name if (path.parent / '__init__.py').exists() else ''}/{path.name}\n".encode()
        )
        found.update(_code_of(path).encode())
    return found.hexdigest()[:32]


def _compiled(kind: type) -> str:
    """Of a class without a file, such as a notebook's, its compiled code; nothing for Python's own."""
    if kind.__module__.split(".")[0] in sys.stdlib_module_names:
        return ""
    codes = [getattr(each, "__code__", None) for _, each in sorted(vars(kind).items())]
    return "".join(_said(code) for code in codes if code is not None)


def _said(code: CodeType) -> str:
    constants = [_said(each) if isinstance(each, CodeType) else _constant(each) for each in code.co_consts]
    return repr((code.co_name, code.co_code.hex(), code.co_names, constants))


def _constant(value: object) -> str:
    """The order of a set depends on hash seeds."""
    if isinstance(value, frozenset):
        return repr(sorted(map(repr, cast("frozenset[object]", value))))
    return repr(value)


def _code_of(path: Path) -> str:
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return ast.dump(tree)


def sources_of(environment: type, *others: Path) -> set[Path]:
    """The source files covered by the digest: its class's, `others`, and what these import from their own
    folders.
    """
    found: set[Path] = set()
    todo = [
        *(path for each in environment.__mro__ for path in _file_of(each)),
        *(path.resolve() for path in others),
    ]
    while todo:
        path = todo.pop()
        if path not in found:
            found.add(path)
            todo += _imported_from_beside(path)
    return found


def _file_of(cls: type) -> Iterable[Path]:
    """Empty for classes of the standard library and for protocols."""
    module = sys.modules.get(cls.__module__)
    name = getattr(module, "__file__", None)
    if (
        cls.__module__.split(".")[0] in sys.stdlib_module_names
        or cls.__module__.startswith("agito.protocols")
        or name is None
    ):
        return ()
    return (Path(name).resolve(),)


def _imported_from_beside(path: Path) -> list[Path]:
    """Files of the same folder that this one imports, under any package name."""
    beside = {each.stem: each for each in path.parent.glob("*.py") if each.stem != "__init__"}
    found: list[Path] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            parts = node.module.split(".")
            if parts[-1] in beside and (len(parts) == 1 or parts[-2] == path.parent.name):
                found.append(beside[parts[-1]])
            if parts[-1] == path.parent.name:
                found += [beside[alias.name] for alias in node.names if alias.name in beside]
        elif isinstance(node, ast.Import):
            parts_of = [alias.name.split(".") for alias in node.names]
            found += [
                beside[parts[-1]]
                for parts in parts_of
                if parts[-1] in beside and (len(parts) == 1 or parts[-2] == path.parent.name)
            ]
    return found
