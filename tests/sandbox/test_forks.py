"""Snapshots and forks of forks."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from agito.errors import SandboxFailure
from agito.protocols import SandboxSpec
from agito.worlds.sandbox import Pool
from agito.worlds.sandbox.launch import launch

pytestmark = pytest.mark.anyio

SETUP = (
    "mkdir -p dir/sub gone keep; echo 1 > dir/a; echo 2 > gone/b; ln -s dir/a link; mkfifo pipe; truncate "
    "-s 1M sparse; echo s >> sparse;"
    " echo h > hard; ln hard hard2; chmod 640 dir/a; chmod 000 keep; touch -d '2001-02-03' hard; cd dir; "
    "export A='x y'"
)
CHANGE = (
    "cd /work; rm -r gone; rm -r dir; mkdir dir; echo new > dir/c; echo more >> hard; chmod 755 keep; "
    "mv sparse moved"
)
LOOK = (
    "cd /work; find . -printf '%p %y %m %l %Ts\\n' | grep -v '^. d' | sort; find . -type f | sort | "
    "xargs cat | md5sum"
)


@pytest.fixture(params=["overlay", "copy"])
async def any_pool(request: pytest.FixtureRequest, anyio_backend: str):  # type: ignore[no-untyped-def]
    async with Pool(await launch(overlay=request.param == "overlay"), 0) as pool:
        if request.param == "overlay" and not pool.zygote.has_overlay:
            pytest.skip("needs overlayfs in a user namespace and extended attributes on tmpfs: Linux 6.6")
        yield pool


async def test_a_fork_has_the_files_the_directory_and_the_variables(any_pool: Pool) -> None:
    box = await any_pool.start(SandboxSpec(env={"B": "2"}))
    await box.sh(SETUP)
    fork = await any_pool.fork(await box.snapshot())
    assert (await fork.sh("pwd; echo $A $B; stat -c %h /work/hard")).output == b"/work/dir\nx y 2\n2\n"
    assert (await fork.sh(LOOK)).output == (await box.sh(LOOK)).output


async def test_forks_are_independent_of_each_other_and_of_their_parent(any_pool: Pool) -> None:
    box = await any_pool.start(SandboxSpec())
    await box.sh(SETUP)
    before = (await box.sh(LOOK)).output
    snapshot = await box.snapshot()
    first, second = await any_pool.fork(snapshot), await any_pool.fork(snapshot)
    await first.sh(CHANGE)
    assert (await box.sh(LOOK)).output == before
    assert (await second.sh(LOOK)).output == before
    assert (await first.sh(LOOK)).output != before
    assert set(await first.files()) == {"dir/c", "hard", "hard2", "moved"}


async def test_a_fork_of_a_fork_of_a_fork_keeps_every_change(any_pool: Pool) -> None:
    box = await any_pool.start(SandboxSpec())
    await box.sh(SETUP)
    snapshots: list[str] = []
    for change in (CHANGE, "rm -r dir; mkdir dir; echo last > dir/d", "mv dir renamed; echo again >> hard"):
        snapshots.append(await box.snapshot())
        box = await any_pool.fork(snapshots[-1])
        await box.sh(f"cd /work; {change}")
        expected = (await box.sh(LOOK)).output
        fork = await any_pool.fork(await box.snapshot())
        assert (await fork.sh(LOOK)).output == expected
    assert sorted(await box.files()) == ["hard", "hard2", "moved", "renamed/d"]


async def test_a_snapshot_is_taken_between_two_moments_and_processes_go_on(any_pool: Pool) -> None:
    box = await any_pool.start(SandboxSpec())
    await box.sh("(i=0; while :; do i=$((i+1)); echo $i > a; echo $i > b; done) & sleep 1000 &")
    await box.sh("until pkill -STOP sleep && [[ $(ps -o stat= -C sleep) == T* ]]; do :; done")
    await box.sh("until [[ -e a && -e b ]]; do :; done")
    fork = await any_pool.fork(await box.snapshot())
    first = await fork.files()
    if first["a"] and first["b"]:
        assert int(first["a"]) - int(first["b"]) in (0, 1)
    before = await box.read("a")
    with anyio.fail_after(5):
        while await box.read("a") == before:
            await anyio.lowlevel.checkpoint()
    # what stood still before stands still after
    assert (await box.sh("ps -o stat= -C sleep")).output.startswith(b"T")


async def test_a_layer_goes_with_its_last_user(any_pool: Pool) -> None:
    box = await any_pool.start(SandboxSpec())
    await box.write({"a": "1"})
    snapshot = await box.snapshot()
    fork = await any_pool.fork(snapshot)
    await any_pool.drop(snapshot)
    await any_pool.drop(snapshot)
    assert (await fork.sh("cat a")).output == b"1"
    assert any_pool.num_layers == 1
    await fork.close()
    assert any_pool.num_layers == 0
    with pytest.raises(SandboxFailure, match="not there"):
        await any_pool.fork(snapshot)
