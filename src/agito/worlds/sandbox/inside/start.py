"""Starts what an episode asks for: a program, a shell, or a snippet in a fork of this interpreter.

`vfork` is fastest, but makes this process wait until the child runs its program; another process that stops
the child first would make it wait for ever. So it is used only while nothing else of the episode is alive.
Otherwise a fork is used.
"""

from __future__ import annotations

import _socket
import builtins
import errno
import gc
import os
import resource
import stat
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from agito.worlds.sandbox.inside import kernel, preload
from agito.worlds.sandbox.inside.expand import Beyond, expand, is_of_proc

if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without the enums, which would be copied into every sandbox

STATE_FD = 99  # where a shell reports its final directory and variables
_RESET = (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGHUP)
_NULL_DEVICE = os.makedev(1, 3)
_LONGEST_SEARCH = 1000
# directories where a program is searched for without a shell
_SYSTEM = ("/usr/", "/bin", "/sbin", "/run/tools/")
_NICE = 5
_FIRST_TO_BE_KILLED = b"500"

# a descriptor: this process's score for the out-of-memory killer
_score = -1
_own_score = b""
_own_nice = 0


def take_precedence() -> None:
    """From now on, children are the first to be killed for memory and yield CPU time to this process. Raises
    `OSError`.
    """
    global _score, _own_score, _own_nice
    _score = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    _own_score = os.read(_score, 16)
    _own_nice = os.getpriority(os.PRIO_PROCESS, 0)


def start_program(
    words: tuple[str, ...],
    globs: tuple[int, ...],
    redirections: tuple[tuple[Any, ...], ...],
    env: Mapping[str, str],
    null: int,
    writing: int,
) -> int:
    """What `bash -c` would start while nothing else is alive. Returns 0 if bash has to do it, or to report
    why it cannot.
    """
    path = find(words[0], env.get("PATH", ""))
    if not path:
        return 0
    try:
        words = expand(words, globs, env)
    except Beyond:
        return 0
    opened: list[int] = []
    actions: list[tuple[Any, ...]] = [
        (os.POSIX_SPAWN_DUP2, null, 0),
        (os.POSIX_SPAWN_DUP2, writing, 1),
        (os.POSIX_SPAWN_DUP2, writing, 2),
    ]
    try:
        for target, source, *flags in redirections:
            if flags:
                source = open_plain(source, flags[0])
                opened.append(source)
            actions.append((os.POSIX_SPAWN_DUP2, source, target))
        return spawn(path, words, {**env, "_": path, "SHLVL": "0"}, actions)
    except OSError:
        return 0  # a script without an interpreter, a missing directory, a pipe, no process left
    finally:
        for descriptor in opened:
            os.close(descriptor)


def find(name: str, search: str) -> str:
    """A program's path, or nothing. `echo` always exists, as in bash."""
    if "/" in name:
        return name if _is_plain_program(name) else ""
    if name == "echo":
        return "/bin/echo"
    for place in search[:_LONGEST_SEARCH].split(":"):
        if not place.startswith(_SYSTEM) or ".." in place:
            return ""  # the episode's own folder; links in it could make the search long
        path = f"{place}/{name}"
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    return ""


def _is_plain_program(path: str) -> bool:
    try:
        handle = kernel.open_beneath(kernel.AT_FDCWD, path, os.O_PATH, 0, kernel.RESOLVE_NO_MAGICLINKS)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(handle).st_mode) and not is_of_proc(handle) and os.access(path, os.X_OK)
    finally:
        os.close(handle)


def start_shell(
    command: str, env: Mapping[str, str], null: int, writing: int, state: int, *, is_alone: bool
) -> int:
    """Runs `bash -c`; with a descriptor for `state`, it reports there when it ends. Raises `OSError`."""
    places = [(null, 0), (writing, 1), (writing, 2)]
    if state >= 0:
        places.append((state, STATE_FD))
        env = {**env, "BASH_ENV": "/run/carry"}
    return _start_bash(command, env, places, is_alone)


def start_service(command: str, env: Mapping[str, str], pipes: Sequence[int], *, is_alone: bool) -> int:
    """A shell with these pipes as input, output and errors. Raises `OSError`."""
    return _start_bash(command, env, [(pipe, target) for target, pipe in enumerate(pipes)], is_alone)


def spawn(path: str, words: tuple[str, ...], env: Mapping[str, str], actions: list[tuple[Any, ...]]) -> int:
    """A child in its own session, with lower priority than this process. Raises `OSError`."""
    os.write(_score, _FIRST_TO_BE_KILLED)
    try:
        child = os.posix_spawn(
            path, words, env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_RESET
        )
    finally:
        os.write(_score, _own_score)
    if _own_nice >= 0:  # below that, the kernel resets what a child inherits
        os.setpriority(os.PRIO_PROCESS, child, _own_nice + _NICE)
    return child


def fork() -> int:
    """Like `os.fork`; the child has lower priority than this process. Raises `OSError`."""
    os.write(_score, _FIRST_TO_BE_KILLED)
    try:
        child = os.fork()
    except BaseException:
        os.write(_score, _own_score)
        raise
    if child:
        os.write(_score, _own_score)
    return child


