"""Pid 1 does for a command only what the command could do itself: what it opens, lists, enters and passes on
is what bash would get.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from agito.protocols import SandboxSpec
from agito.worlds.sandbox import Pool
from agito.worlds.sandbox.box import Box
from agito.worlds.sandbox.commands import as_program

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def pool() -> AsyncGenerator[Pool]:
    async with await Pool.open(warm=0) as pool:
        yield pool


@pytest.fixture
async def box(pool: Pool) -> AsyncGenerator[Box]:
    box = await pool.start(SandboxSpec())
    yield box
    await box.close()


OWN = (
    "maps",
    "smaps",
    "environ",
    "auxv",
    "io",
    "stack",
    "syscall",
    "personality",
    "fdinfo/3",
    "task/1/maps",
    "mountstats",
    "mem",
)


@pytest.mark.parametrize("place", ["/proc/1", "/proc/self", "/proc/thread-self", "."])
async def test_no_redirection_opens_what_only_pid_1_may_read(box: Box, place: str) -> None:
    if place == ".":
        await box.sh("cd /proc/1")
    for name in OWN:
        command = f"cat < {place}/{name}"
        assert as_program(command) is not None
        mine, bash = await box.sh(command), await box.sh(f'"$X"{command}')
        if place in ("/proc/1", "."):
            assert mine.exit_code != 0 or (name == "mountstats" and not mine.output), command
        assert mine.exit_code == bash.exit_code, command


async def test_no_pattern_lists_what_only_pid_1_may_list(box: Box) -> None:
    await box.sh("ln -s /proc/1/fd fds; ln -s /proc/1 one; ln -s /proc/self me")
    for command in ("echo fds/*", "echo one/fd/*", "echo one/map_files/*", "echo */fd/*", "echo o*/fd/?"):
        assert (await box.sh(command)).output == (await box.sh(f"true; {command}")).output
    await box.sh("cd /proc/1")
    for command in ("echo fd/*", "echo task/*/fd/*", "ls fd/*"):
        assert (await box.sh(command)).output == (await box.sh(f"true; {command}")).output


@pytest.mark.parametrize(
    "where", ["/proc/1/fd", "/proc/self/fd", "/proc/self", "/proc/self/cwd", "/proc/1/map_files", "/work/fds"]
)
async def test_no_state_takes_pid_1_where_a_shell_cannot_go(box: Box, where: str) -> None:
    await box.sh("ln -s /proc/1/fd fds")
    await box.sh(f"printf '{where}\\0\\0' >&99; kill -9 $$; cd /")
    assert (await box.sh("/bin/pwd")).output == b"/work\n"
    assert (await box.sh("ls -d .")).output == b".\n"


async def test_a_program_is_what_its_path_means_to_the_command(box: Box) -> None:
    await box.sh("ln -s /proc/self/exe exe")
    for command in (
        "/proc/self/exe --version",
        "./exe --version",
        "/proc/1/exe --version",
        "/proc/self/fd/3",
    ):
        assert (await box.sh(command)).output == (await box.sh(f'"$X"{command}')).output


LOWER = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for kind in (0, 1, 2):
    print('priority', kind, libc.setpriority(kind, 0, 19))
for kind in (1, 2, 3):
    print('io', kind, libc.syscall({'x86_64': 251, 'aarch64': 30}[os.uname().machine], kind, 0, 3 << 13))
"""


async def test_no_process_lowers_the_priority_of_pid_1(box: Box) -> None:
    before = (await box.sh("echo $(< /proc/1/stat)")).output.rpartition(b")")[2].split()[16]
    said = (await box.py(LOWER)).output.decode()
    assert said == "priority 0 0\npriority 1 -1\npriority 2 -1\nio 1 0\nio 2 -1\nio 3 -1\n"
    assert (await box.sh("echo $(< /proc/1/stat)")).output.rpartition(b")")[2].split()[16] == before
    assert (await box.sh("nice -n 5 nice")).output != b"0\n"  # it may with its own


async def test_no_further_user_namespace_can_be_made_whatever_the_filter_says(box: Box) -> None:
    assert (await box.sh("cat /proc/sys/user/max_user_namespaces")).output == b"0\n"
