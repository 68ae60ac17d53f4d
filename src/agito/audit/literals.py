"""Words to try in an environment: literals of its own source, and common names of backdoors.

An audit is trusted and may read the source. Behaviour that depends on a certain word (a cheat, a log, an
early end) has that word in it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from agito.audit.agents import strings
from agito.audit.env_hash import sources_of
from agito.protocols import Environment
from agito.types import Call, ToolSpec

USUAL = (
    "abort",
    "quit",
    "exit",
    "cancel",
    "skip",
    "give up",
    "error",
    "void",
    "reset",
    "help",
    "hint",
    "answer",
    "solution",
    "result",
    "score",
    "reward",
    "log",
    "history",
    "cache",
    "last",
    "previous",
    "all",
    "state",
    "status",
    "debug",
    "admin",
    "test",
    "secret",
    "key",
    "target",
    "done",
    "ok",
    "pass",
    "passed",
    "success",
    "correct",
)
_LONGEST = 40
_COMMAND = re.compile(r"[A-Za-z][\w-]*")
_COMMANDS = 16
_COMPARING = frozenset(
    {
        "startswith",
        "endswith",
        "get",
        "pop",
        "removeprefix",
        "removesuffix",
        "find",
        "count",
        "index",
        "match",
        "search",
        "fullmatch",
    }
)


def words_in(environment: Environment, most: int) -> list[str]:
    """Literals that the source compares with first, then common backdoor names, then its other literals."""
    compared, said = _words_in(type(environment))
    return list(dict.fromkeys([*compared, *USUAL, *said]))[:most]


def commands_of(environment: Environment, tool: ToolSpec, said: Sequence[Call]) -> list[str]:
    """Command words of a one-text tool, if most calls in `said` begin with one: literals that the source
    compares with, those in the tool's description first.
    """
    texts = [
        value
        for call in said
        if call.tool == tool.name
        for value in call.arguments.values()
        if isinstance(value, str)
    ]
    words = dict.fromkeys(
        word for word in _words_in(type(environment))[0] if _COMMAND.fullmatch(word) and word not in USUAL
    )
    if len(strings(tool)) != 1 or 2 * sum(text.split(" ", 1)[0] in words for text in texts) <= len(texts):
        return []
    described = set(_COMMAND.findall(tool.description))
    return sorted(words, key=lambda word: word not in described)[:_COMMANDS]


@lru_cache(maxsize=8)
def _words_in(environment: type) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Literals that the source compares with, and all others."""
    compared: list[str] = []
    said: list[str] = []
    for path in sorted(sources_of(environment)):
        for text, is_compared in _literals(path):
            (compared if is_compared else said).append(text)
    return tuple(compared), tuple(said)


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
    """Parts of a node that are compared with or used as keys."""
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
