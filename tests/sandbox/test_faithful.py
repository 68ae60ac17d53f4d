"""A snapshot is the workspace at one moment, whatever the episode did to it, and forks cannot be told from
it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

import anyio
import pytest

from agito.protocols import SandboxSpec
from agito.worlds.sandbox import Pool
from agito.worlds.sandbox.launch import launch
from agito.worlds.sandbox.pool import MOST_LAYERS

pytestmark = pytest.mark.anyio
SMALL = SandboxSpec(work_mb=16)  # its forks are copies
LARGE = SandboxSpec(work_mb=64)  # its forks are stacked on its snapshot


@pytest.fixture(scope="module", params=["overlay", "copy"])
async def any_pool(request: pytest.FixtureRequest) -> AsyncGenerator[Pool]:
    async with Pool(await launch(overlay=request.param == "overlay"), 0) as pool:
        if request.param == "overlay" and not pool.zygote.has_overlay:
            pytest.skip("needs overlayfs in a user namespace and extended attributes on tmpfs: Linux 6.6")
        yield pool


HALF_DEAD = """
import ctypes, os, threading, time
def work():
    n, files = 0, [os.open('/work/' + name, os.O_CREAT | os.O_RDWR) for name in ('a', 'big', 'b')]
    os.write(files[1], bytes(16 << 20))
    while True:
        n += 1
        for file in (files[0], files[2]): os.pwrite(file, b'%012d' % n, 0)
if os.fork() == 0:
    os.closerange(0, 3)
    threading.Thread(target=work).start()
    time.sleep(0.05)
    ctypes.CDLL(None).syscall({'x86_64': 60, 'aarch64': 93}[os.uname().machine], 0)  # ends this thread alone
while not os.path.exists('/work/b') or os.path.getsize('/work/b') < 12: time.sleep(0.01)
"""


async def test_a_process_whose_first_thread_has_ended_is_frozen_too(any_pool: Pool) -> None:
    box = await any_pool.start(LARGE)
    assert (await box.py(HALF_DEAD)).exit_code == 0
    while (
        b" Z"
        not in (
            await box.sh("grep State /proc/[0-9]*/status | grep -v /1/; echo; ps -eo stat | sed 's/^/ /'")
        ).output
    ):
        pass
    for _ in range(5):
        snapshot = await box.snapshot()
        fork = await any_pool.fork(snapshot)
        assert abs(int(await fork.read("a")) - int(await fork.read("b"))) <= 1
        await fork.close()
        await any_pool.drop(snapshot)
    before = await box.read("a")
    with anyio.fail_after(5):
        while await box.read("a") == before:
            await anyio.lowlevel.checkpoint()
    await box.close()


AWAKE = """
import os, signal
for _ in range(20):
    if os.fork() == 0:
        os.closerange(0, 3)
        while True:
            for pid in [int(name) for name in os.listdir('/proc') if name.isdigit() and int(name) not in (1, os.getpid())]:
                try: os.kill(pid, signal.SIGCONT)
                except OSError: pass
"""  # noqa: E501


async def test_processes_that_wake_one_another_are_frozen_together(any_pool: Pool) -> None:
    box = await any_pool.start(SMALL)
    await box.py(AWAKE)
    for _ in range(3):
        await (await any_pool.fork(await box.snapshot())).close()
    await box.kill()
    assert (await box.sh("echo alive")).output == b"alive\n"
    await box.close()


STRANGE = """
import os
os.makedirs('/work/marked/inner'); os.makedirs('/work/plain')
open('/work/marked/kept', 'w').write('kept'); open('/work/note', 'w').write('x'); open('/work/zero', 'w').close()
for path, name, value in (
    ('/work/marked', 'user.overlay.opaque', b'y'), ('/work/marked', 'user.overlay.redirect', b'/plain'),
    ('/work/note', 'user.comment', b'seen'),
    ('/work/zero', 'user.overlay.whiteout', b'y'), ('/work', 'user.overlay.opaque', b'x'), ('/work/note', 'user.overlay.metacopy', b''),
):
    try: os.setxattr(path, name, value)
    except OSError as error: print(path, name, error.errno)
"""  # noqa: E501
LOOK_AT_STRANGE = """
import os
for folder, folders, files in sorted(os.walk('/work')):
    for name in sorted(folders + files):
        path = os.path.join(folder, name)
        info = os.lstat(path)
        print(path, oct(info.st_mode), info.st_size, info.st_rdev, [(key, os.getxattr(path, key)) for key in sorted(os.listxattr(path))])
