"""Commands that need less than a whole shell, recognised by their text.

Most of what an agent types is one program with plain words. `bash -c` ends up replacing itself with that
program; starting it directly does the same at half the cost. The next best are commands that cannot change
the shell's directory or variables: they need no exit trap, and bash then forks once less. What is not
recognised is still right, only slower. What is recognised wrongly would lose a `cd` or misread a word, so
both patterns admit little, and tests compare them with bash. The text is the policy's: it is read token by
token, in linear time, as one pattern for the whole could be made to backtrack and so to stop the host.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

# Builtins that change nothing that carries over may begin a stateless command; these and every keyword may
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
    """Whether `command` surely leaves directory and variables as they are."""
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
    """One program and where its output goes, as bash would start it."""

    words: tuple[str, ...]
    globs: tuple[int, ...] = ()  # which words are patterns of file names
    # in order: (descriptor, path, flags for open) or (descriptor, the descriptor it becomes a copy of)
    redirections: tuple[tuple[int, str, int] | tuple[int, int], ...] = ()


def as_program(command: str) -> Program | None:
    """What a command means that is one program and nothing for bash to expand or remember; else None.

    `echo` counts as the program of that name, which prints the same as long as no option is among its words.
    """
    words: list[str] = []
    redirections: list[tuple[int, str, int] | tuple[int, int]] = []
    kinds: list[set[str]] = []  # of the pieces of each word
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
