"""Commands that need less than a whole shell, recognised by their text.

Most of what an agent types is one program with plain words. `bash -c` ends up replacing itself with that program; starting it
directly does the same at half the cost. The next best are commands that cannot change the shell's directory or variables: they
need no exit trap, and bash then forks once less. What is not recognised is still right, only slower. What is recognised wrongly
would lose a `cd` or misread a word, so both patterns admit little, and tests compare them with bash.
"""

from __future__ import annotations

import re

# Builtins that change nothing that carries over may begin a stateless command; these and every keyword may not.
_STATEFUL = (
    ". : alias bg bind break builtin caller cd command compgen complete compopt continue coproc declare dirs disown enable eval"
    " exec exit export fc fg getopts hash history jobs let local logout mapfile popd printf pushd read readarray readonly return"
    " set shift shopt source suspend times trap typeset ulimit umask unalias unset wait"
    " if then else elif fi case esac for select while until do done in function time"
).split()
_HARMLESS = "echo false help kill pwd test true type [".split()
_FIRST = r"(?!(?:%s)(?![A-Za-z0-9_./+-]))[A-Za-z0-9_./+-]+" % "|".join(re.escape(word) for word in _STATEFUL)
_VARIABLE = r"\$(?:[A-Za-z_][A-Za-z0-9_]*|\{[A-Za-z_][A-Za-z0-9_]*\}|[0-9?#@*$!-])"
_DOUBLE = r'"(?:[^"\\$`]|\\.|%s)*"' % _VARIABLE
_PLAIN = r"[^\s'\"\\$`;&|()<>]"
_ATOM = r"(?:%s|'[^']*'|%s|\\[^\n]|%s)" % (_PLAIN, _DOUBLE, _VARIABLE)
_REDIRECTION = r"(?:[0-9]?(?:>>?|<|>&|<&)|&>>?)"
_COMMAND = r"[ \t]*%s(?=[ \t;&|<>]|$)(?:[ \t]+|%s|%s)*" % (_FIRST, _REDIRECTION, _ATOM)
_STATELESS = re.compile(r"%s(?:(?:\|\|?|&&|;)%s)*;?[ \t]*" % (_COMMAND, _COMMAND))
_BUILTINS = frozenset((*_STATEFUL, *_HARMLESS))
_LITERAL = r"(?:[A-Za-z0-9_@%+=:,./!^-]+|\{\}|'[^']*'|\"[^\"\\$`]*\"|\\[^\n])"
_LITERALS = re.compile(r"[ \t]*%s+(?:[ \t]+%s+)*[ \t]*" % (_LITERAL, _LITERAL))
_PIECE = re.compile(r"[ \t]+|" + _LITERAL)
_LONGEST = 4096  # the pattern is linear in practice; nobody types more


def is_stateless(command: str) -> bool:
    """Whether `command` surely leaves directory and variables as they are."""
    return len(command) <= _LONGEST and _STATELESS.fullmatch(command) is not None


def literal_words(command: str) -> tuple[str, ...] | None:
    """The words of a command that is one program and nothing for bash to expand, redirect or remember; else None."""
    if len(command) > _LONGEST or _LITERALS.fullmatch(command) is None:
        return None
    if "'" not in command and '"' not in command and "\\" not in command:
        words = command.split()
    else:
        words, is_new = [], True
        for piece in _PIECE.findall(command):
            if piece[0] in " \t":
                is_new = True
                continue
            text = piece[1:-1] if piece[0] in "'\"" else piece[1:] if piece[0] == "\\" else piece
            if is_new:
                words.append(text)
            else:
                words[-1] += text
            is_new = False
    first = command.split(maxsplit=1)[0]  # as it was typed: a quoted word is not worth the doubt
    if first != words[0] or first in _BUILTINS or "=" in first or not first[0].isalnum() and first[0] not in "./":
        return None
    return tuple(words)
