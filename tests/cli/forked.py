"""`agito` in a process that is forked from one that has imported it: a second of imports less a command.

What a command reads when it starts (`PYTHON…`, the locale) is as it was for the process that is forked from.
"""

from __future__ import annotations

import atexit
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, TypeAlias

Done: TypeAlias = "subprocess.CompletedProcess[str]"
_MOST_BYTES = 1 << 20  # of an order


def run(words: Sequence[str], *, cwd: Path, env: Mapping[str, str], stdin: str, timeout: float) -> Done:
    """As `subprocess.run` of `agito WORDS`."""
    with tempfile.TemporaryFile() as read, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        read.write(stdin.encode())
        read.seek(0)
        with _connected(env["PYTHONPATH"], timeout) as link:
            order = pickle.dumps((tuple(words), str(cwd), dict(env)))
            socket.send_fds(link, [order], [read.fileno(), out.fileno(), err.fileno()])
            _, fds, _, _ = socket.recv_fds(link, 64, 1)
            try:
                code = int(link.recv(64))
            except TimeoutError:
                signal.pidfd_send_signal(fds[0], signal.SIGKILL)
                raise subprocess.TimeoutExpired(["agito", *words], timeout, _all(out), _all(err)) from None
            finally:
                os.close(fds[0])
        return subprocess.CompletedProcess(words, code, _all(out).decode(), _all(err).decode())


def _all(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _connected(path: str, timeout: float) -> socket.socket:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link.settimeout(timeout)
    link.connect(str(_server(path)))
    return link


@cache
def _server(path: str) -> Path:
    """Where it listens. It ends with this process."""
    folder = tempfile.TemporaryDirectory()
    place = Path(folder.name) / "agito"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(place))
        listener.listen()
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        process = subprocess.Popen(
            [sys.executable, __file__, str(listener.fileno())],
            pass_fds=[listener.fileno()],
            env={**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
    atexit.register(folder.cleanup)
    atexit.register(process.communicate)
    return place


def _serve(listener: socket.socket) -> Sequence[str]:
    """Returns in a child, with what it is to do; exits when whoever started this has ended."""
    waiting: dict[int, tuple[int, socket.socket]] = {}  # for the end of a child, by its descriptor
    while True:
        ready = select.select([listener, 0, *waiting], [], [])[0]
        if 0 in ready:
            raise SystemExit(0)
        for pidfd in [each for each in ready if isinstance(each, int) and each in waiting]:
            pid, link = waiting.pop(pidfd)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            with link, suppress(OSError):  # nobody waits any more
                link.send(str(code).encode())
            os.close(pidfd)
        if listener in ready:
            link, _ = listener.accept()
            order, fds, _, _ = socket.recv_fds(link, _MOST_BYTES, 3)
            pid = os.fork()
            if pid == 0:
                listener.close()
                link.close()
                return _settled(order, fds)
            for fd in fds:
                os.close(fd)
            pidfd = os.pidfd_open(pid)
            socket.send_fds(link, [b"begun"], [pidfd])
            waiting[pidfd] = pid, link


def _settled(order: bytes, fds: Sequence[int]) -> Sequence[str]:
    words, cwd, env = pickle.loads(order)
    os.setsid()
    for place, fd in enumerate(fds):
        os.dup2(fd, place)
        os.close(fd)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    return words


if __name__ == "__main__":
    import agito.cli.app  # what every command imports
    import agito.training.run  # and most of them do

    ordered = _serve(socket.socket(fileno=int(sys.argv[1])))
    sys.argv = ["agito", *ordered]
    agito.cli.main(ordered)