"""  # noqa: E501


@pytest.mark.parametrize("spec", [SMALL, LARGE], ids=["small", "large"])
async def test_what_looks_like_a_mark_of_overlay_is_a_file_like_any_other(
    any_pool: Pool, spec: SandboxSpec
) -> None:
    box = await any_pool.start(spec)
    assert (await box.py(STRANGE)).exit_code == 0
    before = (await box.py(LOOK_AT_STRANGE)).output
    assert b"user.overlay.opaque" in before
    for _ in range(2):
        fork = await any_pool.fork(await box.snapshot())
        assert (await fork.py(LOOK_AT_STRANGE)).output == before
        assert (await fork.sh("rm -r marked; mkdir marked; ls -A marked; cat note")).output == b"x"
        await box.close()
        box = await any_pool.fork(await fork.snapshot())
        before = (await fork.py(LOOK_AT_STRANGE)).output
        assert (await box.py(LOOK_AT_STRANGE)).output == before
        await fork.close()
    await box.close()


async def test_marks_made_above_a_snapshot_change_no_fork(any_pool: Pool) -> None:
    box = await any_pool.start(LARGE)
    await box.sh("mkdir under; echo 1 > under/file")
    box = await any_pool.fork(await box.snapshot())
    await box.py(
        "import os\nfor mark in ('opaque', 'overlay.opaque'):\n"
        "  try: os.setxattr('under', 'user.overlay.' + mark, b'y')\n  except OSError: pass"
    )
    before = (await box.py(LOOK_AT_STRANGE)).output
    fork = await any_pool.fork(await box.snapshot())
    assert (await fork.py(LOOK_AT_STRANGE)).output == before
    assert await fork.read("under/file") == b"1\n"


NEST = "import os\nfor _ in [0] * 1100: os.mkdir('d'); os.chdir('d')\nopen('f', 'w'); os.link('f', 'g')"
DEEP = {
    "70 nested folders": "n=$(printf d/%.0s {1..70}); mkdir -p $n; echo x > $n/f; ln $n/f link",
    "1,100 nested folders": f'python3 -Sc "{NEST}"',
    "paths over 4,096 bytes": "n=$(printf d%.0s {1..250}); for i in {1..40}; do mkdir $n; cd $n; done; "
    "echo x > f; ln f g; ln f /work/h",
    "modes that shut everybody out": "mkdir -p a/b; echo x > a/b/c; echo y > d; chmod 000 a/b/c a/b a d; "
    "chmod 711 /work",
}
LOOK_DEEP = """
import os
os.chdir('/work')
print(oct(os.stat('.').st_mode))
for _ in range(3000):
    for entry in sorted(os.scandir('.'), key=lambda entry: entry.name):
        info = entry.stat(follow_symlinks=False)
        print(entry.name[:9], len(entry.name), oct(info.st_mode), info.st_size if entry.is_file() else 0, info.st_nlink, info.st_mtime_ns)
    folders = [entry.name for entry in os.scandir('.') if entry.is_dir()]
    if not folders or not os.access(folders[0], os.X_OK): break
    os.chdir(folders[0])
"""  # noqa: E501


@pytest.mark.parametrize("spec", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("command", DEEP.values(), ids=DEEP.keys())
async def test_no_tree_is_too_deep_or_too_shut_for_a_snapshot(
    any_pool: Pool, spec: SandboxSpec, command: str
) -> None:
    box = await any_pool.start(spec)
    assert (await box.sh(command)).exit_code == 0
    before = (await box.py(LOOK_DEEP)).output
    snapshot = await box.snapshot()
    fork = await any_pool.fork(snapshot)
    assert (await fork.py(LOOK_DEEP)).output == before
    await fork.close()
    await any_pool.drop(snapshot)
    assert (await (await any_pool.start(spec)).sh("echo alive")).output == b"alive\n"  # the zygote too
    await box.close()


async def test_a_chain_of_forks_has_no_end(any_pool: Pool) -> None:
    box, before = await any_pool.start(LARGE), any_pool.num_layers
    await box.sh("mkdir base; echo 0 > base/first; echo 0 > gone")
    num = 3 * MOST_LAYERS if any_pool.zygote.has_overlay else 8
    for number in range(num):
        await box.write({f"base/{number}": f"{number}\n"})
        if number == 5:
            await box.sh("rm gone")
        snapshot = await box.snapshot()
        fork = await any_pool.fork(snapshot)
        await box.close()
        await any_pool.drop(snapshot)
        box = fork
    assert sorted(await box.files()) == sorted(["base/first", *(f"base/{number}" for number in range(num))])
    assert any_pool.num_layers - before <= MOST_LAYERS
    await box.close()


async def test_a_large_tree_is_copied_and_dropped_while_others_work(any_pool: Pool) -> None:
    box, other = await any_pool.start(SandboxSpec(cpu_s=100)), await any_pool.start(SMALL)
    assert (await box.py("for i in range(20000): open(f'f{i:05}', 'w').close()", timeout_s=60)).exit_code == 0
    rounds, is_done = 0, False

    async def neighbour() -> None:
        nonlocal rounds
        while not is_done:
            await (await any_pool.start(SMALL)).close()
            assert (await other.sh("echo fine")).output == b"fine\n"
            rounds += 1

    async with anyio.create_task_group() as group:
        group.start_soon(neighbour)
        snapshot = await box.snapshot()
        assert rounds > 2, "everybody waited for the copy"
        fork = await any_pool.fork(snapshot)
        assert (await fork.sh("ls | wc -l")).output == b"20000\n"
        await fork.close()
        await any_pool.drop(snapshot)
        is_done = True
