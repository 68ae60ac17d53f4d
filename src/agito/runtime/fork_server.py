"""Workers are forked from a process that has imported everything already.

Importing takes more than a second of CPU time; a fork takes milliseconds, and its memory is shared until it
is written to. The server has one thread and opens no policy, so forking it is safe. It serves all pools of
this process, and ends with it.

Whoever starts many runs, as our tests do, can import once for all of them: a process that `warm` starts waits
at a socket, and the servers of runs whose environment names that socket (`AGITO_FORK_SERVER`) are forked from
it.
"""

from __future__ import annotations

import atexit
import gc
import os
import pickle
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

WARM = "AGITO_FORK_SERVER"
_SIZE, _PEER = struct.Struct("<Q"), struct.Struct("3i")
_MOST_ENVIRONMENT = 1 << 16  # bytes
_END_S = 5.0
_WARM_S = 60.0  # it may still be importing
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# what a process reads only once, when it starts or imports
_READ_ONCE = ("PYTHON", "LD_", "OMP_", "MKL_", "KMP_", "OPENBLAS_", "TORCH", "CUDA", "NVIDIA", "MALLOC_")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    rank: int
    environment: Mapping[str, str]
    directory: str | None


class _ServerProcess(Protocol):
    def poll(self) -> int | None: ...
    def wait(self, timeout: float) -> int: ...


class _WarmProcess:
    """A server that is no child of this process."""

    def __init__(self, pidfd: int) -> None:
        self._pidfd = pidfd

    def poll(self) -> int | None:
        return 0 if select.select([self._pidfd], [], [], 0)[0] else None

    def wait(self, timeout: float) -> int:
        if not select.select([self._pidfd], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(WARM, timeout)
        return 0

    def __del__(self) -> None:
        os.close(self._pidfd)


class ForkedWorker:
    """A worker process, also before it has been forked."""

    def __init__(self, news: socket.socket, server: _ServerProcess) -> None:
        news.setblocking(False)
        self._news, self._server = news, server
        self._pid: int | None = None
        self._pidfd = -1
        self._ended = ""

    @property
    def pid(self) -> int | None:
        """None: it has not been forked yet."""
        self._hear()
        return self._pid

    @property
    def ended(self) -> str:
        """How it ended, such as `signal SIGKILL`; empty while it runs or is to be forked."""
        self._hear()
        return self._ended

    def kill(self) -> None:
        self._hear()
        if self._ended:
            return
        if self._pid is None:  # the server kills what it cannot announce
            self._end("signal SIGKILL")
            return
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _hear(self) -> None:
        while not self._ended:
            try:
                data, fds, _, _ = socket.recv_fds(self._news, 64, 1)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            if fds:
                self._pid, self._pidfd = int(data), fds[0]
            elif data:
                code = int(data)
                self._end(f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}")
            elif self._pid is None and (failed := self._server.poll()) is not None:
                self._end(f"exit code {failed} of the process that forks workers")
            elif self._pid is not None and select.select([self._pidfd], [], [], 0)[0]:
                self._end("how is unknown: the process that forks workers is gone")
            else:
                return

    def _end(self, how: str) -> None:
        self._ended = how
        self._close()

    def _close(self) -> None:
        self._news.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def __del__(self) -> None:
        self._close()


class _Server:
    def __init__(self) -> None:
        self.fixed, self.owner = _read_once(), os.getpid()
        found = _warm_server(self.fixed)
        self._control, self.process = _started() if found is None else found

    def fork(self, rank: int, link: socket.socket) -> ForkedWorker:
        ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        directory = None
        with suppress(OSError):  # it was deleted
            directory = str(Path.cwd())
        order = pickle.dumps(
            _Order(rank=rank, environment={**os.environ, **_ONE_THREAD}, directory=directory)
        )
        with theirs, Path(os.devnull).open("wb") as nowhere:
            streams = [fd if _is_open(fd) else nowhere.fileno() for fd in (1, 2)]
            with suppress(BrokenPipeError):  # then the news ends at once
                socket.send_fds(
                    self._control, [_SIZE.pack(len(order))], [link.fileno(), theirs.fileno(), *streams]
                )
                self._control.sendall(order)
        return ForkedWorker(ours, self.process)

    def close(self) -> None:
        self._control.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_END_S)


