"""The deny-list of system calls as a classic BPF program, installed once by the zygote and inherited by every
sandbox.

Installing a filter costs more than all other layers together, so there is none per sandbox. The few calls
needed to build a sandbox are refused unless their unused sixth argument is a key that only the zygote knows.
(A Python snippet could find the key in its copy of pid 1's memory, but without capabilities in any namespace
it gains nothing.)

The calls are found by binary search: the kernel evaluates a new filter once for every call number, so a
linear list costs ten times as much to install. A deny-list does not know future calls; numbers beyond the
newest known one return ENOSYS.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Sequence

from agito.worlds.sandbox.inside.kernel import MACHINE, set_filter

ALLOW = 0x7FFF0000
ERRNO = 0x00050000
_LD, _JEQ, _JGE, _JSET, _JA, _RET = 0x20, 0x15, 0x35, 0x45, 0x05, 0x06
_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
NEWEST = 469  # higher numbers are unknown here

# name: (x86_64, aarch64); None if the machine has no such call
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # other processes' memory, descriptors and scheduling
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # namespaces, mounts, roots
    "chroot": (161, 51),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "statmount": (457, 457),
    "listmount": (458, 458),
    "open_tree_attr": (467, 467),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "acct": (163, 89),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    # System V objects and message queues: memory that no limit here covers
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmdt": (67, 197),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "mq_timedsend": (242, 182),
    "mq_timedreceive": (243, 183),
    "mq_notify": (244, 184),
    "mq_getsetattr": (245, 185),
    # kernel attack surface
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "create_module": (174, None),
    "get_kernel_syms": (177, None),
    "query_module": (178, None),
    "modify_ldt": (154, None),
    "iopl": (172, None),
    "ioperm": (173, None),
    "syslog": (103, 116),
    "reboot": (169, 142),
    "vhangup": (153, 58),
    "uselib": (134, None),
    "_sysctl": (156, None),
    "sysfs": (139, None),
    "ustat": (136, None),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "lsm_set_self_attr": (460, 460),
    "seccomp": (317, 277),
}
# answered as if missing, so that programs fall back
_ABSENT: dict[str, tuple[int | None, int | None]] = {
    "clone3": (435, 435),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    # they reveal what others do with files shared by all sandboxes and the host, and share a quota
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
    "cachestat": (451, 451),
}
# Answered at once: everything writable here is in memory, and an episode has no business waiting for the
# host's disk.
_DONE: dict[str, tuple[int | None, int | None]] = {
    "sync": (162, 81),
    "syncfs": (306, 267),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "sync_file_range": (277, 84),
    "msync": (26, 227),
}
_CHECKED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "ioctl": (16, 29),
    "personality": (135, 92),
    "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "fcntl": (72, 25),
    "fadvise64": (221, 223),
    "prctl": (157, 167),
    "setsockopt": (54, 208),
}
# needed to build a sandbox; "clone" is allowed without namespaces
_KEYED: dict[str, tuple[int | None, int | None]] = {
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "clone": (56, 220),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "mount_setattr": (442, 442),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
}
_NAMESPACES = 0x7E020080  # every CLONE_NEW* flag, time included


def program(key: int) -> bytes:
    """The filter for this machine. `key` is 64 bits: the sixth argument with which the zygote may make
    namespaces and mounts.

    Raises `KeyError` on machines other than x86_64 and aarch64.
    """
    column = 0 if MACHINE == "x86_64" else 1
    leaves: dict[int, bytes] = {}
    for names, action in ((_DENIED, _deny(errno.EPERM)), (_ABSENT, _deny(errno.ENOSYS)), (_DONE, _deny(0))):
        leaves.update((number, action) for pair in names.values() if (number := pair[column]) is not None)
    for name, pair in {**_CHECKED, **_KEYED}.items():
        if (number := pair[column]) is not None:
            leaves[number] = _argument_check(name, key)
    cuts: list[tuple[int, bytes]] = []  # from this number on, this action
    for number in range(NEWEST + 1):
        action = leaves.get(number, _return(ALLOW))
        if not cuts or cuts[-1][1] != action:
            cuts.append((number, action))
    cuts.append((NEWEST + 1, _deny(errno.ENOSYS)))  # x32 numbers lie above too
    head = _op(_LD, 4) + _op(_JEQ, _ARCH[MACHINE], 1, 0) + _return(0x80000000) + _op(_LD, 0)
    return head + _tree(cuts)


def install(code: bytes) -> None:
    """Permanent for the calling thread and everything it starts. Needs no_new_privs. Raises `OSError`."""
    buffer = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer)))
    set_filter(ctypes.addressof(header))


def _tree(cuts: Sequence[tuple[int, bytes]]) -> bytes:
    if len(cuts) == 1:
        return cuts[0][1]
    middle = len(cuts) // 2
    low, high = _tree(cuts[:middle]), _tree(cuts[middle:])
    if len(low) // 8 <= 255:
        return _op(_JGE, cuts[middle][0], len(low) // 8, 0) + low + high
    return _op(_JGE, cuts[middle][0], 0, 1) + _op(_JA, len(low) // 8) + low + high


def _argument_check(name: str, key: int) -> bytes:
    no, yes = _deny(errno.EPERM), _return(ALLOW)
    if name in _KEYED:
        low, high = key & 0xFFFFFFFF, key >> 32
        knows = (
            _argument(5) + _op(_JEQ, low, 0, 3) + _op(_LD, 16 + 8 * 5 + 4) + _op(_JEQ, high, 0, 1) + yes + no
        )
        return knows if name != "clone" else _argument(0) + _op(_JSET, _NAMESPACES, 1, 0) + yes + knows
    if name in ("prlimit64", "sched_setaffinity", "sched_setparam", "sched_setscheduler", "sched_setattr"):
        return _argument(0) + _op(_JEQ, 0, 1, 0) + no + yes  # only for itself, never pid 1
    # for one process by number (0 or 1 says so), but never pid 1
    if name in ("setpriority", "ioprio_set"):
        which = 0 if name == "setpriority" else 1
        return _argument(0) + _op(_JEQ, which, 1, 0) + no + _argument(1) + _op(_JEQ, 1, 0, 1) + no + yes
    # F_SETLEASE, F_NOTIFY, F_SETPIPE_SZ and newer commands: they block others, reveal what they do, or take
    # their share
    if name == "fcntl":
        return _any_of(_argument(1), (1024, 1026, 1031), _op(_JGE, 1039, 0, 1) + no + yes, no)
    if name == "fadvise64":  # POSIX_FADV_DONTNEED: others read the same files
        return _any_of(_argument(3), (4,), yes, _deny(0))
    # PR_SET_SECCOMP: space for filters is shared by the whole machine. PR_SET_DUMPABLE: pid 1 must see memory
    # use
    if name == "prctl":
        low, high = key & 0xFFFFFFFF, key >> 32
        knows = (
            _argument(5)
            + _op(_JEQ, low, 0, 3)
            + _op(_LD, 16 + 8 * 5 + 4)
            + _op(_JEQ, high, 0, 1)
            + yes
            + _deny(0)
        )
        of_others = _any_of(_argument(0), (22,), yes, _deny(errno.EINVAL))
        hiding = _argument(1) + _op(_JEQ, 0, 1, 0) + yes + knows
        return _argument(0) + _op(_JEQ, 4, 0, len(hiding) // 8) + hiding + of_others
    # likewise for socket filters; and no multicast groups, whose reports would outlive the sandbox
    if name == "setsockopt":
        of_socket = _any_of(_argument(2), (26, 50, 51, 52), yes, no)
        of_group = _any_of(_argument(2), (20, 27, 35, 36, 39, 42, 46), yes, no)
        others = _any_of(_argument(1), (0, 41), yes, of_group)
        return _argument(1) + _op(_JEQ, 1, 0, len(of_socket) // 8) + of_socket + others
    if name == "ioctl":  # TIOCSTI, TIOCLINUX, TIOCSETD; FIONREAD stays
        return (
            _argument(1)
            + _op(_JEQ, 0x5412, 3, 0)
            + _op(_JEQ, 0x541C, 2, 0)
            + _op(_JEQ, 0x5423, 1, 0)
            + yes
            + no
        )
    if name == "personality":
        return _argument(0) + _op(_JEQ, 0, 2, 0) + _op(_JEQ, 0xFFFFFFFF, 1, 0) + no + yes
    if name in ("mknod", "mknodat"):  # no device except number 0, overlay's mark for a deleted file
        return _argument(3 if name == "mknodat" else 2) + _op(_JEQ, 0, 0, 1) + yes + no
    # socket, socketpair: only unix, inet, inet6, and netlink for routes
    refused = _deny(errno.EAFNOSUPPORT)
    families = _op(_JEQ, 1, 5, 0) + _op(_JEQ, 2, 4, 0) + _op(_JEQ, 10, 3, 0) + _op(_JEQ, 16, 0, 3)
    return _argument(0) + families + _argument(2) + _op(_JEQ, 0, 0, 1) + yes + refused


def _any_of(load: bytes, values: Sequence[int], otherwise: bytes, action: bytes) -> bytes:
    """`action` if the value that `load` loads is one of `values`."""
    skip = len(otherwise) // 8
    tests = b"".join(_op(_JEQ, value, len(values) - 1 - at + skip, 0) for at, value in enumerate(values))
    return load + tests + otherwise + action


def _argument(index: int) -> bytes:
    return _op(_LD, 16 + 8 * index)  # the low half; both machines are little-endian


def _return(value: int) -> bytes:
    return _op(_RET, value)


def _deny(number: int) -> bytes:
    return _return(ERRNO | number)


def _op(code: int, k: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, jump_true, jump_false, k)
