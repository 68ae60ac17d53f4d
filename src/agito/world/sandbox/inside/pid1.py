"""A sandbox's first process: starts what it is asked to, waits for it, kills it, and tells the host what happened.

It has no capabilities, cannot be traced and holds no secrets. It never follows a link of the workspace. What a command did
is counted from outside the command; what the episode can write to (variables, working directory, output) is only data here.
"""

from __future__ import annotations

import errno
import marshal
import os
import select
import stat
import sys
import time
from typing import Any, NoReturn

import _signal as signal
import _socket

from agito.world.sandbox.inside import kernel, memory, wire
from agito.world.sandbox.inside.capture import Capture, parse_state

_QUICK_S = 0.004  # most commands end within it: one sleep, no polling
_TICK_S = 0.05  # how often a longer command's memory is looked at
_STATE_FD = 99
_RESET = (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGHUP)
_MOST_OUTPUT = 1 << 26  # a command that prints more is stopped
_NULL_DEVICE = os.makedev(1, 3)


def run(link: int, work: int, upper: int) -> NoReturn:
    """Serves one sandbox until the host closes `link`. `work` and `upper` are what the host may read."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))
    control = _socket.socket(fileno=link)
    box = Pid1(control, work)
    me = os.pidfd_open(os.getpid())
    rights = b"".join(descriptor.to_bytes(4, "little") for descriptor in (me, work, upper))
    control.sendmsg([wire.reply(wire.READY)], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    os.close(me)
    if upper != work:
        os.close(upper)
    while True:
        request = box.receive()
        control.sendall(box.answer(request))


class Pid1:
    """The state of one episode: variables, working directory, and whether anything but this process is alive."""

    def __init__(self, control: _socket.socket, work: int) -> None:
        self.control = control
        self.work = work
        self.null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self.env: dict[str, str] = {}
        self.output_bytes = 64_000
        self.mem_mb = 0
        self.is_idle = True  # nothing else is alive
        self.output: tuple[int, int] | None = None  # a pipe that nobody else holds
        self.state: tuple[int, int] | None = None
        self.retired: list[int] = []  # read ends that background processes still write to
        self.current = 0
        self.ended: tuple[int, Any] | None = None

    # requests

    def receive(self) -> tuple[Any, ...]:
        """The next request. Reaps, drains and watches what runs in the background meanwhile."""
        while not self.is_idle:
            poller = select.poll()
            poller.register(self.control.fileno(), select.POLLIN)
            for descriptor in self.retired:
                poller.register(descriptor, select.POLLIN)
            events = poller.poll(int(_TICK_S * 2000))
            if any(descriptor == self.control.fileno() for descriptor, _ in events):
                break
            self.drain_retired([descriptor for descriptor, _ in events])
            self.reap()
            if self.mem_mb and memory.used_mb(self.mem_mb) > self.mem_mb:
                self.kill_all()
        data = self.control.recv(1 << 16)
        if not data:
            os._exit(0)
        length = int.from_bytes(data[:4], "little") + 4
        if len(data) < length:
            parts, have = [data], len(data)
            while have < length:
                data = self.control.recv(min(1 << 20, length - have))
                if not data:
                    os._exit(0)
                parts.append(data)
                have += len(data)
            data = b"".join(parts)
        return marshal.loads(data[4:])

    def answer(self, request: tuple[Any, ...]) -> bytes:
        kind, *fields = request
        if kind == "act":
            return self.act(*fields)
        if kind == "write":
            return self.write(fields[0])
        if kind == "configure":
            self.env, self.output_bytes, self.mem_mb, cwd, first = fields
            try:
                os.chdir(cwd)
            except OSError:  # a fork of an episode that stood in a directory that is gone
                self.env["PWD"] = "/work"
            return self.answer(first)
        if kind == "kill":
            self.kill_all()
            return wire.reply(wire.DONE)
        if kind == "freeze":
            return self.freeze()
        return wire.reply(wire.REFUSED, b"unknown request", idle=self.is_idle)

    # actions

    def act(self, command: str, is_python: bool, timeout: float, carries: bool, program: tuple[Any, ...] | None) -> bytes:
        started = time.monotonic()
        reading, writing = self.output = self.output or os.pipe()
        state = None
        try:
            if is_python:
                self.current = self.fork_snippet(command, writing)
            else:
                if carries:
                    state = self.state = self.state or os.pipe()
                self.current = program and self.start_program(*program, writing) or self.start_shell(command, writing, state)
        except OSError as error:
            text = f"bash: {os.strerror(error.errno)}\n".encode()
            return wire.reply(wire.RESULT, text, killer=wire.START, idle=self.is_idle, status=254 << 8, total=len(text))
        self.ended, self.is_idle = None, False
        capture, killer = Capture(self.output_bytes), 0
        dumped = bytearray()
        signal.sigtimedwait((signal.SIGCHLD,), min(_QUICK_S, timeout))
        self.reap()
        if self.ended is None:
            killer = self.watch(started + timeout, capture, reading, dumped, state)
        wall = time.monotonic() - started
        self.collect(capture, dumped, state)
        if dumped:
            self.carry(bytes(dumped))
        assert self.ended is not None
        status, usage = self.ended
        return wire.reply(
            wire.RESULT,
            capture.value(),
            killer=killer,
            idle=self.is_idle,
            status=status & 0xFFFF,
            total=capture.total,
            wall=wall,
            cpu=usage.ru_utime + usage.ru_stime,
            peak=usage.ru_maxrss / 1024,
        )

    def start_program(self, words: tuple[str, ...], redirections: tuple[tuple[Any, ...], ...], writing: int) -> int:
        """What `bash -c` would start. Returns 0 where bash has to do it after all, or to say why it cannot be done."""
        path = self.find(words[0])
        if not path:
            return 0
        opened: list[int] = []
        actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_DUP2, self.null, 0), (os.POSIX_SPAWN_DUP2, writing, 1), (os.POSIX_SPAWN_DUP2, writing, 2)]
        try:
            for target, source, *flags in redirections:
                if flags:
                    source = open_plain(source, flags[0])
                    opened.append(source)
                actions.append((os.POSIX_SPAWN_DUP2, source, target))
            env = {**self.env, "_": path, "SHLVL": "0"}
            return os.posix_spawn(path, words, env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_RESET)
        except OSError:
            return 0  # a script that names no interpreter, a directory that is not there, a pipe, no process left
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def find(self, name: str) -> str:
        """Where a program is, or nothing. `echo` is always there, as it is in bash."""
        if "/" in name:
            places = ("",)
        elif name == "echo":
            return "/bin/echo"
        else:
            places = tuple(place for place in self.env.get("PATH", "").split(":") if place)
        for place in places:
            path = f"{place}/{name}" if place else name
            if os.access(path, os.X_OK) and not os.path.isdir(path):
                return path
        return ""

    def start_shell(self, command: str, writing: int, state: tuple[int, int] | None) -> int:
        actions = [(os.POSIX_SPAWN_DUP2, self.null, 0), (os.POSIX_SPAWN_DUP2, writing, 1), (os.POSIX_SPAWN_DUP2, writing, 2)]
        env = self.env
        if state is not None:
            actions.append((os.POSIX_SPAWN_DUP2, state[1], _STATE_FD))
            env = {**env, "BASH_ENV": "/run/carry"}
        return os.posix_spawn("/bin/bash", ("bash", "-c", command), env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_RESET)

    def fork_snippet(self, code: str, writing: int) -> int:
        """A fresh copy of this warm interpreter, cut off from the host's socket before a line of `code` runs."""
        child = os.fork()
        if child:
            return child
        try:
            os.setsid()
            self.control.close()
            for target in (1, 2):
                os.dup2(writing, target)
            os.closerange(3, 1024)
            for number in _RESET:
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
            os.environ.clear()
            os.environ.update(self.env)
            sys.path.insert(0, "")
            sys.argv = ["-c"]
        except BaseException:
            os._exit(254)
        run_snippet(code)

    def watch(self, deadline: float, capture: Capture, reading: int, dumped: bytearray, state: tuple[int, int] | None) -> int:
        """Waits for a command that takes longer. Returns what killed it, or 0."""
        poller = select.poll()
        try:
            pidfd = os.pidfd_open(self.current)
        except OSError:
            pidfd = -1
        for descriptor in (reading, self.control.fileno(), state[0] if state else -1, pidfd, *self.retired):
            if descriptor >= 0:
                poller.register(descriptor, select.POLLIN)
        looked, killer = time.monotonic(), 0
        while self.ended is None:
            now = time.monotonic()
            for descriptor, _ in poller.poll(max(0, min(_TICK_S, deadline - now)) * 1000):
                if descriptor == reading:
                    capture.add(os.read(reading, 1 << 16))
                elif state and descriptor == state[0]:
                    dumped += os.read(descriptor, 1 << 16)
                elif descriptor == self.control.fileno():
                    os._exit(0)  # the host is gone, or has given up on this sandbox
                elif descriptor in self.retired:
                    self.drain_retired([descriptor])
            now = time.monotonic()
            if now >= deadline:
                killer = wire.DEADLINE
            elif capture.total > _MOST_OUTPUT or len(dumped) > 1 << 20:
                killer = wire.OUTPUT
            elif now - looked >= _TICK_S:
                looked = now
                if self.mem_mb and memory.used_mb(self.mem_mb) > self.mem_mb:
                    killer = wire.MEMORY
            self.reap()
            if killer and self.ended is None:
                self.kill_all()
        if pidfd >= 0:
            os.close(pidfd)
        return killer

    def collect(self, capture: Capture, dumped: bytearray, state: tuple[int, int] | None) -> None:
        """Reads what is left in the pipes; keeps them for the next action unless somebody else still holds them."""
        assert self.output is not None
        reading, writing = self.output
        budget = 1 << 20  # a background process may write faster than this reads
        while budget > 0 and available(reading):
            data = os.read(reading, 1 << 16)
            capture.add(data)
            budget -= len(data)
        while state and len(dumped) < 1 << 20 and available(state[0]):
            dumped += os.read(state[0], 1 << 16)
        if not self.is_idle:
            os.close(writing)
            self.retired.append(reading)
            self.output = None
            if state:
                os.close(state[0])
                os.close(state[1])
                self.state = None
            if len(self.retired) > 32:
                os.close(self.retired.pop(0))

    def carry(self, dumped: bytes) -> None:
        """Takes over the working directory and the exported variables that a shell left behind."""
        parsed = parse_state(dumped)
        if parsed is None:
            return
        cwd, env = parsed
        try:
            os.chdir(cwd)
        except OSError:
            env["PWD"] = self.env.get("PWD", "/work")
        self.env = env

    # processes

    def reap(self) -> None:
        """Collects the dead. Sets `is_idle` when nothing else is alive, `ended` when the current command is dead."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                self.is_idle = True
                self.close_retired()
                return
            if not pid:
                self.is_idle = False
                return
            if pid == self.current:
                self.ended, self.current = (status, usage), 0

    def kill_all(self) -> None:
        """Ends everything but this process, stopped processes too, and waits until it has ended."""
        while not self.is_idle:
            try:
                os.kill(-1, signal.SIGKILL)
            except ProcessLookupError:
                pass
            try:
                pid, status, usage = os.wait4(-1, 0)
                if pid == self.current:
                    self.ended, self.current = (status, usage), 0
            except ChildProcessError:
                self.is_idle = True
        self.close_retired()

    def close_retired(self) -> None:
        for descriptor in self.retired:
            os.close(descriptor)
        self.retired.clear()

    def drain_retired(self, ready: list[int]) -> None:
        """Throws away what background processes print between actions, as nobody asked for it."""
        for descriptor in ready:
            if not os.read(descriptor, 1 << 16):
                os.close(descriptor)
                self.retired.remove(descriptor)

    def freeze(self) -> bytes:
        """Stops everything else, says where the episode stands, and goes on when the host has made its copy."""
        stopped = memory.stop_others() if not self.is_idle else []
        try:
            cwd = os.getcwd()
        except OSError:
            cwd = "/work"
        body = b"\0".join(os.fsencode(part) for part in (cwd, *(f"{name}={value}" for name, value in self.env.items())))
        self.control.sendall(wire.reply(wire.FROZEN, body, idle=self.is_idle))
        kind, *_ = self.thawed()
        for pid in stopped:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass
        return wire.reply(wire.DONE if kind == "thaw" else wire.REFUSED, idle=self.is_idle)

    def thawed(self) -> tuple[Any, ...]:
        idle, self.is_idle = self.is_idle, True  # only wait
        try:
            return self.receive()
        finally:
            self.is_idle = idle

    # files

    def write(self, files: list[tuple[str, bytes, int]]) -> bytes:
        for path, data, mode in files:
            try:
                self.write_file(path, data, mode)
            except OSError as error:
                number = error.errno or errno.EIO
                return wire.reply(wire.REFUSED, f"{path}: {os.strerror(number)}".encode(errors="surrogateescape"), status=number, idle=self.is_idle)
        return wire.reply(wire.DONE, idle=self.is_idle)

    def write_file(self, path: str, data: bytes, mode: int) -> None:
        """Whatever was there is replaced; no link is followed on the way."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        parent, name = os.path.split(path)
        try:
            handle = kernel.open_beneath(self.work, path, flags, mode)
        except FileExistsError:
            directory = self.directory(parent)
            try:
                os.unlink(name, dir_fd=directory)
                handle = kernel.open_beneath(self.work, path, flags, mode)
            finally:
                os.close(directory)
        except FileNotFoundError:
            os.close(self.directory(parent))
            handle = kernel.open_beneath(self.work, path, flags, mode)
        try:
            at = os.write(handle, data)
            while at < len(data):
                at += os.write(handle, data[at:])
        finally:
            os.close(handle)

    def directory(self, path: str) -> int:
        """An open descriptor of a directory beneath the workspace, made where it is missing."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        try:
            return kernel.open_beneath(self.work, path or ".", flags)
        except FileNotFoundError:
            parent, name = os.path.split(path)
            above = self.directory(parent)
            try:
                os.mkdir(name, 0o755, dir_fd=above)
            finally:
                os.close(above)
            return kernel.open_beneath(self.work, path, flags)


def run_snippet(code: str) -> NoReturn:
    """Never returns, whatever `code` does."""
    status = 0
    try:
        exec(compile(code, "<snippet>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
    except SystemExit as leave:
        if isinstance(leave.code, int):
            status = leave.code & 0xFF
        elif leave.code is not None:
            print(leave.code, file=sys.stderr)
            status = 1
    except BaseException as error:
        trace = error.__traceback__
        sys.excepthook(type(error), error.with_traceback(trace.tb_next if trace else None), None)
        status = 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def open_plain(path: str, flags: int) -> int:
    """Opens a regular file, or /dev/null, with no link on the way and without ever waiting. Raises `OSError` for anything else.

    This process opens it for a command, so what /proc/self or a pipe would mean to that command must not happen here.
    """
    handle = kernel.open_beneath(kernel.AT_FDCWD, path, flags | os.O_NONBLOCK | os.O_NOCTTY, 0o666 if flags & os.O_CREAT else 0, kernel.NO_LINKS)
    info = os.fstat(handle)
    if stat.S_ISREG(info.st_mode) or info.st_rdev == _NULL_DEVICE:
        return handle
    os.close(handle)
    raise OSError(errno.EINVAL, path)


def available(descriptor: int) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return any(event & select.POLLIN for _, event in poller.poll(0))