def _start_bash(command: str, env: Mapping[str, str], places: list[tuple[int, int]], is_alone: bool) -> int:
    arguments = ("bash", "-c", command)
    if is_alone:
        actions = [(os.POSIX_SPAWN_DUP2, source, target) for source, target in places]
        return spawn("/bin/bash", arguments, env, actions)
    child = fork()
    if child:
        return child
    try:
        become_a_command(places)
        os.execve("/bin/bash", arguments, env)
    finally:
        os._exit(126)


def become_a_command(places: list[tuple[int, int]]) -> None:
    """Drops what a fork of this process must not keep, whatever it runs: session, signals, descriptors, and
    unlimited CPU time.
    """
    if _own_nice >= 0:
        os.nice(_NICE)
    os.setsid()
    for source, target in places:
        os.dup2(source, target)
    for number in _RESET:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    seconds, most = resource.getrlimit(resource.RLIMIT_CPU)
    if seconds != resource.RLIM_INFINITY and most == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


def adopt(env: Mapping[str, str]) -> None:
    """Makes `env` this interpreter's own environment for the snippets forked from it: doing so in each of
    them would cost a third of a millisecond. Programs get theirs directly. Raises `OSError` for an invalid
    variable.
    """
    try:
        os.environ.clear()
        os.environ.update(env)
    except ValueError:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from None


def fork_snippet(code: str, control: _socket.socket, writing: int) -> int:
    """A fresh copy of this warm interpreter, cut off from the host's socket before any of `code` runs."""
    child = fork()
    if child:
        return child
    try:
        control.close()
        become_a_command([(writing, 1), (writing, 2)])
        os.closerange(3, 1024)
        take_signals_as_python_does()
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
        sys.path.insert(0, "")
        sys.argv = ["-c"]
        run_snippet(code)
    finally:
        os._exit(254)


def start_script(
    arguments: Sequence[str],
    mark: str,
    env: Mapping[str, str],
    pipes: Sequence[int],
    control: _socket.socket,
) -> int:
    """A script with its arguments in a fresh copy of this interpreter, which has imported its modules. Its
    parent says last, on the same standard error, how it ended: `mark` and the exit code, as a shell would
    give it. Raises `OSError`.
    """
    child = fork()
    if child:
        return child
    try:
        control.close()
        become_a_command([(pipe, target) for target, pipe in enumerate(pipes)])
        os.closerange(3, 1024)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
        script = os.fork()
        if not script:
            take_signals_as_python_does()
            run_script(arguments, env)
        code = os.waitstatus_to_exitcode(os.waitpid(script, 0)[1])
        os.write(2, f"\n{mark} {code if code >= 0 else 128 - code}\n".encode())
    finally:
        os._exit(0)


def take_signals_as_python_does() -> None:
    """A write to a closed pipe, or beyond the largest file, is an error that can be caught."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)


def run_script(arguments: Sequence[str], env: Mapping[str, str]) -> NoReturn:
    """As `python SCRIPT ARGUMENTS`. Never returns."""
    os.environ.clear()
    os.environ.update(env)
    gc.enable()
    preload.begin_script()
    sys.argv, path = list(arguments), os.path.abspath(arguments[0])
    sys.path.insert(0, os.path.dirname(path))
    main = sys.modules["__main__"] = type(sys)("__main__")
    main.__dict__.update({"__file__": path, "__builtins__": builtins})
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        sys.stderr.write(f"{path}: {error.strerror}\n")
        _leave(2)
    status = _status(source, path, main.__dict__)
    try:
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()  # waits for those that are no daemons
        __import__("atexit")._run_exitfuncs()
    finally:
        _leave(status)


def run_snippet(code: str) -> NoReturn:
    """Never returns, whatever `code` does."""
    _leave(_status(code, "<snippet>", {"__name__": "__main__", "__builtins__": builtins}))


def _status(source: str | bytes, name: str, space: dict[str, Any]) -> int:
    """Of the process that runs only this."""
    try:
        exec(compile(source, name, "exec", dont_inherit=True), space)
    except SystemExit as leave:
        if isinstance(leave.code, int):
            return leave.code & 0xFF
        if leave.code is not None:
            sys.stderr.write(f"{leave.code}\n")
            return 1
    except BaseException as error:  # whatever it raises is its own result
        trace = error.__traceback__
        sys.excepthook(type(error), error.with_traceback(trace.tb_next if trace else None), None)
        return 1
    return 0


def _leave(status: int) -> NoReturn:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def open_plain(path: str, flags: int) -> int:
    """Opens a regular file, or /dev/null, following no link and never waiting. Raises `OSError` for anything
    else.

    This process opens it on behalf of a command, so it must not block on a pipe, nor open what /proc shows
    only to this process.
    """
    handle = kernel.open_beneath(
        kernel.AT_FDCWD,
        path,
        flags | os.O_NONBLOCK | os.O_NOCTTY,
        0o666 if flags & os.O_CREAT else 0,
        kernel.NO_LINKS,
    )
    info = os.fstat(handle)
    if (stat.S_ISREG(info.st_mode) and not is_of_proc(handle)) or info.st_rdev == _NULL_DEVICE:
        return handle
    os.close(handle)
    raise OSError(errno.EINVAL, path)