def _started() -> tuple[socket.socket, _ServerProcess]:
    ours, theirs = socket.socketpair()
    with theirs:
        return ours, subprocess.Popen(
            _command(theirs),
            pass_fds=[theirs.fileno()],
            env={**os.environ, **_ONE_THREAD},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def _command(link: socket.socket) -> list[str]:
    return [sys.executable, "-m", "agito.runtime.worker", str(link.fileno())]


def _warm_server(fixed: Mapping[str, str]) -> tuple[socket.socket, _ServerProcess] | None:
    """None: nothing waits for this process, or it read another environment when it started."""
    path = os.environ.get(WARM)
    if not path:
        return None
    control = socket.socket(socket.AF_UNIX)
    with suppress(OSError):
        control.settimeout(_WARM_S)
        control.connect(path)
        data, fds, _, _ = socket.recv_fds(control, _MOST_ENVIRONMENT, 1)
        control.settimeout(None)
        if fds:
            process = _WarmProcess(fds[0])
            if pickle.loads(data) == {**fixed, **_ONE_THREAD}:
                return control, process
    control.close()
    return None


@contextmanager
def warm(path: Path, environment: Mapping[str, str]) -> Generator[None]:
    """Meanwhile a process that has imported everything waits at `path`, for runs of this user in this
    environment."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen()
        process = subprocess.Popen(
            _command(listener),
            pass_fds=[listener.fileno()],
            env={**environment, **_ONE_THREAD},
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
    assert process.stdin is not None
    try:
        with process, process.stdin:
            yield
    finally:
        path.unlink(missing_ok=True)


_server: _Server | None = None
_lock = threading.Lock()


def fork_worker(rank: int, link: socket.socket) -> ForkedWorker:
    """Worker `rank`, which serves `link` as soon as the server is up. It has this process's environment,
    directory, standard output and standard error of now."""
    global _server
    with _lock:
        found = _server
        if found is None or found.owner != os.getpid():
            found = _server = _Server()
        elif found.process.poll() is not None or found.fixed != _read_once():
            found.close()
            found = _server = _Server()
        return found.fork(rank, link)


@atexit.register
def _end() -> None:
    if _server is not None and _server.owner == os.getpid():
        _server.close()


def _read_once() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(_READ_ONCE)}


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


# The server's side.


def accepted(listener: socket.socket) -> socket.socket:
    """Forks a server for each connection, and returns in it; exits when standard input has ended."""
    said = pickle.dumps(_read_once())
    assert len(said) <= _MOST_ENVIRONMENT
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    while True:
        ready, _, _ = select.select([listener, 0], [], [])
        if 0 in ready:
            raise SystemExit(0)
        control, _ = listener.accept()
        if os.fork() == 0:
            break
        control.close()
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    listener.close()
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    owner, _, _ = _PEER.unpack(control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    Path("/proc/self/comm").write_text(f"agito-f-{owner}")
    own = os.pidfd_open(os.getpid())
    socket.send_fds(control, [said], [own])
    os.close(own)
    return control


def forked(control: socket.socket) -> tuple[socket.socket, int]:
    """Forks once per order. Returns only in a child, with its link and rank; the server itself exits when its
    owner is gone."""
    gc.collect()
    gc.freeze()
    children: dict[int, tuple[int, socket.socket]] = {}  # by file descriptor of the process
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not control:
                    selector.unregister(key.fd)
                    _bury(key.fd, *children.pop(key.fd))
                    continue
                received = _received(control)
                if received is None:
                    raise SystemExit(0)
                order, link, news, streams = received
                pid = os.fork()
                if pid == 0:
                    for pidfd, (_, other) in children.items():
                        os.close(pidfd)
                        other.close()
                    control.close()
                    news.close()
                    _settle(order, streams)
                    return link, order.rank
                link.close()
                for fd in streams:
                    os.close(fd)
                pidfd = os.pidfd_open(pid)
                try:
                    socket.send_fds(news, [str(pid).encode()], [pidfd])
                except OSError:  # nobody wants it any more
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                children[pidfd] = pid, news
                selector.register(pidfd, selectors.EVENT_READ)


def _received(control: socket.socket) -> tuple[_Order, socket.socket, socket.socket, list[int]] | None:
    try:
        data, fds, _, _ = socket.recv_fds(control, _SIZE.size, 4, socket.MSG_WAITALL)
        if len(data) < _SIZE.size:
            return None
        (size,) = _SIZE.unpack(data)
        body = control.recv(size, socket.MSG_WAITALL)
    except OSError:
        return None
    if len(body) < size:
        return None
    order: object = pickle.loads(body)
    assert isinstance(order, _Order)
    return order, socket.socket(fileno=fds[0]), socket.socket(fileno=fds[1]), fds[2:]


def _bury(pidfd: int, pid: int, news: socket.socket) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(pidfd)
    with news, suppress(OSError):
        news.send(str(code).encode())


def _settle(order: _Order, streams: list[int]) -> None:
    """In the child."""
    os.setsid()
    for fd, place in zip(streams, (1, 2), strict=True):
        os.dup2(fd, place)
        os.close(fd)
    os.environ.clear()
    os.environ.update(order.environment)
    if order.directory is not None:
        with suppress(OSError):
            os.chdir(order.directory)
    with suppress(OSError):
        Path("/proc/self/comm").write_text(f"agito-worker-{order.rank}")
