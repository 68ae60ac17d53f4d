"""How a command ends: one clear line on stderr and a stable exit code, never a traceback that nobody asked
for.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM
from typing import ParamSpec, TypeVar

import typer

from agito.concurrency import Interrupted, first_error, run
from agito.errors import INTERRUPTED, AgitoError, BadEnvironment, DiskFull, NotFound

Params = ParamSpec("Params")
Result = TypeVar("Result")

DEBUG = "AGITO_DEBUG"
_CANNOT = {  # what the system keeps from us, with what to do
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM), "it may not be read or written by this user; choose another place"
    ),
    errno.EROFS: "it cannot be written, for its disk is read only; choose another place",
}
_GONE = 141  # as the shell puts it: 128 + SIGPIPE


def work(function: Callable[[], Awaitable[Result]]) -> Result:
    """Runs async work; Ctrl-C, SIGTERM and a closed terminal end it in order."""
    return run(function, signals=(SIGINT, SIGTERM, SIGHUP))


def guarded(command: Callable[Params, Result]) -> Callable[Params, Result]:
    """Wraps a command so that whatever it raises becomes a line and an exit code."""

    @wraps(command)
    def inner(*args: Params.args, **kwargs: Params.kwargs) -> Result:
        try:
            result = command(*args, **kwargs)
            sys.stdout.flush()
            return result
        except (typer.Exit, typer.BadParameter):
            raise
        except BaseException as error:
            if os.environ.get(DEBUG):
                raise
            raise typer.Exit(exit_code(error)) from None

    return inner


def exit_code(error: BaseException) -> int:
    """Says on stderr what happened, and returns the code to end with."""
    if isinstance(error, BaseExceptionGroup):
        error = first_error(error)  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(error, KeyboardInterrupt):
        error = Interrupted(SIGINT)
    if isinstance(error, Interrupted):
        say(f"interrupted by {error.signal.name}")
        return INTERRUPTED if error.signal is SIGINT else 128 + error.signal
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, BrokenPipeError):
        _discard_stdout()
        return _GONE
    if is_full_disk(error):
        error = (
            error
            if isinstance(error, DiskFull)
            else DiskFull(f"no space left on this disk: {error}; free some, then go on with --resume")
        )
    if isinstance(error, AgitoError):
        say(f"error: {error}")
        return error.exit_code
    from agito.envs.blame import blame  # what it needs takes time to load

    if found := blame(error):
        say(f"error: {found}")
        return BadEnvironment.exit_code
    if isinstance(error, OSError) and error.filename is not None:
        what = _CANNOT.get(error.errno or 0, f"{error.strerror}; --debug shows where")
        say(f"error: {os.fsdecode(error.filename)}: {what}")
        return NotFound.exit_code
    say(f"unexpected {type(error).__name__}: {_one_line(error)}")
    say(f"the traceback is in {_write_trace(error)}; please report it. With --debug it is shown here")
    return 1


def say(text: str) -> None:
    """On stderr; whoever is not listening is not told."""
    try:
        print(_folded(f"agito: {text}"), file=sys.stderr, flush=True)  # noqa: T201
    except OSError:
        return


def _folded(text: str) -> str:
    """Between words where a person looks on; a program gets its line whole."""
    if not sys.stderr.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(
        textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        if len(line) > width
        else line
        for line in text.split("\n")
    )


def is_full_disk(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, DiskFull) or (
        isinstance(error, sqlite3.OperationalError) and "full" in str(error)
    )


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"


def _write_trace(error: BaseException) -> Path | str:
    try:
        handle, name = tempfile.mkstemp(prefix="agito-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
            file.writelines(traceback.format_exception(error))
    except OSError as problem:
        return f"(it could not be written: {problem})"
    return Path(name)


def _discard_stdout() -> None:
    """So that the interpreter's last flush does not complain of the same pipe again."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
