"""Captures are complete or say why not, and never block the host."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from agito.errors import SandboxFailure, Uncapturable
from agito.protocols import SandboxSpec
from agito.worlds.sandbox import Pool
from agito.worlds.sandbox.box import Box

pytestmark = pytest.mark.anyio

LOCKED = (
    "mkdir -p shut/in blind/in unlisted/in; echo 1 > shut/in/a; echo 2 > blind/in/b; echo 3 > "
    "unlisted/in/c; echo 4 > locked;"
    " echo 5 > open; chmod 000 locked shut/in/a shut/in shut; chmod 600 blind/in; chmod 444 blind; chmod "
    "111 unlisted; chmod 300 /work"
)


async def test_a_mode_that_shuts_its_owner_out_hides_nothing_and_stays_as_it_was(box: Box) -> None:
    await box.sh(LOCKED)
    look = "cd /; stat -c '%n %a' /work /work/shut /work/blind /work/unlisted /work/locked"
    before = (await box.sh(look)).output
    wanted = {
        "shut/in/a": b"1\n",
        "blind/in/b": b"2\n",
        "unlisted/in/c": b"3\n",
        "locked": b"4\n",
        "open": b"5\n",
    }
    assert await box.files() == wanted
    assert await box.files(under="shut") == {"shut/in/a": b"1\n"}
    assert (await box.sh(look)).output == before


UNCAPTURABLE = {
    "5 MB": "head -c 5000000 /dev/zero > big",
    "70 nested folders": "mkdir -p $(printf 'd/%.0s' {1..70}); echo x > $(printf 'd/%.0s' {1..70})f",
    "a path over 4,096 bytes": "for i in {1..20}; do mkdir $(printf 'd%.0s' {1..250}); cd d*; done; echo x "
    "> f",
    "thousands of long paths": "n=$(printf 'd%.0s' {1..240}); n=$n/$n/$n/$n/$n; mkdir -p $n; cd $n; for i "
    "in {1..4000}; do : > $i; done",
}


@pytest.mark.parametrize("command", UNCAPTURABLE.values(), ids=UNCAPTURABLE.keys())
async def test_what_cannot_be_captured_whole_is_said_and_is_no_failure_of_the_sandbox(
    box: Box, command: str
) -> None:
    assert (await box.sh(command)).exit_code == 0
    with pytest.raises(Uncapturable) as found:
        await box.files()
    assert isinstance(found.value, ValueError)
    assert not isinstance(found.value, SandboxFailure)
    assert (await box.sh("cd /work; echo alive")).output == b"alive\n"


async def test_the_paths_of_a_capture_come_in_order(box: Box) -> None:
    names = ["a b", "a-/x", "a.txt", "a/b", "a/b.c", "aa", "b/a/c", "b/a.c", "\udcff", "é"]
    await box.write(dict.fromkeys(names, "x"))
    assert list(await box.files()) == sorted(names)


async def test_reading_50000_files_lets_others_work(pool: Pool) -> None:
    box = await pool.start(SandboxSpec(cpu_s=100))
    made = await box.py("for i in range(51000): open(f'f{i:05}', 'w').close()", timeout_s=60)
    assert made.exit_code == 0
    longest, is_done = 0.0, False

    async def watch() -> None:
        nonlocal longest
        while not is_done:
            began = time.thread_time()  # of the loop itself: other programs do not count
            await anyio.lowlevel.checkpoint()
            longest = max(longest, time.thread_time() - began)

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        files = await box.files()
        is_done = True
    assert len(files) == 51_000
    assert longest < 0.2, f"everything else waited for {longest:.2f} s"


def num_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_reading_ends_with_its_sandbox_and_leaves_nothing_open(box: Box) -> None:
    await box.py("for i in range(20000): open(f'f{i}', 'w').close()")
    before = num_open()
    async with anyio.create_task_group() as group:

        async def reads() -> None:
            with pytest.raises(SandboxFailure, match="closed"):
                await box.files()

        group.start_soon(reads)
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        await box.close()
    assert num_open() < before
