"""The zygote: one small process with no environment, no secrets and no capabilities outside, which clones the sandboxes.

It hears requests on one socket and never answers there again after its first message: every sandbox answers for itself.
When the host dies, the socket closes, the zygote ends, and the kernel ends every sandbox with it.
"""

from __future__ import annotations

import _socket
import gc
import marshal
import os
import resource
from typing import TYPE_CHECKING, Any

from agito.world.sandbox.inside import box, kernel, layers, pid1, seccomp, slots, template, wire

if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without the enums, which would be copied into every sandbox

_NAMESPACES = (
    kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWCGROUP
)  # user and network namespaces come from a slot
_REMOVED_AT_ONCE = 500  # entries of a layer
_ALL_NAMESPACES = _NAMESPACES | kernel.CLONE_NEWUSER | kernel.CLONE_NEWNET


def main(control: _socket.socket, settings: dict[str, Any]) -> None:
    """Runs until `control` closes. Reports over it either the features found or what is missing."""
    try:
        root, features = prepare(settings)
    except OSError as error:
        said = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
        control.send(marshal.dumps(("missing", error.errno, said), wire.FORMAT))
        os._exit(1)
    me = os.pidfd_open(os.getpid())
    report = marshal.dumps(("ready", features.overlay, features.landlock), wire.FORMAT)
    control.sendmsg([report], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, me.to_bytes(4, "little"))])
    os.close(me)
    zygote = Zygote(control, root, features)
    gc.collect()
    gc.freeze()
    gc.disable()
    while True:
        message, descriptors = receive(control)
        try:
            zygote.serve(message, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


def prepare(settings: dict[str, Any]) -> tuple[int, box.Features]:
    """Leaves root, the host's files, processes and network. Raises `OSError` naming the step."""
    uid: int = settings["uid"]
    gid: int = uid if uid != os.geteuid() else os.getegid()
    if uid != os.geteuid():
        with open("/proc/self/setgroups", encoding="ascii") as rule:
            if rule.read().strip() != "deny":  # as it is where an ordinary user made the namespace; the groups are then that user's
                os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
    kernel.unshare(_ALL_NAMESPACES)
    box.write("/proc/self/setgroups", b"deny")
    box.write("/proc/self/gid_map", b"1000 %d 1" % gid)
    box.write("/proc/self/uid_map", b"1000 %d 1" % uid)
    if os.fork():  # the child is the first process of the new pid namespace: when it ends, all of them do
        os._exit(0)
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 1 << 16),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_RTPRIO, 0),
    ):
        resource.setrlimit(kind, (value, value))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # three a slot
    kernel.set_hostname("sandbox")
    os.umask(0o022)
    root = template.build(settings["prefix"])
    features = box.Features()
    features.landlock = box.landlock_version() if settings["landlock"] else 0
    features.overlay = settings["overlay"] and has_overlay(root)
    features.devices = os.open("/dev", os.O_PATH | os.O_CLOEXEC)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    if settings["seccomp"]:
        kernel.key = int.from_bytes(os.urandom(8), "little")
        seccomp.install(seccomp.program(kernel.key))
    return root, features


def has_overlay(root: int) -> bool:
    """Whether an overlay with every mark it needs can be mounted over a tmpfs here."""
    try:
        os.mkdir("run/layers/probe", 0o755, dir_fd=root)
        kernel.mount("probe", "/work", "tmpfs", 0)
        try:
            os.setxattr("/work", "user.overlay.probe", b"y")
            for name in ("/work/upper", "/work/inner"):
                os.mkdir(name)
            kernel.mount("probe", "/tmp", "overlay", 0, "lowerdir=/run/layers/probe,upperdir=/work/upper,workdir=/work/inner,userxattr")
            kernel.umount("/tmp")
        finally:
            kernel.umount("/work")
            layers.remove_tree(os.open("run/layers", os.O_RDONLY | os.O_CLOEXEC, dir_fd=root), "probe")
    except OSError:
        return False
    return True


