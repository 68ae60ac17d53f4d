"""Attacks on the sandbox, each with a control: the same program succeeds plainly or in a weaker box."""

# ruff: noqa: ASYNC110
from __future__ import annotations

import contextlib
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from agito.errors import NotFound
from agito.protocols import SandboxSpec
from agito.types import Fault
from agito.worlds.sandbox import Pool
from agito.worlds.sandbox.box import Box
from agito.worlds.sandbox.launch import launch

pytestmark = [
    pytest.mark.full,
    pytest.mark.anyio,
    pytest.mark.skipif(
        platform.machine() != "x86_64", reason="the probes need x86_64: they use its system call numbers"
    ),
]
PROBES = Path(__file__).parent / "probes.py"
IS_ROOT = os.geteuid() == 0


async def inside(box: Box, *arguments: str, timeout_s: float = 20.0) -> set[str]:
    await box.write({"probes.py": PROBES.read_text()})
    quoted = " ".join(f"'{argument}'" for argument in arguments)
    result = await box.sh(f"/usr/bin/python3 /work/probes.py {quoted} 2>&1", timeout_s=timeout_s)
    assert b"Traceback" not in result.output, result.output.decode()
    assert result.killed_by is None, result
    return set(result.output.decode().splitlines())


def plainly(*arguments: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, str(PROBES), *arguments], capture_output=True, text=True, timeout=20, close_fds=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return set(done.stdout.splitlines())


@pytest.fixture
def victim() -> Iterator[str]:
    process = subprocess.Popen(["sleep", "1000"])
    yield str(process.pid)
    process.kill()
    process.wait()


async def test_pid_1_cannot_be_traced_read_or_hindered(box: Box, victim: str) -> None:
    assert await inside(box, "trace", "1") == set()
    expected = {"ptrace", "prlimit", "affinity", "priority", "environ", "maps", "fd", "cwd", "root", "exe"}
    assert expected <= plainly("trace", victim)


async def test_signals_to_pid_1_do_nothing(box: Box) -> None:
    names = (
        "HUP INT QUIT ILL TRAP ABRT BUS FPE USR1 SEGV USR2 PIPE ALRM TERM CHLD STOP TSTP XCPU XFSZ SYS KILL"
    )
    result = await box.sh(
        f"for s in {names}; do kill -$s 1; done; sleep 0.1; sleep 100 & kill -KILL $!; wait $!; echo $?"
    )
    assert result.output.endswith(b"\n137\n")  # control: the same command kills another process
    assert (await box.sh("echo alive")).output == b"alive\n"


async def test_calls_that_no_episode_needs_are_refused(box: Box) -> None:
    assert await inside(box, "calls") == set()
    async with Pool(await launch(seccomp=False), 0) as weaker:
        opened = await inside(await weaker.start(SandboxSpec()), "calls")
    assert {"io_uring", "memfd", "shmget", "semget", "msgget", "personality", "clone3"} <= opened
    assert "user namespace" in plainly("calls")


