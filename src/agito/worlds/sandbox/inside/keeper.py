"""A keeper: a copy of the zygote that starts one sandbox after another, always in the same control group and
as the same user.

Joining a control group waits for a kernel grace period; whatever a keeper starts is already inside. A keeper
runs no code of an episode. It also makes the sockets that the host requests in its sandbox's network: the
only way in, and there is no way out. They are TCP only, which unlike Unix sockets carries no descriptors or
credentials, only bytes. A network that had such a socket is never reused, as the host may hold the socket
longer than the sandbox lives.
"""

from __future__ import annotations

import _socket
import marshal
import os
import select
from typing import TYPE_CHECKING, Any, NoReturn

from agito.worlds.sandbox.inside import (
    box,
    crowd,
    holding,
    kernel,
    network,
    pid1,
    roots,
    slots,
    start,
    wire,
    writing,
)

if TYPE_CHECKING:
    from agito.worlds.sandbox.inside.groups import Groups

_NAMESPACES = (
    kernel.CLONE_NEWNS
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWCGROUP
)  # user and network namespaces come from a slot
_MIB = 1 << 20
_OWN_MB = 48  # for pid 1, page tables, kernel records, and the watchdog's delay
_OWN_PROCESSES = 16  # the keeper, pid 1, and zombies; the rlimit is what counts


class Keeper:
    """Runs in its own process, with its own `number`."""

    def __init__(self, requests: _socket.socket, freed: int, number: int, identity: int) -> None:
        self.requests = requests
        self.freed = freed
        self.number = number
        self.identity = identity
        self.name = ""  # of the live sandbox
        self.pid = 0
        self.slot: slots.Slot | None = None

    def run(self, groups: Groups, features: box.Features) -> NoReturn:
        """Runs until the zygote is gone. If setup fails, the first request gets the reason."""
        try:
            self.settle(groups, features)
        except OSError as error:
            _, descriptors = receive(self.requests)
            reason = f"{error.filename or 'keeper'}: {error.strerror}"
            writing.answer(descriptors[0], wire.reply(wire.REFUSED, reason.encode()))
            os._exit(1)
        while True:
            message, descriptors = receive(self.requests)
            match message:
                case ("spawn", name, shape, layers):
                    self.name = name
                    self.spawn(descriptors[0], shape, layers, groups, features)
                case ("socket", name, kind, port):
                    self.make_socket(descriptors[0], name, kind, port)
                case _:
                    raise AssertionError(message[0])
            for descriptor in descriptors:
                os.close(descriptor)
            if self.pid:
                self.wait()
            if not self.pid:
                self.renew()

    def settle(self, groups: Groups, features: box.Features) -> None:
        """Makes everything that outlives a sandbox. Raises `OSError`."""
        os.setsid()  # without a control group, the kernel shares CPU time among sessions
        groups.enter(f"{self.number:x}")
        if features.roots:
            roots.move_in(self.number)
        features.devices = os.open("/dev", os.O_PATH | os.O_CLOEXEC)
        self.slot = slots.Slot(self.identity)

    def spawn(
        self,
        link: int,
        shape: tuple[Any, ...],
        layers: tuple[str, ...],
        groups: Groups,
        features: box.Features,
    ) -> None:
        """Starts one sandbox; `link` becomes its pid 1's socket."""
        assert self.slot is not None
        work_mb, tmp_mb, mem_mb, procs = shape[:4]
        try:
            groups.bound((work_mb + tmp_mb + mem_mb + _OWN_MB) * _MIB, procs + _OWN_PROCESSES)
            self.pid = kernel.clone(_NAMESPACES)
        except OSError as error:
            writing.answer(link, wire.reply(wire.REFUSED, str(error.strerror).encode()))
            return
        if self.pid:
            return
        try:
            holding.account = groups.account()
            close_all_but(link, self.slot.user, features.devices, holding.account)
            start.take_precedence()
            crowd.is_watched = not groups.has("cpu")
            work, upper = box.close_in(shape, layers, self.slot.user, self.identity, features)
            kernel.key = 0
            pid1.run(link, work, upper)
        except BaseException as error:  # a half-built sandbox never goes on; the host gets the reason
            writing.answer(link, wire.reply(wire.REFUSED, f"{type(error).__name__}: {error}".encode()))
        finally:
            os._exit(1)

    def wait(self) -> None:
        """Waits for a request, or the sandbox's death."""
        pidfd = os.pidfd_open(self.pid)
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        poller.register(self.requests.fileno(), select.POLLIN)
        if any(descriptor == pidfd for descriptor, _ in poller.poll()):
            os.waitpid(self.pid, 0)
            self.pid = 0
        os.close(pidfd)

    def renew(self) -> None:
        """Prepares for the next sandbox, and reports that it is free."""
        assert self.slot is not None
        if not self.slot.is_unused():
            self.slot.close()
            self.slot = slots.Slot(self.identity)
        if self.name:
            self.name = ""
            os.write(self.freed, wire.LENGTH.pack(self.number))

    def make_socket(self, link: int, name: str, kind: str, port: int) -> None:
        """Answers over `link`, with the socket."""
        if name != self.name or self.slot is None:
            writing.answer(link, wire.reply(wire.REFUSED, b"this sandbox is gone"))
            return
        self.slot.is_used = True
        try:
            made = network.connecting(port) if kind == "connect" else network.listening(port)
        except OSError as error:
            reason = os.strerror(error.errno or 0).encode()
            writing.answer(link, wire.reply(wire.REFUSED, reason, status=error.errno or 0))
            return
        writing.answer(link, wire.reply(wire.DONE), [made])
        os.close(made)


def receive(control: _socket.socket) -> tuple[tuple[Any, ...], list[int]]:
    """The next request with its descriptors. Ends the process if the other side is gone."""
    message, ancillary, _, _ = control.recvmsg(1 << 18, 64)
    if not message:
        os._exit(0)
    descriptors = rights(ancillary)
    return marshal.loads(message), descriptors


def rights(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """Descriptors from ancillary data, none of them inheritable."""
    descriptors: list[int] = []
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            descriptors.extend(
                int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data) - len(data) % 4, 4)
            )
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return descriptors


def close_all_but(*kept: int) -> None:
    """Closes every descriptor above the standard ones, including those of other sandboxes."""
    at = 3
    for descriptor in sorted({descriptor for descriptor in kept if descriptor >= 0}):
        os.closerange(at, descriptor)
        at = descriptor + 1
    os.closerange(at, 1 << 20)
