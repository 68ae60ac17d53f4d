"""The zygote: one small process with no environment, no secrets and no outside capabilities, whose keepers
clone the sandboxes.

It receives requests on one socket and, after its first message, never answers there: every sandbox answers
for itself. If the host dies, the socket closes, the zygote ends, and the kernel ends every keeper and sandbox
with it.
"""

from __future__ import annotations

import _socket
import errno
import gc
import marshal
import os
import resource
from typing import TYPE_CHECKING, Any

from agito.worlds.sandbox.inside import box, kernel, layers, preload, roots, seccomp, template, wire, writing
from agito.worlds.sandbox.inside.groups import Groups
from agito.worlds.sandbox.inside.keeper import Keeper, close_all_but, receive, rights

if TYPE_CHECKING:
    import signal
    from collections.abc import Sequence
else:
    import _signal as signal  # without the enums, which would be copied into every sandbox

_ALL_NAMESPACES = (
    kernel.CLONE_NEWNS
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWCGROUP
    | kernel.CLONE_NEWUSER
    | kernel.CLONE_NEWNET
)
_SPARE = 128  # idle keepers kept
_REMOVED_AT_ONCE = 500  # entries of a layer
_FIRST_IDENTITY = 100_000  # of sandbox users, as the zygote sees them
_NEVER_KILLED = b"-1000"  # by the out-of-memory killer
_NICE = -5


def main(control: _socket.socket, settings: dict[str, Any], ancillary: list[tuple[int, int, bytes]]) -> None:
    """Runs until `control` closes. First reports on it the features found, or what is missing."""
    places = [
        (is_v1, names, handle)
        for (is_v1, names), handle in zip(settings["groups"], rights(ancillary), strict=True)
    ]
    try:
        root, features = prepare(settings)
    except OSError as error:
        said = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
        control.send(marshal.dumps(("missing", error.errno, said), wire.FORMAT))
        os._exit(1)
    me = os.pidfd_open(os.getpid())
    begun = marshal.dumps(("begun",), wire.FORMAT)
    control.sendmsg([begun], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, me.to_bytes(4, "little"))])
    os.close(me)
    if settings["warm"] and (unsound := preload.load(settings["warm"])):
        control.send(marshal.dumps(("unsound", 0, unsound), wire.FORMAT))
        os._exit(1)
    control.send(marshal.dumps(("ready", features.overlay, features.landlock), wire.FORMAT))
    zygote = Zygote(control, root, features, Groups(places), settings["num_uids"])
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
    """Leaves root, and the host's files, processes and network. Raises `OSError` naming the step."""
    is_staged = enter_namespaces(settings["uid"], settings["num_uids"], settings["shown"])
    if os.fork():  # the child is the first process of the new pid namespace: all others end with it
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
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # one per keeper
    kernel.set_hostname("sandbox")
    os.umask(0o022)
    root = template.build(settings["prefix"], settings["shown"], is_staged=is_staged)
    features = box.Features()
    features.landlock = box.landlock_version() if settings["landlock"] else 0
    features.overlay = settings["overlay"] and has_overlay(root)
    features.roots = settings["overlay"] and roots.can_be_had()
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    if settings["seccomp"]:
        kernel.key = int.from_bytes(os.urandom(8), "little")
        seccomp.install(seccomp.program(kernel.key))
    return root, features


def enter_namespaces(uid: int, num_uids: int, shown: Sequence[tuple[str, str]]) -> bool:
    """Becomes `uid` in new namespaces. The next `num_uids` uids are mapped too, for the sandboxes; this needs
    root. Returns whether what will be shown has been staged.
    """
    if not num_uids:
        gid = os.getegid()
        if uid != os.geteuid():
            gid = uid
            drop_to(uid)
        kernel.unshare(_ALL_NAMESPACES)
        write_maps("self", b"%d %d 1" % (box.ZYGOTE, uid), b"%d %d 1" % (box.ZYGOTE, gid))
        return False
    try:
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
        box.write("/proc/self/oom_score_adj", _NEVER_KILLED)
    except OSError:
        pass  # a root without this privilege: sandbox processes are still killed before this one
    is_staged = False
    try:
        template.stage(shown)
        is_staged = True
        template.make_nodes()
    except OSError:
        pass  # a root that may not make devices: keepers share the machine's
    ready = os.pipe()
    mapper = os.fork()
    if not mapper:
        try:
            os.close(ready[1])
            if os.read(ready[0], 1):
                lines = b"%d %d 1\n%d %d %d" % (box.ZYGOTE, uid, _FIRST_IDENTITY, uid + 1, num_uids)
                write_maps(str(os.getppid()), lines, lines)
                os._exit(0)
        finally:
            os._exit(1)
    drop_to(uid)
    kernel.unshare(_ALL_NAMESPACES)
    os.write(ready[1], b".")
    _, status = os.waitpid(mapper, 0)
    if status:
        raise OSError(errno.EPERM, "map: users of sandboxes could not be mapped")
    for descriptor in ready:
        os.close(descriptor)
    return is_staged


def drop_to(uid: int) -> None:
    with open("/proc/self/setgroups", encoding="ascii") as rule:
        # "deny" if an ordinary user made the namespace; then the groups are that user's
        if rule.read().strip() != "deny":
            os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)


def write_maps(process: str, users: bytes, groups: bytes) -> None:
    box.write(f"/proc/{process}/setgroups", b"deny")
    box.write(f"/proc/{process}/gid_map", groups)
    box.write(f"/proc/{process}/uid_map", users)


