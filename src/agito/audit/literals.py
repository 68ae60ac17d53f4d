"""Words to try an environment with: the texts that its own source compares with, and those that backdoors are usually named by.

An audit stands on the trusted side and may read the source. What hangs on a certain word (a cheat, a log, an early end) has that word
in it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from agito.audit.digest import sources_of
from agito.protocols import Environment
from agito.types import ToolSpec

USUAL = (
    "abort", "quit", "exit", "cancel", "skip", "give up", "error", "void", "reset", "help", "hint", "answer", "solution", "result", "score",
    "reward", "log", "history", "cache", "last", "previous", "all", "state", "status", "debug", "admin", "test", "secret", "key", "target",
    "done", "ok", "pass", "passed", "success", "correct",
)  # fmt: skip
_LONGEST = 40
_COMMAND = re.compile(r"[A-Za-z][\w-]*")
_COMMANDS = 16
_COMPARING = frozenset(
    {"startswith", "endswith", "get", "pop", "removeprefix", "removesuffix", "find", "count", "index", "match", "search", "fullmatch"}
)


def words_in(environment: Environment, most: int) -> list[str]:
    """Those that the source compares with first, then the usual ones, then whatever else it says."""
    return list(_words_in(type(environment)))[:most]


def commands_of(environment: Environment, tool: ToolSpec) -> list[str]:
    """Words with which a text for this tool may have to begin: those that the source compares with, the ones that the tool's description
    names first."""
    words = [word for word in _words_in(type(environment)) if _COMMAND.fullmatch(word) and word not in USUAL]
    described = set(_COMMAND.findall(tool.description))
    return sorted(dict.fromkeys(words), key=lambda word: word not in described)[:_COMMANDS]


@lru_cache(maxsize=8)
def _words_in(environment: type) -> tuple[str, ...]:
    compared: list[str] = []
    said: list[str] = []
    for path in sorted(sources_of(environment)):
        for text, is_compared in _literals(path):
            (compared if is_compared else said).append(text)
    return tuple(dict.fromkeys([*compared, *USUAL, *said]))


@lru_cache(maxsize=64)
def _literals(path: Path) -> tuple[tuple[str, bool], ...]:
    tree = ast.parse(path.read_bytes())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    compared = {id(each) for node in ast.walk(tree) for part in _compared(node) for each in ast.walk(part)}
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in docstrings:
            text = (
                node.value
                if isinstance(node.value, str)
                else str(node.value)
                if isinstance(node.value, int) and id(node) in compared
                else ""
            )
            if text.strip() and len(text) <= _LONGEST:
                found.append((text, id(node) in compared))
    return tuple(found)


def _compared(node: ast.AST) -> Iterable[ast.AST]:
    """The parts of a node that something is compared with, or looked up by."""
    match node:
        case ast.Compare():
            return [node.left, *node.comparators]
        case ast.Call(func=ast.Attribute(attr=name)) if name in _COMPARING:
            return node.args
        case ast.MatchValue():
            return [node.value]
        case ast.Dict():
            return [key for key in node.keys if key is not None]
        case _:
            return ()
