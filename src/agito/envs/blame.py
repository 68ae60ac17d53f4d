"""Whose mistake an exception is: the line of somebody else's code that led to it, if there is one."""

from __future__ import annotations

import inspect
import traceback
from pathlib import Path
from shlex import quote

from agito.plugins import environment_in, is_theirs, path_from_here


def blame(error: BaseException) -> str:
    """One line: where in somebody's own code, what was raised, and what to do. Empty: every line of the
    traceback is ours.
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_theirs(frame.filename)]
    if not frames:
        return ""
    last = frames[-1]
    place = f"{path_from_here(last.filename)}:{last.lineno} in {last.name}"
    return f"{place}: {_told(error)}{_advice(last.filename)}"


def blame_environment(error: BaseException, environment: object) -> str:
    """The same of an error that came from driving `environment`, which may have returned what nobody can use.
    Empty: the environment is one of ours.
    """
    source = inspect.getsourcefile(type(environment)) or ""
    if found := blame(error):
        return found
    if not is_theirs(source):
        return ""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{path_from_here(source)}: what {type(environment).__name__} says or returns cannot be used: "
        f"{_told(error)} ({Path(last.filename).name}:{last.lineno}){_advice(source)}"
    )


def _told(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _advice(source: str) -> str:
    name = environment_in(source)
    return f"; see agito envs check {quote(name)}" if name else ""
