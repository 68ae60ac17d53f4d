"""System calls that Python does not wrap; standard library only, shared by the zygote and every pid 1."""

from __future__ import annotations

import ctypes
import os

MACHINE = os.uname().machine
_NUMBERS = {  # name: (x86_64, aarch64)
    "clone": (56, 220),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "capset": (126, 91),
    "pivot_root": (155, 41),
    "pidfd_send_signal": (424, 424),
    "openat2": (437, 437),
    "mount_setattr": (442, 442),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
    "seccomp": (317, 277),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "umount2": (166, 39),
    "prctl": (157, 167),
}
SUPPORTED = MACHINE in ("x86_64", "aarch64")
NR = {name: pair[0 if MACHINE == "x86_64" else 1] for name, pair in _NUMBERS.items()}

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOATIME, MS_BIND, MS_REC, MS_PRIVATE = 1024, 4096, 16384, 1 << 18
MNT_DETACH = 2
AT_FDCWD, AT_RECURSIVE, AT_EMPTY_PATH = -100, 0x8000, 0x1000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_IDMAP = 1, 2, 4, 1 << 20

PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 4, 22, 38

RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH = 1, 2, 4, 8
BENEATH = RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH
NO_LINKS = RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS

key = 0  # sixth argument that the seccomp filter requires for namespace and mount calls

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [ctypes.c_long] * 7
_prctl = _libc.prctl
_prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]
_how = (ctypes.c_uint64 * 3)()
_how_address = ctypes.addressof(_how)
_capabilities_header = (ctypes.c_uint32 * 2)(0x20080522, 0)
_capabilities_header_address = ctypes.addressof(_capabilities_header)
_no_capabilities = (ctypes.c_uint32 * 6)()
_no_capabilities_address = ctypes.addressof(_no_capabilities)


def syscall(name: str, a: int = 0, b: int = 0, c: int = 0, d: int = 0, e: int = 0, f: int = 0) -> int:
    """Pointers are passed as addresses; the caller keeps their targets alive. Raises `OSError`."""
    result = _syscall(NR[name], a, b, c, d, e, f)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def address(buffer: bytes) -> int:
    """The address of `buffer`'s bytes; valid while the caller holds it."""
    return ctypes.cast(ctypes.c_char_p(buffer), ctypes.c_void_p).value or 0


def clone(flags: int) -> int:
    """Like `fork`, into the namespaces in `flags`. The caller must be single-threaded."""
    return syscall("clone", flags | 17, 0, 0, 0, 0, key)


def unshare(flags: int) -> None:
    syscall("unshare", flags, 0, 0, 0, 0, key)


def setns(descriptor: int, kind: int) -> None:
    syscall("setns", descriptor, kind, 0, 0, 0, key)


def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    buffers = [part.encode(errors="surrogateescape") + b"\0" for part in (source, target, kind or "", data)]
    first, second, third, fourth = (address(buffer) for buffer in buffers)
    try:
        syscall("mount", first, second, third if kind else 0, flags, fourth if data else 0, key)
    except OSError as error:
        raise OSError(
            error.errno, f"mount {kind or 'bind'} on {target}: {os.strerror(error.errno or 0)}"
        ) from None


def umount(target: str) -> None:
    name = os.fsencode(target)
    syscall("umount2", address(name), MNT_DETACH, 0, 0, 0, key)


def pivot_root(new: str, old: str) -> None:
    new_bytes, old_bytes = os.fsencode(new), os.fsencode(old)
    syscall("pivot_root", address(new_bytes), address(old_bytes), 0, 0, 0, key)


def make_read_only(path: str, *, recursive: bool) -> None:
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0, 0, 0)
    name = os.fsencode(path)
    syscall(
        "mount_setattr",
        AT_FDCWD,
        address(name),
        AT_RECURSIVE if recursive else 0,
        ctypes.addressof(attributes),
        32,
    )


def detached_copy(path: str) -> int:
    """A descriptor of a second, unattached mount of the directory `path`, with its current flags."""
    name = os.fsencode(path)
    return syscall("open_tree", AT_FDCWD, address(name), 1 | os.O_CLOEXEC)


def shift_owner(path: str, user: int) -> None:
    """Mounts the directory `path` over itself, mapping the zygote's ownership to the one user of the
    namespace `user`.
    """
    name, empty = os.fsencode(path), b"\0"
    tree = syscall("open_tree", AT_FDCWD, address(name), 1 | os.O_CLOEXEC, 0, 0, key)
    try:
        attributes = (ctypes.c_uint64 * 4)(
            MOUNT_ATTR_IDMAP | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0, 0, user
        )
        syscall("mount_setattr", tree, address(empty), AT_EMPTY_PATH, ctypes.addressof(attributes), 32, key)
        # from the descriptor itself
        syscall("move_mount", tree, address(empty), AT_FDCWD, address(name), 4, key)
    finally:
        os.close(tree)


def hide() -> None:
    """Makes the calling process non-dumpable, so that no other can inspect it."""
    syscall("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0, key)


def prctl(option: int, value: int = 0) -> None:
    if _prctl(option, value, 0, 0, 0) < 0:
        _check(-1, f"prctl {option}")


def set_hostname(name: str) -> None:
    _check(_libc.sethostname(name.encode(), ctypes.c_size_t(len(name))), "sethostname")


def set_filter(header: int) -> None:
    """Installs the seccomp program whose header is at this address."""
    _check(_prctl(PR_SET_SECCOMP, 2, header, 0, 0), "seccomp")


def drop_capabilities() -> None:
    """Drops all; no_new_privs and a non-root user keep them away."""
    syscall("capset", _capabilities_header_address, _no_capabilities_address)


def open_beneath(directory: int, path: str, flags: int, mode: int = 0, resolve: int = BENEATH) -> int:
    """`openat2`: never leaves `directory`, follows no link, crosses no mount."""
    name = os.fsencode(path)
    if b"\0" in name:
        raise ValueError(f"path={path!r}: contains a NUL")
    _how[0], _how[1], _how[2] = flags | os.O_CLOEXEC, mode, resolve
    result = _syscall(NR["openat2"], directory, address(name), _how_address, 24, 0, 0)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
