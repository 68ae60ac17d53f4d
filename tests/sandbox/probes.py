"""Attacks as programs: run inside a sandbox, and plainly to prove that they work. Standard library only.

`python3 probes.py NAME ARGUMENT...` prints what it could reach, or nothing.
"""

# ruff: noqa: PTH123, PTH208, PTH115, PTH108, PTH118, T201
from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)


def trace(target: str) -> None:
    """Everything that might reach into another process of the same user."""
    pid = int(target)
    buffer, word = ctypes.create_string_buffer(8), ctypes.c_void_p
    with open("/proc/self/maps") as maps:
        somewhere = int(next(line for line in maps if " r" in line or "r-" in line).split("-")[0], 16)
    remote = (word * 2)(somewhere, 8)
    local = (word * 2)(ctypes.addressof(buffer), 8)
    pidfd = libc.syscall(434, pid, 0)
    tries = {
        "ptrace": lambda: libc.ptrace(16, pid, None, None),  # attach
        "getfd": lambda: libc.syscall(438, pidfd, 0, 0),
        "prlimit": lambda: libc.prlimit(pid, 7, (ctypes.c_ulong * 2)(3, 3), None),
        "affinity": lambda: libc.sched_setaffinity(pid, 8, ctypes.byref(ctypes.c_ulong(1))),
        "priority": lambda: libc.setpriority(0, pid, 19),
        "vm_readv": lambda: (
            0 if libc.process_vm_readv(pid, local, 1, remote, 1, 0) >= 0 or ctypes.get_errno() == 14 else -1
        ),
    }
    for name, attempt in tries.items():
        if attempt() >= 0:
            print(name)
            if name == "ptrace":
                os.waitpid(pid, 0x40000000)  # __WALL: stopped now
                libc.ptrace(17, pid, None, None)
    for name in ("environ", "mem", "maps", "fd", "cwd", "root", "exe"):
        with contextlib.suppress(OSError):
            path = f"/proc/{pid}/{name}"
            if name == "fd":
                os.listdir(path)
            elif name in ("cwd", "root", "exe"):
                os.readlink(path)
            else:
                os.close(os.open(path, os.O_RDONLY))
            print(name)


def calls() -> None:
    """System calls that a sandbox does not need."""
    buffer = ctypes.create_string_buffer(256)
    tries = {
        "io_uring": lambda: libc.syscall(425, 1, buffer),
        "vsock": lambda: libc.socket(40, 1, 0),
        "packet": lambda: libc.socket(17, 3, 0),
        "nfnetlink": lambda: libc.socket(16, 3, 12),
        "add_key": lambda: libc.syscall(248, b"user", b"x", b"y", 1, -2),
        "userfaultfd": lambda: libc.syscall(323, 1),
        "memfd": lambda: libc.syscall(319, b"x", 0),
        "shmget": lambda: libc.shmget(0, 4096, 0o1600),
        "semget": lambda: libc.semget(0, 1, 0o1600),
        "msgget": lambda: libc.msgget(0, 0o1600),
        "personality": lambda: libc.personality(0x40000),
        "user namespace": lambda: libc.syscall(272, 0x10000000),
        "clone3": lambda: -1 if libc.syscall(435, None, 0) < 0 and ctypes.get_errno() == 38 else 0,
    }
    for name, attempt in tries.items():
        if attempt() >= 0:
            print(name)


def privileged() -> None:
    """What root may do, and what a new user namespace would allow."""
    tries = {
        "mount": lambda: libc.mount(b"x", b"/tmp", b"tmpfs", 0, None),
        "umount": lambda: libc.umount2(b"/tmp", 2),
        "chroot": lambda: libc.chroot(b"/tmp"),
        "mknod": lambda: libc.mknod(b"/tmp/device", 0o020666, os.makedev(1, 3)),
        "sethostname": lambda: libc.sethostname(b"x", 1),
        "setuid": lambda: libc.setuid(0),
    }
    for name, attempt in tries.items():
        if attempt() >= 0:
            print(name)
    for path in ("/usr/agito-probe", "/etc/agito-probe", "/agito-probe"):
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
            os.unlink(path)
            print(path)
    for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/dev/vda", "/dev/mem"):
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_WRONLY))
            print(path)


def search(needle: str, *roots: str) -> None:
    """Where a secret is visible: environments, command lines, open descriptors, files."""
    secret = needle.encode()
    for pid in [name for name in os.listdir("/proc") if name.isdigit()]:
        for name in ("environ", "cmdline", "status", "mountinfo"):
            if os.getpid() == int(pid) and name == "cmdline":
                continue
            with contextlib.suppress(OSError), open(f"/proc/{pid}/{name}", "rb") as file:
                if secret in file.read(1 << 20):
                    print(name)
    for number in range(3, 256):
        with contextlib.suppress(OSError):
            if secret in os.pread(number, 1 << 16, 0):
                print("descriptor")
    for root in roots:
        for directory, _, files in os.walk(root):
            for name in files:
                with contextlib.suppress(OSError), open(os.path.join(directory, name), "rb") as file:
                    if secret in file.read(1 << 16):
                        print("file")


def connect(*addresses: str) -> None:
    """Sockets of others: `tcp:PORT`, `unix:PATH`, `abstract:NAME`."""
    for address in addresses:
        kind, _, where = address.partition(":")
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_INET if kind == "tcp" else socket.AF_UNIX) as link,
        ):
            link.settimeout(1)
            link.connect(
                ("127.0.0.1", int(where)) if kind == "tcp" else where if kind == "unix" else "\0" + where
            )
            print(kind)


def bomb() -> None:
    """Forks until it is killed; prints once it has hit a limit."""
    while True:
        try:
            if os.fork() == 0:
                os.setsid()
        except OSError:
            print("limit", flush=True)
            time.sleep(0.01)


def daemon() -> None:
    """Leaves a process behind that no terminal and no ordinary signal reaches."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in set(range(1, 32)) - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_IGN)
            subprocess.run(["sleep", "1000"])
        os._exit(0)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