def has_overlay(root: int) -> bool:
    """Whether an overlay with all the marks it needs can be mounted over a tmpfs here."""
    try:
        os.mkdir("run/layers/probe", 0o755, dir_fd=root)
        kernel.mount("probe", "/work", "tmpfs", 0)
        try:
            os.setxattr("/work", "user.overlay.probe", b"y")
            for name in ("/work/upper", "/work/inner"):
                os.mkdir(name)
            kernel.mount(
                "probe",
                "/tmp",
                "overlay",
                0,
                "lowerdir=/run/layers/probe,upperdir=/work/upper,workdir=/work/inner,userxattr",
            )
            kernel.umount("/tmp")
        finally:
            kernel.umount("/work")
            layers.remove_tree(os.open("run/layers", os.O_RDONLY | os.O_CLOEXEC, dir_fd=root), "probe")
    except OSError:
        return False
    return True


class Zygote:
    """The keepers and their sandboxes."""

    def __init__(
        self, control: _socket.socket, root: int, features: box.Features, groups: Groups, num_uids: int
    ) -> None:
        self.control = control
        self.root = root
        self.features = features
        self.groups = groups
        self.num_uids = num_uids
        self.freed = os.pipe()  # where keepers report that they are free
        os.set_blocking(self.freed[0], False)
        self.keepers: dict[int, _socket.socket] = {}
        self.pids: dict[int, int] = {}  # of keepers, until they are reaped
        self.free: list[int] = []
        self.busy: dict[str, int] = {}  # by sandbox name
        self.names: dict[int, str] = {}

    def serve(self, message: tuple[Any, ...], descriptors: list[int]) -> None:
        """Handles one request. Failures are reported on the descriptor that came with it."""
        self.reap()
        match message:
            case ("spawn", name, _, _):
                self.spawn(name, message, descriptors[0])
            case ("socket", name, _, _):
                if name not in self.busy or not self.tell(self.busy[name], message, descriptors[0]):
                    writing.answer(descriptors[0], wire.reply(wire.REFUSED, b"this sandbox is gone"))
            case ("tools", name, programs, path):
                template.add_tools(self.root, name, programs, path)
            case ("copy", name):
                self.copy(descriptors[0], descriptors[1], name)
            case ("drop", name):
                self.drop(name)
            case _:
                raise AssertionError(message[0])

    def reap(self) -> None:
        """Collects dead children and reads which keepers are free."""
        try:
            while dead := os.waitpid(-1, os.WNOHANG)[0]:
                self.pids = {number: pid for number, pid in self.pids.items() if pid != dead}
        except ChildProcessError:
            pass
        try:
            while news := os.read(self.freed[0], 1 << 12):
                for at in range(0, len(news), wire.LENGTH.size):
                    (number,) = wire.LENGTH.unpack_from(news, at)
                    del self.busy[self.names.pop(number)]
                    self.free.append(number)
        except BlockingIOError:
            pass
        while len(self.free) > max(_SPARE, len(self.busy)):
            self.keepers.pop(self.free.pop(0)).close()  # it ends; its number can be reused

    def spawn(self, name: str, message: tuple[Any, ...], link: int) -> None:
        """Starts one sandbox; `link` becomes its pid 1's socket."""
        while True:
            try:
                number = self.free.pop() if self.free else self.add_keeper()
            except OSError as error:
                writing.answer(link, wire.reply(wire.REFUSED, str(error.strerror).encode()))
                return
            if self.tell(number, message, link):
                self.busy[name], self.names[number] = number, name
                return

    def tell(self, number: int, message: tuple[Any, ...], descriptor: int) -> bool:
        """Whether a keeper got the message. One that something has stopped is resumed."""
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptor.to_bytes(4, "little"))]
        try:
            os.kill(self.pids[number], signal.SIGCONT)
            self.keepers[number].sendmsg([marshal.dumps(message, wire.FORMAT)], rights)
        except (KeyError, OSError):  # dead
            self.keepers.pop(number).close()
            return False
        return True

    def add_keeper(self) -> int:
        """Raises `OSError`."""
        number = next(number for number in range(len(self.keepers) + 1) if number not in self.keepers)
        if self.num_uids and number >= self.num_uids:
            raise OSError(
                errno.EUSERS, f"{self.num_uids} sandboxes are alive, and no user is left for another"
            )
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        if pid := os.fork():
            theirs.close()
            self.keepers[number], self.pids[number] = ours, pid
            return number
        try:
            held = [descriptor for _, _, descriptor in self.groups.places]
            close_all_but(theirs.fileno(), self.freed[1], *held)
            identity = _FIRST_IDENTITY + number if self.num_uids else box.ZYGOTE
            Keeper(theirs, self.freed[1], number, identity).run(self.groups, self.features)
        finally:
            os._exit(1)

    def copy(self, source: int, link: int, name: str) -> None:
        """Makes a new layer `name` with the content of `source`, in a child, so that no sandbox
        waits for it.
        """
        if os.fork():
            return
        try:
            self.control.close()
            os.mkdir(f"run/layers/{name}", 0o755, dir_fd=self.root)
            has_marks = layers.copy_tree(
                source, os.open(f"run/layers/{name}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.root)
            )
            writing.answer(link, wire.reply(wire.DONE, b"marks" if has_marks else b""))
        except OSError as error:
            writing.answer(link, wire.reply(wire.REFUSED, str(error).encode()))
        finally:
            os._exit(0)

    def drop(self, name: str) -> None:
        """Removes a layer; a large one in a child, so that no sandbox waits for it."""
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