async def test_nothing_privileged_works(box: Box) -> None:
    assert await inside(box, "privileged") == set()
    async with Pool(await launch(seccomp=False), 0) as weaker:  # the layers below seccomp hold on their own
        assert await inside(await weaker.start(SandboxSpec()), "privileged") == set()
    if IS_ROOT:
        script = f"unshare -m {sys.executable} {PROBES} privileged"  # in its own mounts
        done = subprocess.run(
            ["unshare", "-m", "-u", "sh", "-c", f"mount -t tmpfs x /tmp; {script}"],
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert {"mount", "umount", "chroot", "sethostname", "setuid", "/agito-probe"} <= set(
            done.stdout.splitlines()
        )


SECRET = "agito-secret-4711"
HOLDER = """
import anyio, os, sys
from agito.protocols import SandboxSpec
from agito.worlds.sandbox import Pool
handle = os.open(sys.argv[1], os.O_RDONLY)
os.set_inheritable(handle, True)
os.dup2(handle, 77, inheritable=True)
async def main():
    async with await Pool.open(warm=1) as pool:
        for shape in (SandboxSpec(), SandboxSpec(work_mb=1)):
            box = await pool.start(shape)
            await box.write({"probes.py": open(sys.argv[2]).read()})
            for command in ("search agito-secret-4711 /work /tmp /etc /run /root /home /var /mnt", "search agito-secret-4711 /proc/1/root"):
                result = await box.sh("/usr/bin/python3 probes.py " + command)
                assert result.exit_code == 0, result
                print(result.output.decode(), end="")
            code = "import os\\nfor n in range(3, 2000):\\n  try: print('descriptor', n, os.fstat(n))\\n  except OSError: pass"
            print((await box.py(code)).output.decode(), end="")
anyio.run(main)
"""  # noqa: E501


async def test_a_secret_of_the_host_is_nowhere_to_be_seen(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    env = {**os.environ, "TOKEN": SECRET}
    done = subprocess.run(
        [sys.executable, "-c", HOLDER, str(secret), str(PROBES), SECRET],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    handle = os.open(secret, os.O_RDONLY)
    os.set_inheritable(handle, True)
    try:
        plain = subprocess.run(
            [sys.executable, str(PROBES), "search", SECRET, str(tmp_path)],
            env=env,
            capture_output=True,
            text=True,
            close_fds=False,
            timeout=60,
        )
    finally:
        os.close(handle)
    assert {"environ", "descriptor", "file"} <= set(plain.stdout.splitlines())


async def test_processes_of_the_host_do_not_exist(box: Box, victim: str) -> None:
    result = await box.sh(f"kill -0 {victim}; ls -d /proc/{victim}; ls -d /proc/[0-9]* | wc -l")
    assert b"No such process" in result.output
    assert int(result.output.split()[-1]) <= 5
    os.kill(int(victim), 0)


async def test_sockets_of_the_host_are_out_of_reach(box: Box, tmp_path: Path) -> None:
    path, name = str(tmp_path / "socket"), f"agito-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        unix.bind(path)
        unix.listen()
        abstract.bind("\0" + name)
        abstract.listen()
        addresses = (f"tcp:{tcp.getsockname()[1]}", f"unix:{path}", f"abstract:{name}")
        assert await inside(box, "connect", *addresses) == set()
        assert plainly("connect", *addresses) == {"tcp", "unix", "abstract"}


async def test_other_episodes_are_out_of_reach(pool: Pool) -> None:
    first, second = await pool.start(SandboxSpec()), await pool.start(SandboxSpec())
    serve = (
        "import os, socket, time\nif os.fork() == 0:\n"
        " t = socket.create_server(('127.0.0.1', 4567)); a = socket.socket(socket.AF_UNIX); "
        "a.bind('\\0agito'); a.listen(9)\n"
        " u = socket.socket(socket.AF_UNIX); u.bind('/tmp/socket'); u.listen(9); open('/tmp/ready', "
        "'w').close(); time.sleep(100)\n"
        "while not os.path.exists('/tmp/ready'): time.sleep(0.01)"
    )
    assert (await first.py(serve)).exit_code == 0
    await first.sh(
        "echo agito-secret > /work/file; echo agito-secret > /tmp/file; exec -a agito-secret sleep 100 & exit"
    )
    addresses = ("tcp:4567", "unix:/tmp/socket", "abstract:agito")
    assert await inside(second, "connect", *addresses) == set()
    assert await inside(second, "search", "agito-secret", "/work/file", "/tmp", "/run", "/dev/shm") == set()
    assert await inside(first, "connect", *addresses) == {"tcp", "unix", "abstract"}
    assert {"cmdline", "file"} <= await inside(first, "search", "agito-secret", "/tmp")


async def test_a_fork_bomb_ends_with_its_deadline_and_touches_nobody(pool: Pool) -> None:
    box, other = await pool.start(SandboxSpec(procs=64)), await pool.start(SandboxSpec())
    await box.write({"probes.py": PROBES.read_text()})
    for command in ("python3 probes.py bomb", "f() { f | f & }; f; wait; while :; do :; done"):
        async with anyio.create_task_group() as group:

            async def neighbour() -> None:
                for _ in range(5):
                    assert (await other.sh("echo fine", timeout_s=20)).output == b"fine\n"

            group.start_soon(neighbour)
            result = await box.sh(command, timeout_s=1.0)
        assert (result.exit_code, result.fault, result.killed_by) == (None, Fault.TIMEOUT, "deadline")
        assert b"limit" in result.output or b"fork" in result.output  # control: it did hit the limit
        assert int((await box.sh("ps -e --no-headers | wc -l")).output) <= 4


async def test_a_daemon_ends_with_the_kill(box: Box) -> None:
    await inside(box, "daemon")
    with anyio.fail_after(5):
        while b"sleep" not in (await box.sh("ps -e -o comm=")).output:
            pass
    await box.kill()
    assert b"sleep" not in (await box.sh("ps -e -o comm=")).output


async def test_many_small_holders_of_memory_are_counted_together(pool: Pool) -> None:
    box = await pool.start(SandboxSpec(mem_mb=200))
    code = (
        "import os, time\nfor _ in range(12):\n  if os.fork() == 0:\n    x = bytearray(40 << 20); "
        "time.sleep(30)\ntime.sleep(30)"
    )
    result = await box.py(code, timeout_s=20)
    assert (result.fault, result.killed_by) == (Fault.BUDGET, "memory")
    # control: the same program survives where there is room
    roomy = await pool.start(SandboxSpec(mem_mb=900))
    assert (await roomy.py(code, timeout_s=2)).killed_by == "deadline"


async def test_memory_in_the_background_is_watched_too(pool: Pool) -> None:
    box = await pool.start(SandboxSpec(mem_mb=100))
    code = (
        "import os, time\nfor _ in range(3):\n  if os.fork() == 0:\n    time.sleep(0.2); x = "
        "bytearray(60 << 20); time.sleep(30)\n"
    )
    await box.py(code)
    with anyio.fail_after(10):
        while (await box.sh("ps -e --no-headers | wc -l")).output not in (b"3\n", b"4\n"):
            await anyio.sleep(0.1)


@pytest.mark.parametrize("name", ["file", "way/file"])
async def test_a_race_of_links_leaks_nothing_to_a_reader(box: Box, tmp_path: Path, name: str) -> None:
    canary = tmp_path / "file"
    canary.write_text("canary")
    target = str(canary) if name == "file" else str(tmp_path)
    swapped = name.split("/")[0]
    plain = f"echo plain > {name}" if name == "file" else f"mkdir way; echo plain > {name}"
    await box.sh(
        f"(while :; do rm -rf {swapped}; ln -s {target} {swapped}; rm -rf {swapped}; {plain}; done) "
        "2>/dev/null & exit"
    )
    naive, seen = 0, set[bytes]()
    with anyio.fail_after(60):
        while not naive or len(seen) < 1:
            for _ in range(300):
                with contextlib.suppress(ValueError, NotFound):
                    seen.add(await box.read(name))
                try:
                    handle = os.open(name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=box.work)
                except OSError:
                    continue
                naive += os.read(handle, 64) == b"canary"
                os.close(handle)
    assert seen <= {b"plain\n", b""}
    assert set((await box.files()).values()) <= {b"plain\n", b""}


async def test_a_huge_file_a_pipe_and_a_device_do_not_stop_a_reader(box: Box) -> None:
    await box.sh(
        "mkfifo pipe; ln -s /dev/zero zero; ln -s /proc/self/environ env; mkdir -p a/b; ln -s / a/b/root; "
        "echo x > ok"
    )
    await box.py("import os; f = open('sparse', 'w'); os.truncate('sparse', 30 << 20)")
    with pytest.raises(ValueError, match="limit"):
        await box.files()
    await box.sh("rm sparse")
    assert await box.files() == {"ok": b"x\n"}


async def test_layers_and_tools_of_others_cannot_be_listed_or_opened(pool: Pool) -> None:
    box = await pool.start(SandboxSpec(tools=("ls", "chmod", "cat")))
    await box.write({"secret": "agito-secret"})
    snapshot = await box.snapshot()
    other = await pool.start(SandboxSpec())
    result = await other.sh(
        f"ls /run/layers; ls /run/tools; cat /run/layers/{snapshot}/secret; chmod 755 /run/layers; ls "
        f"/run/layers/{snapshot}"
    )
    assert b"agito-secret" not in result.output
    assert result.output.count(b"Permission denied") >= 4
    assert b"Read-only" in result.output
    assert (await (await pool.fork(snapshot)).sh("cat secret")).output == b"agito-secret"


async def test_a_snippet_cannot_speak_for_pid_1(box: Box) -> None:
    forged = (
        "import os\nfor number in range(3, 1024):\n  try: os.write(number, b'forged')\n  except OSError: "
        "pass\n"
        "for name in os.listdir('/proc/self/fd')[:3]: print(os.readlink('/proc/self/fd/' + "
        "name).split(':')[0])"
    )
    result = await box.py(forged)
    assert sorted(result.output.decode().split()) == ["/dev/null", "pipe", "pipe"]
    assert (await box.sh("echo fine")).output == b"fine\n"


async def test_a_user_who_is_root_outside_is_nobody_there(box: Box) -> None:
    result = await box.sh("id -u; cat /proc/self/uid_map; sleep 1000 & echo")
    assert result.output.split()[:2] == [b"1000", b"1000"]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes() == b"sleep\x001000\x00":
                assert path.stat().st_uid != 0
        except OSError:
            continue


async def test_the_host_ends_a_sandbox_whose_processes_are_all_stopped(box: Box) -> None:
    await box.sh("sleep 1000 & sleep 1000 & exit")
    await box.sh("pkill -STOP sleep")
    stat = Path(f"/proc/{box.pid}/stat")
    assert stat.exists()
    await box.close()
    with anyio.fail_after(5):
        while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
            await anyio.sleep(0.01)
