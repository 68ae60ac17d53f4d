"""A sandbox's first process: starts commands, waits for them, kills them, and reports to the host.

It has no capabilities, cannot be traced and holds no secrets. What a command did is measured from outside the
command; everything the episode can write (variables, working directory, output) is only data here, of bounded
size. Nothing here waits for something that an episode may withhold, and an unexpected error ends a request,
not this process.
"""

from __future__ import annotations

import _socket
import errno
import os
import resource
import select
import time
from typing import TYPE_CHECKING, Any, NoReturn

from agito.worlds.sandbox.inside import clocks, crowd, memory, start, state, usage, wire
from agito.worlds.sandbox.inside.box import limit_files
from agito.worlds.sandbox.inside.capture import Capture
from agito.worlds.sandbox.inside.holding import Holding
from agito.worlds.sandbox.inside.reading import is_ended, pipe, read_available, read_request
from agito.worlds.sandbox.inside.start import adopt, fork_snippet, start_program, start_shell
from agito.worlds.sandbox.inside.writing import send, write_file

if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without the enums, which would be copied into every sandbox

_QUICK_S = 0.004  # most commands end within it: one sleep, no polling
_TICK_S = 0.05  # interval of memory checks of a longer command
_MOST_OUTPUT = 1 << 26  # beyond which a command is stopped
_MOST_STATE = 1 << 20
_REST_S = 0.01  # pause between two reads of background processes' pipes
_ENDING_S = 1.0  # time for a killed command to be gone before its end is reported
_GONE_S = 20.0  # time before a sandbox is reported as not empty
_REAPED_AT_ONCE = 500
_TRIES = 3  # to start a process: processes just killed count for a moment
_TRY_S = 0.005


