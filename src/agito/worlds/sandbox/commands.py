"""Commands that need less than a full shell, recognised by their text.

Most commands of agents are one program with plain words. `bash -c` ends up replacing itself with that
program; starting it directly does the same at half the cost. Next best are commands that cannot change the
shell's directory or variables: they need no exit trap, so bash forks once less. Unrecognised commands still
work, only slower. A wrong match would lose a `cd` or misread a word, so both patterns are strict, and tests
compare them with bash. The text is the policy's: it is read token by token in linear time, as backtracking in
one large pattern could stall the host.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

# Builtins that cannot change carried-over state may begin a stateless command; these and all keywords may
# not.
_STATEFUL = frozenset(
    (
        ".",
        ":",
        "alias",
        "bg",
        "bind",
        "break",
        "builtin",
        "caller",
        "cd",
        "command",
        "compgen",
        "complete",
        "compopt",
        "continue",
        "coproc",
        "declare",
        "dirs",
        "disown",
        "enable",
        "eval",
        "exec",
        "exit",
        "export",
        "fc",
        "fg",
        "getopts",
        "hash",
        "history",
        "jobs",
        "let",
        "local",
        "logout",
        "mapfile",
        "popd",
        "printf",
        "pushd",
        "read",
        "readarray",
        "readonly",
        "return",
        "set",
        "shift",
        "shopt",
        "source",
        "suspend",
        "times",
        "trap",
        "typeset",
        "ulimit",
        "umask",
        "unalias",
        "unset",
        "wait",
        "case",
        "coproc",
        "do",
        "done",
        "elif",
        "else",
        "esac",
        "fi",
        "for",
        "function",
        "if",
        "in",
        "select",
        "then",
        "time",
        "until",
        "while",
    )
)
_HARMLESS = frozenset(("echo", "false", "help", "kill", "pwd", "test", "true", "type", "["))
_BUILTINS = (_STATEFUL | _HARMLESS) - {"echo"}
_VARIABLE = r"\$(?:[A-Za-z_][A-Za-z0-9_]*|\{[A-Za-z_][A-Za-z0-9_]*\}|[0-9?#@*$!-])"
_FIRST = re.compile(r"([A-Za-z0-9_./+-]+)(?=[ \t;&|<>]|$)")
_TOKEN = re.compile(  # of a stateless command
    rf"(?P<space>[ \t]+)|(?P<joint>\|\|?|&&|;)|(?:[0-9]?(?:>&|<&|>>?|<)|&>>?)|[^\s'\"\\$`;&|()<>]+"
    rf"|'[^']*'|\"(?:[^\"\\$`]|\\.|{_VARIABLE})*\"|\\[^\n]|{_VARIABLE}"
)
_LITERAL = re.compile(  # of a plain word, or a redirection
    r"(?P<space>[ \t]+)|(?P<same>2>&1|1?>&2)(?=[ \t]|\Z)|(?P<how>[12]?>>?|0?<|&>)[ "
    r"\t]*(?P<file>[A-Za-z0-9_@%+=:,./^-]+)(?=[ \t]|\Z)"
    r"|(?P<text>[A-Za-z0-9_@%+=:,./!^*?-]+(?![<>])|\{\})|'(?P<single>[^']*)'|\"(?P<double>[^\"\\$`]*)\"|\\(?P<escaped>[^\n"
    r"])"
)
_WRITING = os.O_WRONLY | os.O_CREAT
_LONGEST = 4096


def is_stateless(command: str) -> bool:
    """Whether `command` certainly leaves directory and variables unchanged."""
    at, end, wants_word, joint = 0, len(command), True, ""
    if end > _LONGEST:
        return False
    while at < end:
        match = _TOKEN.match(command, at)
        if match is None:
            return False
        if match.lastgroup == "joint":
            if wants_word:
                return False
            wants_word, joint = True, match[0]
        elif wants_word and match.lastgroup != "space":
            match = _FIRST.match(command, at)
            if match is None or match[0] in _STATEFUL:
                return False
            wants_word = False
        at = match.end()
    return not wants_word or joint == ";"


@dataclass(frozen=True, slots=True)
class Program:
    """One program and its redirections, as bash would start it."""

    words: tuple[str, ...]
    globs: tuple[int, ...] = ()  # indices of words that are file name patterns
    # in order: (descriptor, path, open flags), or (descriptor, descriptor to duplicate)
    redirections: tuple[tuple[int, str, int] | tuple[int, int], ...] = ()


def as_program(command: str) -> Program | None:
    """The program that a command means if bash has nothing to expand or remember; else None.

    `echo` counts as the program of that name, which prints the same if no word is an option.
    """
    words: list[str] = []
    redirections: list[tuple[int, str, int] | tuple[int, int]] = []
    kinds: list[set[str]] = []  # of the parts of each word
    at, end, is_new = 0, len(command), True
    if end > _LONGEST:
        return None
    while at < end:
        match = _LITERAL.match(command, at)
        if match is None:
            return None
        at, kind = match.end(), match.lastgroup
        if kind == "space":
            is_new = True
        elif kind in ("same", "file"):
            if not is_new or not words:
                return None
            redirections.extend(_redirection(match["same"], match["how"], match["file"]))
        elif redirections or (not words and kind != "text"):
            return None  # legal, rare, and not worth the doubt
        else:
            assert kind is not None
            if is_new:
                words.append("")
                kinds.append(set())
            words[-1] += match[kind]
            kinds[-1].add("glob" if kind == "text" and ("*" in match[kind] or "?" in match[kind]) else kind)
            is_new = False
    if not words or not _is_program_name(words[0]) or not command.lstrip(" \t").startswith(words[0]):
        return None
    if words[0] == "echo" and any(word.startswith("-") for word in words):
        return None
    globs = tuple(index for index, pieces in enumerate(kinds) if "glob" in pieces)
    if any(kinds[index] != {"glob"} for index in globs) or 0 in globs:
        return None  # partly quoted
    return Program(tuple(words), globs, tuple(redirections))


def _is_program_name(word: str) -> bool:
    return word not in _BUILTINS and "=" not in word and (word[:1].isalnum() or word[:1] in (".", "/"))


def _redirection(same: str | None, how: str, file: str) -> list[tuple[int, str, int] | tuple[int, int]]:
    if same is not None:
        return [(2, 1)] if same == "2>&1" else [(1, 2)]
    if how == "&>":
        return [(1, file, _WRITING | os.O_TRUNC), (2, 1)]
    if how.endswith("<"):
        return [(0, file, os.O_RDONLY)]
    return [(2 if how[0] == "2" else 1, file, _WRITING | (os.O_APPEND if how.endswith(">>") else os.O_TRUNC))]
