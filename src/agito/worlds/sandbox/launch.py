"""Starts the zygote: a second interpreter with an empty environment that gets its program over a socket."""

from __future__ import annotations

import array
import marshal
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio

from agito.errors import NoIsolation, NotFound
from agito.protocols import WarmPython, seen_at
from agito.worlds.sandbox.cgroup import Group, half_of_memory, make
from agito.worlds.sandbox.inside import kernel, wire
from agito.worlds.sandbox.users import Users, take_users

_MODULES = (
    *(
        "kernel",
        "seccomp",
        "wire",
        "layers",
        "capture",
        "clocks",
        "state",
        "memory",
        "holding",
        "usage",
        "box",
        "slots",
        "template",
        "preload",
        "expand",
        "start",
        "writing",
        "reading",
    ),
    *("calling", "network", "crowd", "pid1", "groups", "roots", "keeper", "zygote"),
)
_START_S, _IMPORTED_S = 20.0, 60.0
HASH_SEED = 0
_ABSENT = "the interpreter did not start"
# The whole command line of the zygote, and so of every pid 1; it names no host path.
_COMMAND = "import _socket;s=_socket.socket(fileno=0);exec(s.recv(9999))"
_BOOT = b"""
import marshal, os, sys
sys.path[:] = [path for path in sys.path if path]
control = _socket.socket(fileno=os.dup(0))
os.dup2(os.open("/dev/null", os.O_RDWR), 0)
message, ancillary, _, _ = control.recvmsg(1 << 20, 4096)
settings, sources = marshal.loads(message)
package = sys.modules["PACKAGE"] = type(sys)("PACKAGE")
for name, source in sources:
    module = sys.modules["PACKAGE." + name] = type(sys)("PACKAGE." + name)
    setattr(package, name, module)
    exec(compile(source, name, "exec"), module.__dict__)
package.zygote.main(control, settings, ancillary)
""".replace(b"PACKAGE", b"agito.worlds.sandbox.inside")


@dataclass(frozen=True, slots=True, kw_only=True)
class Zygote:
    """A running zygote. `control` carries requests only."""

    control: socket.socket
    pidfd: int
    interpreter: str
    has_overlay: bool
    has_seccomp: bool
    landlock: int  # ABI version; 0 for none
    group: Group | None  # control group around everything
    users: Users
    cold: str = ""  # why it is not the interpreter that was asked for
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])  # arguments of `launch`

    @property
    def is_dead(self) -> bool:
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def wake(self) -> None:
        """Resumes it if something has stopped it; otherwise does nothing."""
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGCONT)
        except OSError:
            pass  # it is dead, or belongs to another user

    def request(self, *fields: Any, descriptors: tuple[int, ...] = ()) -> None:
        """Sends one request. Raises `OSError` if the zygote is gone or its queue is full."""
        rights = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        )
        self.control.sendmsg([marshal.dumps(fields, wire.FORMAT)], rights)


async def launch(
    *,
    limit_bytes: int | None = None,
    cgroup: bool = True,
    users: bool = True,
    overlay: bool = True,
    landlock: bool = True,
    seccomp: bool = True,
    hash_seed: int = HASH_SEED,
    shown: Sequence[str] = (),
    python: WarmPython | None = None,
) -> Zygote:
    """Raises `NoIsolation`, which names the remedy, and `NotFound` for a folder to show.

    `hash_seed`: set order in every interpreter inside. `python`: what all sandboxes are cloned from, unless
    that turns out to be unsound. `limit_bytes`: of all sandboxes together; half of the machine's memory by
    default. The other flags are for tests, which prove that an attack works if a layer is missing.
    """
    if sys.platform != "linux" or not kernel.SUPPORTED:
        raise NoIsolation(
            f"no sandbox on {sys.platform}/{kernel.MACHINE}: run Agito on Linux, x86_64 or aarch64, or in "
            "a Linux virtual machine"
        )
    options: dict[str, Any] = {
        "limit_bytes": limit_bytes,
        "cgroup": cgroup,
        "users": users,
        "overlay": overlay,
        "landlock": landlock,
        "seccomp": seccomp,
        "hash_seed": hash_seed,
        "shown": shown,
        "python": python,
    }
    seen = _shown(shown)
    group = make(limit_bytes or half_of_memory()) if cgroup else None
    taken = take_users(many=users)
    problems: list[str] = []
    for interpreter, prefix in [(python.interpreter, "/usr")] if python else _interpreters():
        settings = {
            "prefix": prefix,
            "overlay": overlay,
            "landlock": landlock,
            "seccomp": seccomp,
            "shown": tuple((path, seen_at(path)) for path in seen if not _is_in(path, ("/usr", prefix))),
            "warm": asdict(python) if python else None,
        }
        answer = await _try(interpreter, settings, group, taken, hash_seed)
        if isinstance(answer, Zygote):
            return replace(answer, options=options)
        problems.append(f"{interpreter}: {answer}")
        if not answer.startswith(_ABSENT):
            break  # the kernel refused; another interpreter would not help
    taken.give_back()
    if group is not None:
        group.remove()
    if python is not None:  # whatever it is, it may be that interpreter
        options["python"] = None
        return replace(await launch(**options), cold=problems[-1])
    raise NoIsolation(f"no sandbox on this machine ({'; '.join(problems)}): {_remedy(problems[-1])}")


