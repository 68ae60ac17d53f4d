"""Commands that need less than a whole shell, recognised by their text.

Most of what an agent types is one program with plain words. `bash -c` ends up replacing itself with that program; starting it
directly does the same at half the cost. The next best are commands that cannot change the shell's directory or variables: they
need no exit trap, and bash then forks once less. What is not recognised is still right, only slower. What is recognised wrongly
would lose a `cd` or misread a word, so both patterns admit little, and tests compare them with bash. The text is the policy's:
no quantifier may backtrack, or a command could stop the host.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

# Builtins that change nothing that carries over may begin a stateless command; these and every keyword may not.
_STATEFUL = (
    ". : alias bg bind break builtin caller cd command compgen complete compopt continue coproc declare dirs disown enable eval"
    " exec exit export fc fg getopts hash history jobs let local logout mapfile popd printf pushd read readarray readonly return"
    " set shift shopt source suspend times trap typeset ulimit umask unalias unset wait"
    " if then else elif fi case esac for select while until do done in function time"
).split()
_HARMLESS = "echo false help kill pwd test true type [".split()
_FIRST = r"(?!(?:%s)(?![A-Za-z0-9_./+-]))[A-Za-z0-9_./+-]++" % "|".join(re.escape(word) for word in _STATEFUL)
_VARIABLE = r"\$(?:[A-Za-z_][A-Za-z0-9_]*|\{[A-Za-z_][A-Za-z0-9_]*\}|[0-9?#@*$!-])"
_DOUBLE = r'"(?:[^"\\$`]|\\.|%s)*"' % _VARIABLE
_PLAIN = r"[^\s'\"\\$`;&|()<>]"
_ATOM = r"(?:%s|'[^']*'|%s|\\[^\n]|%s)" % (_PLAIN, _DOUBLE, _VARIABLE)
_REDIRECTION = r"(?:[0-9]?(?:>&|<&|>>?|<)|&>>?)"
_COMMAND = r"[ \t]*+%s(?=[ \t;&|<>]|$)(?:[ \t]++|%s|%s)*+" % (_FIRST, _REDIRECTION, _ATOM)
_STATELESS = re.compile(r"%s(?:(?:\|\|?|&&|;)%s)*+;?[ \t]*" % (_COMMAND, _COMMAND))
_BUILTINS = frozenset((*_STATEFUL, *_HARMLESS)) - {"echo"}
_LITERAL = r"(?:[A-Za-z0-9_@%+=:,./!^-]++|\{\}|'[^']*'|\"[^\"\\$`]*\"|\\[^\n])"
_TARGET = r"(?:2>&1|1?>&2|(?P<how>[12]?>>?|0?<|&>)[ \t]*(?P<file>[A-Za-z0-9_@%+=:,./^-]+))"
_NAMELESS_TARGET = re.sub(r"\?P<\w+>", "?:", _TARGET)
_WORD = _LITERAL + r"++(?=[ \t]|$)"
_LITERALS = re.compile(r"[ \t]*+%s(?:[ \t]++%s)*+(?:[ \t]++%s)*+[ \t]*" % (_WORD, _WORD, _NAMELESS_TARGET))
_PIECE = re.compile(r"[ \t]+|(?P<target>%s)|%s" % (_TARGET, _LITERAL))
_WRITING = os.O_WRONLY | os.O_CREAT
_LONGEST = 4096


def is_stateless(command: str) -> bool:
    """Whether `command` surely leaves directory and variables as they are."""
    return len(command) <= _LONGEST and _STATELESS.fullmatch(command) is not None


@dataclass(frozen=True, slots=True)
class Program:
    """One program and where its output goes, as bash would start it."""

    words: tuple[str, ...]
    # in order: (descriptor, path, flags for open) or (descriptor, the descriptor it becomes a copy of)
    redirections: tuple[tuple[int, str, int] | tuple[int, int], ...] = ()


def as_program(command: str) -> Program | None:
    """What a command means that is one program and nothing for bash to expand or remember; else None.

    `echo` counts as the program of that name, which prints the same as long as no option is among its words.
    """
    if len(command) > _LONGEST or _LITERALS.fullmatch(command) is None:
        return None
    words: list[str] = []
    redirections: list[tuple[int, str, int] | tuple[int, int]] = []
    is_new = True
    for match in _PIECE.finditer(command):
        piece = match[0]
        if piece[0] in " \t":
            is_new = True
        elif is_new and match["target"]:
            redirections.extend(_redirection(piece, match["how"], match["file"]))
        else:
            text = piece[1:-1] if piece[0] in "'\"" else piece[1:] if piece[0] == "\\" else piece
            if is_new:
                words.append(text)
            else:
                words[-1] += text
            is_new = False
    first = words[0]
    if not command.lstrip(" \t").startswith(first) or first in _BUILTINS or "=" in first or not (first[:1].isalnum() or first[:1] in (".", "/")):
        return None  # also where the first word is quoted: not worth the doubt
    if first == "echo" and any(word.startswith("-") for word in words):
        return None
    return Program(tuple(words), tuple(redirections))


def _redirection(piece: str, how: str | None, file: str | None) -> list[tuple[int, str, int] | tuple[int, int]]:
    if how is None or file is None:
        return [(2, 1)] if piece == "2>&1" else [(1, 2)]
    if how == "&>":
        return [(1, file, _WRITING | os.O_TRUNC), (2, 1)]
    if how.endswith("<"):
        return [(0, file, os.O_RDONLY)]
    return [(2 if how[0] == "2" else 1, file, _WRITING | (os.O_APPEND if how.endswith(">>") else os.O_TRUNC))]