def run(link: int, work: int, upper: int) -> NoReturn:
    """Serves one sandbox until the host closes `link`. The host may read `work` and `upper`."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))
    control = _socket.socket(fileno=link)
    box = Pid1(control, work)
    me = os.pidfd_open(os.getpid())
    send(control, wire.reply(wire.READY), (me, work, upper))
    limit_files()
    for descriptor in {me, upper} - {work}:
        os.close(descriptor)
    while True:
        request = box.receive()
        try:
            answer = box.answer(request)
        except Exception as error:  # the boundary: the host gets the error and decides
            answer = wire.reply(
                wire.REFUSED, f"{type(error).__name__}: {error}".encode(errors="replace"), idle=box.is_idle
            )
        control.sendall(answer)


class Pid1:
    """The state of one episode: variables, working directory, and whether other processes are alive."""

    def __init__(self, control: _socket.socket, work: int) -> None:
        self.control = control
        self.work = work
        self.null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self.cpu_s = resource.getrlimit(resource.RLIMIT_CPU)[0]
        self.env: dict[str, str] = {}
        self.adopted: dict[str, str] | None = None  # the part that is this process's own environment
        self.output_bytes = 64_000
        self.mem_mb = 0
        self.holding = Holding()
        self.is_idle = True  # nothing else is alive
        self.output: tuple[int, int] | None = None  # a pipe that no other process holds
        self.state: tuple[int, int] | None = None
        self.retired: list[int] = []  # read ends that background processes still write to
        self.handed: list[int] = []  # descriptors that came with the request
        self.current = 0
        self.ended: tuple[int, Any] | None = None
        self.capture = Capture(0)
        self.dumped = bytearray()  # state reported by a shell at its end

    def receive(self) -> tuple[Any, ...]:
        """The next request. Meanwhile reaps, drains and watches background processes."""
        looked = time.monotonic()
        is_resting = False  # a background process may print faster than this reads
        while not self.is_idle:
            poller = select.poll()
            poller.register(self.control.fileno(), select.POLLIN)
            for descriptor in () if is_resting else self.retired:
                poller.register(descriptor, select.POLLIN)
            events = poller.poll(1000 * (_REST_S if is_resting else 2 * _TICK_S))
            if any(descriptor == self.control.fileno() for descriptor, _ in events):
                break
            is_resting = bool(events)
            self.drain_retired([descriptor for descriptor, _ in events])
            self.reap()
            if time.monotonic() - looked >= _TICK_S:
                looked = time.monotonic()
                try:
                    if self.holds_too_much():
                        self.kill_all()
                except (OSError, MemoryError):
                    pass  # it is checked again
        request, self.handed = read_request(self.control)
        return request

    def answer(self, request: tuple[Any, ...]) -> bytes:
        kind, *fields = request
        if kind == "act":
            return self.act(*fields)
        if kind == "write":
            return self.write(fields[0])
        if kind == "configure":
            self.env, self.output_bytes, self.mem_mb, cwd, first = fields
            try:
                state.enter(cwd)
            except OSError:  # a fork of an episode whose working directory is gone
                self.env["PWD"] = "/work"
            return self.answer(first)
        if kind == "kill":
            self.kill_all(_GONE_S)
            return wire.reply(wire.DONE if self.is_idle else wire.REFUSED, idle=self.is_idle)
        if kind == "freeze":
            return self.freeze()
        if kind == "launch":
            return self.launch(*fields)
        return wire.reply(wire.REFUSED, b"unknown request", idle=self.is_idle)

    def act(
        self,
        command: str,
        is_python: bool,
        timeout: float,
        carries: bool,
        program: tuple[Any, ...] | None,
        allowed: tuple[float, float] | None = None,
    ) -> bytes:
        """`allowed`: CPU seconds and seconds asleep for the whole process tree; None if only `timeout`
        counts.
        """
        started = time.monotonic()
        meter = usage.Meter(*allowed) if allowed is not None else None
        self.output = self.output or pipe()
        self.state = self.state or (pipe() if carries else None)
        try:
            self.start(command, is_python, carries, program)
        except OSError as error:
            return self.not_started(error)
        self.ended, self.is_idle = None, False
        self.capture, self.dumped = Capture(self.output_bytes), bytearray()
        signal.sigtimedwait((signal.SIGCHLD,), min(_QUICK_S, timeout))
        self.reap()
        killer = self.watch(started + timeout, meter) if self.ended is None else 0
        wall = time.monotonic() - started
        self.collect()
        if carries and self.dumped:
            self.carry(bytes(self.dumped))
        status, cpu, peak = self.how_it_ended()
        if not killer and status == signal.SIGKILL and self.holding.has_killed():
            killer = wire.MEMORY
        cpu = meter.settle(self.is_idle) if meter is not None else cpu
        return wire.reply(
            wire.RESULT,
            self.capture.value(),
            killer=killer,
            idle=self.is_idle,
            status=status & 0xFFFF,
            total=self.capture.total,
            wall=wall,
            cpu=cpu,
            peak=peak,
        )

    def start(self, command: str, is_python: bool, carries: bool, program: tuple[Any, ...] | None) -> None:
        """Raises `OSError`, after several tries unless the episode has used up its processes."""
        if time.process_time() >= self.cpu_s:  # the kernel moves a limit that was passed
            resource.setrlimit(resource.RLIMIT_CPU, (self.cpu_s, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        for left in reversed(range(_TRIES)):
            try:
                return self.start_once(command, is_python, carries, program)
            except OSError as error:
                if not left or error.errno != errno.EAGAIN or self.is_full():
                    raise
                time.sleep(_TRY_S)
                self.reap()
        return None

    def start_once(
        self, command: str, is_python: bool, carries: bool, program: tuple[Any, ...] | None
    ) -> None:
        assert self.output is not None
        writing = self.output[1]
        if is_python:
            if self.env != self.adopted:
                self.adopted = None
                adopt(self.env)
                self.adopted = dict(self.env)
            self.current = fork_snippet(command, self.control, writing)
            return
        if program is not None and self.is_idle:
            words, globs, redirections = program
            self.current = start_program(words, globs, redirections, self.env, self.null, writing)
            if self.current:
                return
        dumping = self.state[1] if carries and self.state is not None else -1
        self.current = start_shell(command, self.env, self.null, writing, dumping, is_alone=self.is_idle)

    def not_started(self, error: OSError) -> bytes:
        """Reports a failed start: as bash does if the command is too long, and as the episode's fault if it
        has used up its limits.
        """
        text = f"bash: {os.strerror(error.errno or 0)}\n".encode()
        if error.errno == errno.E2BIG:
            return wire.reply(wire.RESULT, text, idle=self.is_idle, status=126 << 8, total=len(text))
        if self.is_full() or (error.errno == errno.ENOMEM and not self.is_idle):
            return wire.reply(
                wire.RESULT, text, killer=wire.START, idle=self.is_idle, status=254 << 8, total=len(text)
            )
        return wire.reply(
            wire.REFUSED, f"no process could be started: {error.strerror}".encode(), idle=self.is_idle
        )

    def is_full(self) -> bool:
        """Whether the episode has, or nearly has, all the processes and threads that it may."""
        most = resource.getrlimit(resource.RLIMIT_NPROC)[0]
        return most != resource.RLIM_INFINITY and memory.num_threads() + 2 >= most

    def how_it_ended(self) -> tuple[int, float, float]:
        """Wait status, CPU seconds and peak MiB; if it is not gone yet, only that it was killed."""
        if self.ended is None:
            self.current = 0
            return signal.SIGKILL, 0.0, 0.0
        status, spent = self.ended
        return status, spent.ru_utime + spent.ru_stime, spent.ru_maxrss / 1024

    def watch(self, deadline: float, meter: usage.Meter | None) -> int:
        """Waits for a longer command. Returns what killed it, or 0."""
        poller = select.poll()
        pidfd = os.pidfd_open(self.current)
        for descriptor in (
            pidfd,
            self.control.fileno(),
            *(ends[0] for ends in (self.output, self.state) if ends),
            *self.retired,
        ):
            poller.register(descriptor, select.POLLIN)
        looked, killer = time.monotonic(), 0
        while self.ended is None:
            for descriptor, _ in poller.poll(max(0.0, min(_TICK_S, deadline - time.monotonic())) * 1000):
                self.read_from(descriptor, poller)
            self.reap()
            if self.ended is not None:
                break
            now = time.monotonic()
            if now >= deadline:
                killer = wire.DEADLINE
            elif self.capture.total > _MOST_OUTPUT or len(self.dumped) > _MOST_STATE:
                killer = wire.OUTPUT
            elif now - looked >= _TICK_S:
                looked = now
                killer = wire.MEMORY if self.holds_too_much() else meter.look() if meter is not None else 0
            if killer:
                self.kill_all()
                break
        os.close(pidfd)
        return killer

    def read_from(self, descriptor: int, poller: select.poll) -> None:
        """Reads from one ready descriptor."""
        if self.output and descriptor == self.output[0]:
            self.capture.add(read_available(descriptor))
        elif self.state and descriptor == self.state[0]:
            self.dumped += read_available(descriptor)
        elif descriptor == self.control.fileno():
            os._exit(0)  # the host is gone, or has given up on this sandbox
        elif descriptor in self.retired:
            self.drain_retired([descriptor])
            if descriptor not in self.retired:
                poller.unregister(descriptor)

    def holds_too_much(self) -> bool:
        crowd.keep_small()
        clocks.end_spenders(memory.others(), self.cpu_s + 1)
        return self.mem_mb > 0 and self.holding.used_mb(self.mem_mb) > self.mem_mb

    def collect(self) -> None:
        """Reads what is left in the pipes, and keeps them for the next action unless another process still
        holds them.
        """
        assert self.output is not None
        reading, writing = self.output
        budget = 1 << 20  # a background process may write faster than this reads
        while budget > 0 and (data := read_available(reading)):
            self.capture.add(data)
            budget -= len(data)
        if self.state:
            while len(self.dumped) <= _MOST_STATE and (data := read_available(self.state[0])):
                self.dumped += data
            if not self.is_idle or len(self.dumped) > _MOST_STATE:
                for descriptor in self.state:
                    os.close(descriptor)
                self.state = None
        if not self.is_idle:
            os.close(writing)
            self.retired.append(reading)
            self.output = None
            if len(self.retired) > 32:
                os.close(self.retired.pop(0))

    def carry(self, dumped: bytes) -> None:
        """Adopts the working directory and exported variables that a shell left."""
        try:
            cwd, env = state.parse(dumped)
        except state.NotKept as why:
            self.capture.add(
                f"bash: directory and variables are not kept: {why}\n".encode(errors="surrogateescape")
            )
            return
        try:
            state.enter(cwd)
        except OSError:
            env["PWD"] = self.env.get("PWD", "/work")
        self.env = env

    def write(self, files: list[tuple[str, bytes, int]]) -> bytes:
        for path, data, mode in files:
            try:
                write_file(self.work, path, data, mode)
            except (OSError, ValueError) as error:
                number = (error.errno if isinstance(error, OSError) else errno.EINVAL) or errno.EIO
                text = f"{path}: {os.strerror(number)}".encode(errors="replace")
                return wire.reply(wire.REFUSED, text, status=number, idle=self.is_idle)
        return wire.reply(wire.DONE, idle=self.is_idle)

    def launch(self, what: str | tuple[str, ...], mark: str) -> bytes:
        """Starts a service, a command or a script with arguments, on the pipes that came with the request."""
        try:
            if isinstance(what, str):
                start.start_service(what, self.env, self.handed, is_alone=self.is_idle)
            else:
                start.start_script(what, mark, self.env, self.handed, self.control)
            self.is_idle = False
        except OSError as error:
            number = error.errno or errno.EIO
            killer = wire.START if number in (errno.EAGAIN, errno.ENOMEM) and self.is_full() else 0
            return wire.reply(
                wire.REFUSED, os.strerror(number).encode(), killer=killer, status=number, idle=self.is_idle
            )
        finally:
            for descriptor in self.handed:
                os.close(descriptor)
        return wire.reply(wire.DONE, idle=self.is_idle)

    def reap(self) -> None:
        """Collects dead processes. Sets `is_idle` if nothing else is alive, and `ended` if the current
        command is dead.
        """
        for _ in range(_REAPED_AT_ONCE):  # they may end as fast as they are collected
            try:
                pid, status, spent = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                self.is_idle = True
                self.close_retired()
                return
            if not pid:
                self.is_idle = False
                return
            if pid == self.current:
                self.ended, self.current = (status, spent), 0

    def kill_all(self, patience_s: float = _ENDING_S) -> None:
        """Kills everything but this process, stopped processes too, and waits until it is gone; `is_idle`
        says whether it is.

        Killed processes run no further instruction, but the kernel may take long to release what they held.
        """
        until = time.monotonic() + patience_s
        while not self.is_idle:
            try:
                os.kill(-1, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.reap()
            left = until - time.monotonic()
            if left <= 0:
                return
            if not self.is_idle:
                signal.sigtimedwait((signal.SIGCHLD,), min(left, _TICK_S))
        self.close_retired()

    def close_retired(self) -> None:
        for descriptor in self.retired:
            os.close(descriptor)
        self.retired.clear()

    def drain_retired(self, ready: list[int]) -> None:
        """Discards what background processes print between actions."""
        for descriptor in ready:
            if is_ended(descriptor):
                os.close(descriptor)
                self.retired.remove(descriptor)

    def freeze(self) -> bytes:
        """Stops everything else, reports the episode's state, and resumes once the host has made its copy."""
        try:
            stopped = memory.stop_others() if not self.is_idle else []
        except TimeoutError as error:
            return wire.reply(wire.REFUSED, str(error).encode(), idle=self.is_idle)
        try:
            cwd = os.getcwd()
        except OSError:
            cwd = "/work"
        body = b"\0".join(
            os.fsencode(part) for part in (cwd, *(f"{name}={value}" for name, value in self.env.items()))
        )
        self.control.sendall(wire.reply(wire.FROZEN, body, idle=self.is_idle))
        kind, *_ = self.thawed()
        memory.resume(stopped)
        return wire.reply(wire.DONE if kind == "thaw" else wire.REFUSED, idle=self.is_idle)

    def thawed(self) -> tuple[Any, ...]:
        idle, self.is_idle = self.is_idle, True  # only wait
        try:
            return self.receive()
        finally:
            self.is_idle = idle
