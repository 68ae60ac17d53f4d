"""Turns a fresh clone of the zygote into a closed box: maps, mounts, limits, and finally no capabilities.

This runs once per sandbox, so it is written for few system calls.
"""

from __future__ import annotations

import ctypes
import os
import resource
from typing import Any

from agito.worlds.sandbox.inside import kernel
from agito.worlds.sandbox.inside.layers import copy_tree

MIB = 1 << 20
INODES_PER_MIB = 800
ZYGOTE = 1000  # the zygote's uid as it sees itself, and every sandbox user's uid as that sees itself
OPEN_FILES = 1024
SIGNALS = 256  # queued signals and timers; the kernel counts them for all sandboxes together as well
_LANDLOCK_CREATE_VERSION = 1
_READING = 1 << 0 | 1 << 2 | 1 << 3  # execute, read file, read directory
_DEVICES = 1 << 1 | 1 << 14 | 1 << 15  # write, truncate, ioctl
_NEVER = 1 << 6 | 1 << 11  # make character and block devices


class Features:
    """Optional features of this machine, probed once by the zygote."""

    overlay: bool = False
    roots: bool = False  # keepers have roots of their own
    landlock: int = 0
    devices: int = -1  # an O_PATH descriptor of /dev, for landlock


def close_in(
    shape: tuple[Any, ...], layers: tuple[str, ...], user: int, identity: int, features: Features
) -> tuple[int, int]:
    """Turns the calling clone into a sandbox of the user namespace open at `user`, whose only user is
    `identity` outside.

    Returns descriptors of the workspace and of what it adds to `layers`. Raises `OSError`; the caller must
    then exit.
    """
    work_mb, tmp_mb, mem_mb, procs, fsize_mb, cpu_s, is_stacked = shape
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    os.setsid()  # without a control group, the kernel shares CPU time among sessions
    reset = os.SCHED_OTHER | os.SCHED_RESET_ON_FORK
    # children must not inherit this process's priority
    os.sched_setscheduler(0, reset, os.sched_param(0))
    if identity != os.geteuid():
        os.setresgid(identity, identity, identity)
        os.setresuid(identity, identity, identity)
    kernel.mount("proc", "/proc", "proc", flags | kernel.MS_NOEXEC | kernel.MS_RDONLY)
    size = f"size={work_mb}m,nr_inodes={work_mb * INODES_PER_MIB},mode=755"
    kernel.mount("work", "/work", "tmpfs", flags, size)
    kernel.mount(
        "tmp", "/tmp", "tmpfs", flags, f"size={tmp_mb}m,nr_inodes={tmp_mb * INODES_PER_MIB},mode=1777"
    )
    upper = stack(layers, user, flags) if layers and is_stacked else -1
    work = os.open("/work", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if layers and not is_stacked:
        layer = os.open(f"/run/layers/{layers[0]}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        copy_tree(layer, work)
        os.close(layer)
    limit(mem_mb, procs, fsize_mb, cpu_s)
    os.chdir("/work")
    kernel.setns(user, kernel.CLONE_NEWUSER)
    os.close(user)
    kernel.drop_capabilities()
    if features.landlock >= 2:
        restrict_files(work, features)
    os.close(features.devices)
    kernel.hide()
    return work, upper if upper >= 0 else work


def stack(layers: tuple[str, ...], user: int, flags: int) -> int:
    """Mounts an overlay of `layers` (top first) over /work, with its upper directory on the tmpfs there.

    Layers belong to the zygote; each is mounted again with its owner mapped to this sandbox's user.
    """
    if os.geteuid() != ZYGOTE:
        for name in layers:
            kernel.shift_owner(f"/run/layers/{name}", user)
    os.mkdir("/work/upper", 0o755)
    os.chmod("/work/upper", os.stat(f"/run/layers/{layers[0]}").st_mode & 0o7777)
    os.mkdir("/work/inner", 0o700)
    upper = os.open("/work/upper", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    lower = ":".join(f"/run/layers/{name}" for name in layers)
    kernel.mount(
        "work",
        "/work",
        "overlay",
        flags,
        f"lowerdir={lower},upperdir=/work/upper,workdir=/work/inner,userxattr",
    )
    return upper


def limit(mem_mb: int, procs: int, fsize_mb: int, cpu_s: float) -> None:
    seconds = max(1, round(cpu_s))
    for kind, soft, hard in (
        (resource.RLIMIT_NPROC, procs + 1, procs + 1),  # pid 1 counts
        (resource.RLIMIT_DATA, mem_mb * MIB, mem_mb * MIB),
        (resource.RLIMIT_FSIZE, fsize_mb * MIB, fsize_mb * MIB),
        # beyond a hard limit, pid 1 itself would be killed
        (resource.RLIMIT_CPU, seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]),
        (resource.RLIMIT_SIGPENDING, SIGNALS, SIGNALS),
    ):
        resource.setrlimit(kind, (soft, hard))


def limit_files() -> None:
    """Called after descriptors were sent for the last time: the kernel refuses senders whose limit is below
    what their user has in flight.
    """
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


def restrict_files(work: int, features: Features) -> None:
    """Landlock, in addition to read-only mounts: writes only beneath the workspace and /tmp; no signals or
    abstract sockets to the outside.

    Reading is unrestricted: a rule would slow down every `open`, and the mounts already decide what is
    visible.
    """
    version = features.landlock
    rights = (1 << 13 + (version >= 2) + (version >= 3) + (version >= 5)) - 1 & ~_READING
    _ruleset[0], _ruleset[2] = rights, 3 if version >= 6 else 0
    rules = kernel.syscall(
        "landlock_create_ruleset", _ruleset_address, 24 if version >= 6 else 16 if version >= 4 else 8, 0
    )
    temporary = os.open("/tmp", os.O_PATH | os.O_CLOEXEC)
    writable = rights & ~_NEVER
    for directory, allowed in (
        (features.devices, _DEVICES & rights),
        (work, writable),
        (temporary, writable),
    ):
        _rule.allowed, _rule.parent = allowed, directory
        kernel.syscall("landlock_add_rule", rules, 1, _rule_address, 0)
    kernel.syscall("landlock_restrict_self", rules, 0)
    os.close(temporary)
    os.close(rules)


class _Rule(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


_rule = _Rule()
_rule_address = ctypes.addressof(_rule)
_ruleset = (ctypes.c_uint64 * 3)()
_ruleset_address = ctypes.addressof(_ruleset)


def landlock_version() -> int:
    """0 if the kernel has none."""
    try:
        return kernel.syscall("landlock_create_ruleset", 0, 0, _LANDLOCK_CREATE_VERSION)
    except OSError:
        return 0


def write(path: str, data: bytes) -> None:
    """One write to an existing file."""
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(handle, data)
    finally:
        os.close(handle)
