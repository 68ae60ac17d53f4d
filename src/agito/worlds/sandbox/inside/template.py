"""The file tree that every sandbox starts from, built once by the zygote: a small tmpfs root over a read-only
/usr.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from agito.worlds.sandbox.inside import kernel

if TYPE_CHECKING:
    from collections.abc import Sequence

DEVICES = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}  # minor numbers, of major 1
NODES = "/run/nodes"  # where keepers find their own devices
NUM_NODES = 512
_LINKED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_FILES = {
    "etc/passwd": "root:x:0:0::/:/usr/sbin/nologin\nagent:x:1000:1000::/work:/bin/bash\n"
    "nobody:x:65534:65534::/:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nagent:x:1000:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "etc/hostname": "sandbox\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    # Sourced through BASH_ENV by shells whose directory and variables may change. Builtins only: starts no
    # process.
    "run/carry": "unset BASH_ENV\n"
    'trap \'{ builtin printf "%s\\0" "$PWD"; builtin export -p; builtin printf "\\0"; } 2>/dev/null >&99 '
    "|| :' EXIT\n",
}
_DIRECTORIES = (
    "usr",
    "etc/alternatives",
    "dev",
    "proc",
    "work",
    "tmp",
    "run/tools",
    "run/layers",
    "run/empty",
    "run/root",
    NODES[1:],
    "old",
)
_COPIED = ("etc/ld.so.cache",)  # no local time: every sandbox has UTC
BASE = "/tmp"  # any directory that exists everywhere; covered afterwards, in the zygote's own mount namespace


def stage(shown: Sequence[tuple[str, str]]) -> None:
    """A place for devices, in a mount namespace of the caller, and beside it the host's folders that will be
    shown: an ordinary user may not be able to reach them. Needs root. Raises `OSError`.
    """
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    held = [os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path, _ in shown]
    kernel.mount("staged", BASE, "tmpfs", kernel.MS_NOSUID | kernel.MS_NOEXEC, "mode=711,size=4k")
    os.mkdir(f"{BASE}/nodes", 0o711)
    kernel.mount("nodes", f"{BASE}/nodes", "tmpfs", kernel.MS_NOSUID | kernel.MS_NOEXEC, "mode=711,size=4k")
    for number, descriptor in enumerate(held):
        os.mkdir(f"{BASE}/shown{number}", 0o711)
        kernel.mount(f"/proc/self/fd/{descriptor}", f"{BASE}/shown{number}", None, kernel.MS_BIND)
        os.close(descriptor)


def make_nodes() -> None:
    """Makes devices for each of many keepers; `stage` has made the place. Raises `OSError`."""
    before = os.umask(0)
    for number in range(NUM_NODES):
        os.mkdir(f"{BASE}/nodes/{number}", 0o711)
        for name, minor in DEVICES.items():
            os.mknod(f"{BASE}/nodes/{number}/{name}", 0o666 | stat.S_IFCHR, os.makedev(1, minor))
    os.umask(before)


def build(interpreter_prefix: str, shown: Sequence[tuple[str, str]], *, is_staged: bool) -> int:
    """Replaces the root of the calling process. Returns a descriptor of the same root that is still writable.

    `shown`: folders of the host that are seen inside, read-only, each with its place there. Raises `OSError`.
    """
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    staged = os.open(BASE, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if is_staged else -1
    nodes = f"/proc/self/fd/{staged}/nodes" if is_staged and os.path.exists(f"{BASE}/nodes/0/null") else ""
    copied = {name: content for name in _COPIED if (content := _content(f"/{name}")) is not None}
    kernel.mount("root", BASE, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755")
    os.chdir(BASE)
    for name in _DIRECTORIES:
        os.makedirs(name, 0o755)
    _bind_system(interpreter_prefix)
    for number, (path, place) in enumerate(shown):
        os.makedirs(f".{place}", 0o755, exist_ok=True)
        _bind(f"/proc/self/fd/{staged}/shown{number}" if is_staged else path, place[1:])
    _mount_devices(nodes)
    if is_staged:
        os.close(staged)
    _write_files(copied)
    kernel.mount("proc", f"{BASE}/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    kernel.pivot_root(".", "old")
    os.chdir("/")
    kernel.umount("/old")
    os.rmdir("/old")
    os.chmod("/run/tools", 0o111)
    os.chmod("/run/layers", 0)
    writable = kernel.detached_copy("/")
    kernel.make_read_only("/", recursive=False)
    return writable


def _bind_system(interpreter_prefix: str) -> None:
    """The host's programs and libraries, read-only."""
    _bind("/usr", "usr")
    for name in _LINKED:
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), name)
        elif os.path.isdir(f"/{name}"):
            os.mkdir(name)
            _bind(f"/{name}", name)
    if not interpreter_prefix.startswith("/usr"):
        os.makedirs(f".{interpreter_prefix}", 0o755)
        _bind(interpreter_prefix, f".{interpreter_prefix}")


def _mount_devices(nodes: str) -> None:
    """The host's devices, and those of keepers, where there are any."""
    if nodes:
        kernel.mount(nodes, f"{BASE}{NODES}", None, kernel.MS_BIND)
    kernel.mount(
        "empty",
        f"{BASE}/run/empty",
        "tmpfs",
        kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_RDONLY,
        "mode=755,size=4k",
    )
    for name in DEVICES:
        os.close(os.open(f"dev/{name}", os.O_WRONLY | os.O_CREAT, 0o666))
        kernel.mount(f"/dev/{name}", f"{BASE}/dev/{name}", None, kernel.MS_BIND)
    for name, target in (
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
        ("shm", "/tmp"),
    ):
        os.symlink(target, f"dev/{name}")


def _write_files(copied: dict[str, bytes]) -> None:
    for name, content in (*((name, text.encode()) for name, text in _FILES.items()), *copied.items()):
        with open(name, "wb") as file:
            file.write(content)
    for link in os.listdir("/etc/alternatives") if os.path.isdir("/etc/alternatives") else ():
        if os.path.islink(f"/etc/alternatives/{link}"):
            os.symlink(os.readlink(f"/etc/alternatives/{link}"), f"etc/alternatives/{link}")


def add_tools(root: int, name: str, programs: tuple[str, ...], path: str) -> None:
    """Makes /run/tools/`name`: links to those of `programs` that are found in `path`; others stay missing."""
    directory = f"run/tools/{name}"
    os.mkdir(directory, 0o755, dir_fd=root)
    for program in programs:
        for place in path.split(":"):
            if os.access(f"{place}/{program}", os.X_OK):
                os.symlink(f"{place}/{program}", f"{directory}/{program}", dir_fd=root)
                break
    # what can be opened can be locked, and others share the same tools
    os.chmod(directory, 0o111, dir_fd=root)


def _bind(source: str, target: str) -> None:
    kernel.mount(source, f"{BASE}/{target}", None, kernel.MS_BIND | kernel.MS_REC)
    kernel.make_read_only(f"{BASE}/{target}", recursive=True)


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 22)
    except OSError:
        return None
