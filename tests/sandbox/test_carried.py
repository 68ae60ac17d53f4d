"""Nothing carries over from one episode to another, or to the host, through shared kernel state."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from agito.protocols import SandboxSpec
from agito.worlds.sandbox import Pool
from agito.worlds.sandbox.box import Box
from agito.worlds.sandbox.launch import launch

pytestmark = pytest.mark.anyio
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root has users to give away")


async def tried(box: Box, code: str) -> list[str]:
    """The calls of `code` that succeed: `t(name, function, argument...)` prints the name if the function does
    not fail.
    """
    prelude = (
        "import ctypes, fcntl, os, socket\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "def t(name, call, *arguments):\n  try:\n    if call(*arguments) != -1: print(name)\n  except "
        "OSError: pass\n"
    )
    result = await box.py(prelude + code)
    assert result.exit_code == 0, result.output
    return result.output.decode().split()


async def test_an_episode_cannot_make_the_host_write_to_its_disk(box: Box) -> None:
    """Answered before the kernel looks: even an invalid descriptor is accepted."""
    code = (
        "for name in ('syncfs', 'fsync', 'fdatasync'): t(name, getattr(libc, name), 999)\nt('msync', "
        "libc.msync, 1, 1, 4)\n"
    )
    assert await tried(box, code) == ["syncfs", "fsync", "fdatasync", "msync"]
    async with Pool(await launch(seccomp=False), 0) as weaker:
        assert await tried(await weaker.start(SandboxSpec()), code) == []


async def test_what_is_counted_for_the_whole_machine_or_tells_of_shared_files_is_refused(box: Box) -> None:
    code = (
        "t('inotify', libc.inotify_init)\nfd = os.open('/usr/bin', 0)\nt('notify', fcntl.fcntl, fd, 1026, "
        "1)\n"
        "r, w = os.pipe()\nt('pipe', fcntl.fcntl, w, 1031, 1 << 20)\n"
        "program = (ctypes.c_uint64 * 1)(0x7FFF000000000006)\nheader = (ctypes.c_uint64 * 2)(1, "
        "ctypes.addressof(program))\n"
        "s = socket.socket()\nt('socket', libc.setsockopt, s.fileno(), 1, 26, header, 16)\nt('filter', "
        "libc.prctl, 22, 2, header, 0, 0)\n"
        "u = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        "t('group', u.setsockopt, 41, 20, socket.inet_pton(socket.AF_INET6, 'ff02::77') + bytes((1, 0, 0, "
        "0)))\n"
    )
    assert await tried(box, code) == []
    async with Pool(await launch(seccomp=False), 0) as weaker:
        done = await tried(await weaker.start(SandboxSpec()), code)
        # only for sockets
        assert [name for name in done if name != "socket"] == ["inotify", "notify", "pipe", "filter", "group"]


async def test_programs_do_without_what_is_refused(box: Box) -> None:
    """Unrelated options of sockets, pipes and files still work."""
    code = (
        "r, w = os.pipe()\nfcntl.fcntl(w, fcntl.F_SETFL, os.O_NONBLOCK)\nt('size', fcntl.fcntl, w, 1032)\n"
        "s = socket.socket()\n"
        "t('reuse', s.setsockopt, 1, 2, 1)\nt('nodelay', s.setsockopt, 6, 1, 1)\nt('ttl', s.setsockopt, 0, "
        "2, 9)\n"
        "t('name', libc.prctl, 15, b'me')\nt('lock', fcntl.flock, os.open('/work/f', 66), 2)\nt('nice', "
        "os.nice, 1)\n"
        "t('advise', os.posix_fadvise, os.open('/usr/bin/env', 0), 0, 0, 2)\n"
    )
    assert await tried(box, code) == ["size", "reuse", "nodelay", "ttl", "name", "lock", "nice", "advise"]
    assert (
        await box.sh("timeout 1 tail -f /etc/hostname; echo; sort -u /etc/group | tail -1")
    ).output.startswith(b"sandbox\n")


@pytest.mark.parametrize(
    "path", ["/", "/usr", "/usr/bin/env", "/usr/lib", "/etc", "/etc/passwd", "/run", "/run/carry"]
)
async def test_a_lock_on_a_file_that_all_see_is_seen_by_nobody_else(pool: Pool, path: str) -> None:
    if not pool.zygote.has_overlay:
        pytest.skip("needs Linux 6.6: an overlay that a user may mount")
    first, second = await pool.start(SandboxSpec()), await pool.start(SandboxSpec())
    hold = (
        f"import fcntl, os, time\nfcntl.flock(os.open({path!r}, 0), fcntl.LOCK_EX)\nif os.fork() == 0: "
        "time.sleep(60)"
    )
    ask = f"import fcntl, os\nfcntl.flock(os.open({path!r}, 0), fcntl.LOCK_EX | fcntl.LOCK_NB); print('free')"
    assert (await first.py(hold)).exit_code == 0
    assert (await second.py(ask)).output == b"free\n"
    assert b"BlockingIOError" in (await first.py(ask)).output  # control: it is held
    if Path(path).exists():
        handle = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(handle)


@NEEDS_ROOT
@pytest.mark.parametrize("name", ["null", "zero", "full", "random", "urandom"])
async def test_a_lock_on_a_device_is_seen_by_nobody_else(pool: Pool, name: str) -> None:
    first, second = await pool.start(SandboxSpec()), await pool.start(SandboxSpec())
    hold = (
        f"import fcntl, os, time\nfcntl.flock(os.open('/dev/{name}', 0), fcntl.LOCK_EX)\nif os.fork() "
        "== 0: time.sleep(60)"
    )
    assert (await first.py(hold)).exit_code == 0
    opened = os.open(f"/dev/{name}", os.O_RDONLY)
    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the host's is free too
    os.close(opened)
    ask = (
        f"import fcntl, os\nfcntl.flock(os.open('/dev/{name}', 0), fcntl.LOCK_EX | fcntl.LOCK_NB); "
        "print('free')"
    )
    assert (await second.py(ask)).output == b"free\n"
    works = (
        "head -c 3 /dev/zero | wc -c; echo x > /dev/null; echo x > /dev/full; head -c 2 /dev/urandom | "
        "wc -c; ls -l /dev/null | cut -c1-10"
    )
    assert (await first.sh(works)).output.split(b"\n")[0::3] == [b"3", b"crw-rw-rw-"]


async def test_tools_can_be_used_and_not_opened(pool: Pool) -> None:
    spec = SandboxSpec(tools=("cat", "python3"))
    before = await pool.start(SandboxSpec())
    box, other = await pool.start(spec), await pool.start(spec)
    for each in (box, other):
        assert (await each.sh("cat /etc/hostname")).output == b"sandbox\n"
        assert b"PermissionError" in (await each.py("import os; os.open(os.environ['PATH'], 0)")).output
    assert (await before.sh("ls / | tr '\\n' ' '")).output.split() >= [b"bin"]