def _shown(paths: Sequence[str]) -> tuple[str, ...]:
    """The folders, without what lies in another. Raises `NotFound`."""
    tops = list[str]()
    for path in sorted({os.path.realpath(path) for path in paths}):
        if not os.path.isdir(path) or path == "/":
            raise NotFound(f"{path}: name a folder that exists and is not everything")
        if not _is_in(path, tops):
            tops.append(path)
    return tuple(tops)


def _is_in(path: str, folders: Sequence[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


async def stop(zygote: Zygote) -> None:
    """Waits until the zygote, and with it every sandbox, is dead."""
    zygote.control.close()
    with anyio.move_on_after(_START_S, shield=True):
        await anyio.wait_readable(zygote.pidfd)
        while zygote.group is not None and not zygote.group.remove():  # noqa: ASYNC110 - the kernel says nothing when it is empty
            await anyio.sleep(0.005)
    zygote.users.give_back()
    os.close(zygote.pidfd)


def _interpreters() -> list[tuple[str, str]]:
    """Executables and the directories that they need; the system's own first, as sandboxes see it in /usr."""
    found = [("/usr/bin/python3", "/usr")] if os.access("/usr/bin/python3", os.X_OK) else []
    own = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    return [*found, (own, sys.base_prefix)]


async def _try(
    interpreter: str, settings: Mapping[str, object], group: Group | None, users: Users, hash_seed: int
) -> Zygote | str:
    """A zygote, or why there is none."""
    control, remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    with remote:
        try:
            process = _start(interpreter, remote, hash_seed)
        except OSError as error:
            control.close()
            return f"{_ABSENT}: {error}"
    report: tuple[Any, ...] = ("nothing",)
    descriptors = list[int]()
    limit_s = _IMPORTED_S if settings["warm"] else _START_S
    try:
        group = _enclose(process.pid, group, users)
        _send_program(control, settings, group, users)
        with anyio.move_on_after(limit_s):
            await anyio.wait_readable(control)
            answer, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 1)
            if descriptors:  # of the zygote, which may import for long
                await anyio.wait_readable(control)
                answer = control.recv(1 << 16)
            report = marshal.loads(answer) if answer else report  # nothing of an episode has run yet
    except OSError:
        pass  # it ended without an answer
    finally:
        if report[0] != "ready":
            control.close()
            process.kill()
            await _end(descriptors)
        process.wait()  # only the first process; the zygote is its child, in its own namespaces
    if report[0] == "nothing":
        late = f"it was not ready within {limit_s:.0f} s, or ended before"
        return late if descriptors else f"{_ABSENT}: it ended at once, or lacks ctypes"
    if report[0] != "ready":
        return str(report[2])
    return Zygote(
        control=control,
        pidfd=descriptors[0],
        interpreter=interpreter,
        has_overlay=bool(report[1]),
        has_seccomp=bool(settings["seccomp"]),
        landlock=int(report[2]),
        group=group,
        users=users,
    )


async def _end(pidfds: Sequence[int]) -> None:
    """Kills a zygote that will not be used, and waits for its end."""
    for pidfd in pidfds:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        with anyio.move_on_after(_START_S, shield=True):
            await anyio.wait_readable(pidfd)
        os.close(pidfd)


def _start(interpreter: str, remote: socket.socket, hash_seed: int) -> subprocess.Popen[bytes]:
    """An interpreter that reads its program from `remote`. Raises `OSError`."""
    # As -I, but with two variables kept: -P, no user site, and an otherwise empty environment.
    return subprocess.Popen(
        [interpreter, "-s", "-S", "-c", _COMMAND],
        stdin=remote.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PYTHONHASHSEED": str(hash_seed), "PYTHONSAFEPATH": "1"},
        cwd="/",
        close_fds=True,
        start_new_session=True,
    )


def _send_program(
    control: socket.socket, settings: Mapping[str, object], group: Group | None, users: Users
) -> None:
    """Sends the zygote its modules, its settings, and descriptors of its groups. Raises `OSError`."""
    inside = Path(__file__).parent / "inside"
    sources = [(name, (inside / f"{name}.py").read_text(encoding="utf-8")) for name in _MODULES]
    places = group.places if group is not None else ()
    whole = {
        **settings,
        "uid": users.first,
        "num_uids": users.count - 1,
        "groups": [(place.is_v1, place.controllers) for place in places],
    }
    control.send(_BOOT)
    handed = array.array("i", [place.lock.descriptor for place in places])
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, handed)]
    control.sendmsg([marshal.dumps((whole, sources), wire.FORMAT)], rights if places else [])
    control.setblocking(False)


def _enclose(pid: int, group: Group | None, users: Users) -> Group | None:
    """The group with the process in it, delegated to its user; None if that is refused."""
    if group is None:
        return None
    try:
        if group.join(pid):
            group.delegate(users.first)
            return group
    except OSError:
        pass
    group.remove()
    return None


def _remedy(problem: str) -> str:
    if "unshare" in problem or "clone" in problem or "map" in problem or "Permission" in problem:
        return (
            "allow user namespaces (sysctl -w kernel.unprivileged_userns_clone=1 "
            "user.max_user_namespaces=15000; on Ubuntu 24.04 or"
            " later also kernel.apparmor_restrict_unprivileged_userns=0; in a container, run it with "
            "--privileged or seccomp=unconfined)"
        )
    if "mount" in problem:
        return (
            "needs Linux 5.12 or later and a /proc that is not masked (in a container: --security-opt "
            "systempaths=unconfined)"
        )
    if _ABSENT in problem:
        return "install Python 3.10 or later as /usr/bin/python3 (Debian: apt install python3)"
    return (
        "this step is refused by the kernel or the container; run Agito outside of it, or in a virtual "
        "machine"
    )
