"""The pool: warm sandboxes, tiers, and what remains after it is closed."""

# ruff: noqa: ASYNC110
from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import anyio
import pytest

from agito.errors import NoIsolation, SandboxFailure
from agito.protocols import Sandbox, SandboxPool, SandboxSpec
from agito.worlds.sandbox import Pool, layers, probe
from agito.worlds.sandbox.launch import launch

pytestmark = pytest.mark.anyio


async def test_it_keeps_the_promise_of_its_protocols(pool: Pool) -> None:
    promised: SandboxPool = pool
    box: Sandbox = await promised.start(SandboxSpec())
    assert (await box.sh("echo hi")).output == b"hi\n"
    await box.close()


async def test_warm_sandboxes_are_handed_out_fresh_and_configured() -> None:
    async with await Pool.open(warm=3) as pool:
        for index in range(8):
            box = await pool.start(SandboxSpec(env={"I": str(index)}))
            assert (
                await box.sh("echo $I; ls; touch file; ls /tmp; touch /tmp/other; echo $$")
            ).output == f"{index}\n2\n".encode()
            if index % 2:
                await box.close()
        small = await pool.start(SandboxSpec(work_mb=1))
        assert (await small.sh("df -k --output=size /work | tail -1")).output.split() == [b"1024"]


async def test_a_network_that_was_used_is_not_used_again() -> None:
    async with await Pool.open(warm=0) as pool:
        count = "awk '/lo:/ {print $2, $3, $10}' /proc/net/dev"
        talk = (
            "import socket\ns = socket.create_server(('127.0.0.1', 0))\nc = "
            "socket.create_connection(s.getsockname())\n"
            "c.send(b'x')\nprint(s.accept()[0].recv(1))"
        )
        for _ in range(3):
            box = await pool.start(SandboxSpec())
            assert (await box.sh(count)).output == b"0 0 0\n"
            assert (await box.py(talk)).output == b"b'x'\n"
            assert (await box.sh(count)).output != b"0 0 0\n"
            await box.close()


async def test_many_at_once() -> None:
    async with await Pool.open(warm=4) as pool:

        async def episode(index: int) -> None:
            box = await pool.start(SandboxSpec())
            await box.write({"a": f"{index}\n"})
            assert (await box.sh("cat a; echo done > b")).output == f"{index}\n".encode()
            assert await box.files() == {"a": f"{index}\n".encode(), "b": b"done\n"}
            await box.close()

        async with anyio.create_task_group() as group:
            for index in range(24):
                group.start_soon(episode, index)


async def test_a_zygote_that_is_killed_is_replaced_and_takes_its_sandboxes_with_it() -> None:
    async with await Pool.open(warm=2, limit_mb=512, hash_seed=3) as pool:
        for _ in range(2):
            before, box = pool.zygote, await pool.start(SandboxSpec())
            snapshot = await box.snapshot()
            await (await pool.fork(snapshot)).close()
            signal.pidfd_send_signal(before.pidfd, signal.SIGKILL)
            with pytest.raises(SandboxFailure):
                while True:
                    await box.sh("true")
            await anyio.wait_readable(before.pidfd)
            async with anyio.create_task_group() as group:
                for index in range(4):
                    group.start_soon(_speak, pool, index)
            assert pool.zygote is not before and pool.zygote.options == before.options
            with pytest.raises(SandboxFailure, match="not there"):
                await pool.fork(snapshot)


async def test_a_zygote_that_was_stopped_goes_on() -> None:
    async with await Pool.open(warm=0, hash_seed=3) as pool:
        signal.pidfd_send_signal(pool.zygote.pidfd, signal.SIGSTOP)
        with anyio.fail_after(10):
            await _speak(pool, 1)


@pytest.mark.parametrize("are_busy", [False, True], ids=["idle", "busy"])
async def test_keepers_that_were_stopped_one_by_one_go_on(are_busy: bool) -> None:
    async with await Pool.open(warm=0, hash_seed=3) as pool:
        boxes = [await pool.start(SandboxSpec()) for _ in range(4)]
        keepers = children(pool.zygote.pidfd)
        assert len(keepers) == 4
        for box in boxes[: 0 if are_busy else 4]:
            await box.close()
        for keeper in keepers:
            os.kill(keeper, signal.SIGSTOP)
            with anyio.fail_after(10):
                for number in range(4):
                    await _speak(pool, number)
                if are_busy:
                    for box in boxes:
                        (await box.listen()).close()
                        assert (await box.sh("echo live")).output == b"live\n"


def children(pidfd: int) -> list[int]:
    lines = Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines()
    (pid,) = (int(line.split()[1]) for line in lines if line.startswith("Pid:"))
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def _speak(pool: Pool, number: int) -> None:
    box = await pool.start(SandboxSpec(env={"I": str(number)}))
    assert (await box.sh("echo $I $PYTHONHASHSEED")).output == f"{number} 3\n".encode()
    await box.close()