def receive(control: _socket.socket) -> tuple[tuple[Any, ...], list[int]]:
    """The next request and the descriptors that came with it. Ends the process when the host is gone."""
    message, ancillary, _, _ = control.recvmsg(1 << 18, 64)
    if not message:
        os._exit(0)
    descriptors: list[int] = []
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            descriptors.extend(int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data) - len(data) % 4, 4))
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return marshal.loads(message), descriptors


class Zygote:
    """The slots, and the sandboxes that are in them."""

    def __init__(self, control: _socket.socket, root: int, features: box.Features) -> None:
        self.control = control
        self.root = root
        self.features = features
        self.free: list[slots.Slot] = []
        self.taken: dict[int, slots.Slot] = {}  # by the pid of the sandbox

    def serve(self, message: tuple[Any, ...], descriptors: list[int]) -> None:
        """One request. What fails is reported on the descriptor that came with it."""
        self.reap()
        match message:
            case ("spawn", shape, stacked):
                self.spawn(descriptors[0], shape, stacked)
            case ("tools", name, programs, path):
                template.add_tools(self.root, name, programs, path)
            case ("copy", name):
                self.copy(descriptors[0], descriptors[1], name)
            case ("drop", name):
                self.drop(name)
            case _:
                raise AssertionError(message[0])

    def reap(self) -> None:
        """Collects dead children; the slot of a dead sandbox is free again unless its network was used."""
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            slot = self.taken.pop(pid, None)
            if slot is None:
                continue  # a copier
            if slot.is_unused():
                self.free.append(slot)
            else:
                slot.close()

    def spawn(self, link: int, shape: tuple[Any, ...], stacked: tuple[str, ...]) -> None:
        """One sandbox; `link` becomes its pid 1's socket."""
        slot: slots.Slot | None = None
        try:
            slot = self.free.pop() if self.free else slots.Slot()
            slot.enter()
            pid = kernel.clone(_NAMESPACES)
        except OSError as error:
            if slot is not None:
                self.free.append(slot)
            os.write(link, wire.reply(wire.REFUSED, str(error.strerror).encode()))
            return
        if pid:
            self.taken[pid] = slot
            return
        try:
            close_all_but(link, slot.user, self.features.devices)
            work, upper = box.close_in(shape, stacked, slot.user, self.features)
            kernel.key = 0
            pid1.run(link, work, upper)
        except BaseException as error:  # a half-built sandbox never goes on; the host hears why
            os.write(link, wire.reply(wire.REFUSED, f"{type(error).__name__}: {error}".encode()))
        finally:
            os._exit(1)

    def copy(self, source: int, link: int, name: str) -> None:
        """A new layer `name` with the content of `source`, made by a child so that no sandbox waits for it."""
        if os.fork():
            return
        try:
            self.control.close()
            os.mkdir(f"run/layers/{name}", 0o755, dir_fd=self.root)
            has_marks = layers.copy_tree(source, os.open(f"run/layers/{name}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.root))
            os.write(link, wire.reply(wire.DONE, b"marks" if has_marks else b""))
        except OSError as error:
            os.write(link, wire.reply(wire.REFUSED, str(error).encode()))
        finally:
            os._exit(0)

    def drop(self, name: str) -> None:
        """A large layer is removed by a child, so that no sandbox waits for it."""
        parent = os.open("run/layers", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.root)
        try:
            if layers.remove_tree(parent, name, most=_REMOVED_AT_ONCE) or os.fork():
                return
            try:
                layers.remove_tree(parent, name)
            finally:
                os._exit(0)
        except OSError:
            pass  # half copied, or never; the rest goes with the zygote
        finally:
            os.close(parent)


def close_all_but(*kept: int) -> None:
    """Closes every descriptor above the standard ones; other slots' among them."""
    at = 3
    for descriptor in sorted(set(kept)):
        os.closerange(at, descriptor)
        at = descriptor + 1
    os.closerange(at, 1 << 20)