async def test_the_doctor_names_every_layer() -> None:
    found = await layers()
    assert found["tier"] == await probe()
    assert found["tier"] in ("native+cgroup", "native+watchdog")
    assert {"namespaces", "user", "seccomp", "landlock", "memory", "workspace", "interpreter"} < set(found)


async def test_without_a_control_group_the_tier_says_so() -> None:
    async with Pool(await launch(cgroup=False), 0) as pool:
        assert pool.tier == "native+watchdog"


async def test_a_machine_without_isolation_is_refused_with_the_remedy() -> None:
    code = (  # user namespaces are used up, as on a machine that forbids them
        "import anyio, ctypes, os\n"
        "libc = ctypes.CDLL(None)\n"
        "assert libc.unshare(0x10000000) == 0\n"
        "open('/proc/sys/user/max_user_namespaces', 'w').write('0')\n"
        "from agito.worlds.sandbox import Pool\n"
        "anyio.run(Pool.open)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert NoIsolation.__name__ in done.stderr
    assert "max_user_namespaces" in done.stderr


MAPPED = """
import anyio, ctypes, os
from agito.protocols import SandboxSpec
from agito.worlds.sandbox import Pool, layers
ready, written = os.pipe(), os.pipe()
child = os.fork()
if child:
    os.read(ready[0], 1)
    open(f'/proc/{child}/setgroups', 'w').write('deny')
    for name, own in (('uid', os.geteuid()), ('gid', os.getegid())):
        open(f'/proc/{child}/{name}_map', 'w').write(f'0 {own} COUNT')
    os.write(written[1], b'.')
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
assert ctypes.CDLL(None).unshare(0x10000000) == 0
os.write(ready[1], b'.')
os.read(written[0], 1)
os.setresgid(0, 0, 0); os.setresuid(0, 0, 0)
async def main():
    async with await Pool.open(warm=0) as pool:
        box = await pool.start(SandboxSpec())
        await box.sh('echo text > file; chmod 000 file')
        print((await box.sh('id -u')).output, await box.files())
    print((await layers())['user'])
anyio.run(main)
"""


@pytest.mark.parametrize("count", [1, 65_536], ids=["unshare -Ur", "a rootless container"])
async def test_a_root_of_few_users_has_sandboxes_too(count: int) -> None:
    if count > 1 and os.geteuid():
        pytest.skip("needs root, to map 65,536 users")
    code = MAPPED.replace("COUNT", str(count))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("b'1000\\n' {'file': b'text\\n'}\n")


async def test_a_closed_pool_is_closed() -> None:
    pool = await Pool.open(warm=2)
    box = await pool.start(SandboxSpec())
    await pool.aclose()
    await pool.aclose()
    with pytest.raises(SandboxFailure):
        await box.sh("true")
    with pytest.raises(SandboxFailure):
        await pool.start(SandboxSpec())


async def test_a_cancelled_call_ends_its_sandbox_and_no_other(pool: Pool) -> None:
    box, other = await pool.start(SandboxSpec()), await pool.start(SandboxSpec())
    with anyio.move_on_after(0.05):
        await box.sh("sleep 100")
    with pytest.raises(SandboxFailure, match="cancelled"):
        await box.sh("true")
    assert (await other.sh("echo alive")).output == b"alive\n"


async def test_requests_that_are_given_up_end_neither_their_sandbox_nor_another() -> None:
    async with await Pool.open(warm=0) as pool:
        box, other = await pool.start(SandboxSpec()), await pool.start(SandboxSpec())
        for _ in range(50):
            with anyio.move_on_after(0):
                await box.connect(7008)
            for name in ("nobody", "0", "1"):  # the zygote's own refusal, then the keepers'
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
                ours.close()
                with theirs:
                    pool.zygote.request("socket", name, "listen", 0, descriptors=(theirs.fileno(),))
        (await box.listen()).close()
        for each in (box, other):
            assert (await each.sh("echo alive")).output == b"alive\n"
        assert (await (await pool.start(SandboxSpec())).sh("echo new")).output == b"new\n"


async def test_two_calls_at_a_time_are_a_mistake(pool: Pool) -> None:
    box = await pool.start(SandboxSpec())
    async with anyio.create_task_group() as group:
        group.start_soon(box.sh, "sleep 0.2")
        await anyio.sleep(0.05)
        with pytest.raises(RuntimeError, match="one thing at a time"):
            await box.sh("true")


async def test_when_the_host_is_killed_nothing_stays_behind() -> None:
    mark = f"agito-test-{time.monotonic_ns()}"
    code = (
        "import anyio, os, signal\n"
        "from agito.protocols import SandboxSpec\n"
        "from agito.worlds.sandbox import Pool\n"
        "async def main():\n"
        "    pool = await Pool.open(warm=2)\n"
        "    box = await pool.start(SandboxSpec())\n"
        f"    await box.sh('setsid bash -c \"exec -a {mark} sleep 1000\" & exit')\n"
        "    print(os.popen('ps -eo args').read(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "anyio.run(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert mark in done.stdout
    with anyio.fail_after(5):
        while (
            mark in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        ):
            await anyio.sleep(0.01)
