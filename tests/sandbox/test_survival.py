"""Nothing that an episode does ends its own sandbox: whatever it sends, blocks or fills is an event, and pid
1 goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Mapping

import anyio
import anyio.to_thread
import pytest

from agito.errors import SandboxExhausted
from agito.protocols import Result, SandboxSpec
from agito.types import Fault
from agito.worlds.sandbox import Pool
from agito.worlds.sandbox.box import Box
from agito.worlds.sandbox.inside.reading import is_ended, pipe, read_available

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


_DIE = "; kill -9 $$; cd /"
# Each ends its shell by SIGKILL, so that only the forged text reaches the state descriptor.
FORGED = {
    "a NUL in a value": r"""exec echo -ne "/\0A=$'\\\0'\0">&99""",
    "a NUL as an octal escape": r"""printf '/work\0declare -x A=$'"'"'\\000x'"'"'\n\0' >&99""" + _DIE,
    "a NUL as a wrapped octal escape": r"""printf '/work\0declare -x A=$'"'"'\\400x'"'"'\n\0' >&99""" + _DIE,
    "a name that is none": r"""printf '/work\0declare -x A B=C="1"\n\0' >&99""" + _DIE,
    "no UTF-8": r"""printf '/work\0declare -x A="\xff\xfe"\n\0' >&99""" + _DIE,
    "no directory": r"""printf '\0\0' >&99""" + _DIE,
    "a relative directory": r"""printf 'tmp\0\0' >&99""" + _DIE,
    "a huge directory": r"""{ printf /; head -c 200000 /dev/zero | tr '\0' a; printf '\0\0'; } >&99""" + _DIE,
    "5,000 variables": r"""{ printf '/work\0'; seq -f 'declare -x A%g="aaaaaaaa"' 5000; printf '\0'; } >&99"""
    + _DIE,
    "16,000 variables": r"""{
        printf '/work\0'; seq -f 'declare -x A%g=""' 16000 | head -c 260000; printf '\n\0'; } >&99"""
    + _DIE,
    "one variable of 130 KB": r"""{ printf '/work\0declare -x A="'; head -c 135000 /dev/zero | tr '\0' a; printf '"\n\0'; } >&99
        kill -9 $$; cd /""",  # noqa: E501
    "backslashes without an end": r"""{ printf '/work\0declare -x A="'; head -c 260000 /dev/zero | tr '\0' '\\'; printf '\0'; } >&99
        kill -9 $$; cd /""",  # noqa: E501
    "only NULs": r"""head -c 70000 /dev/zero >&99""" + _DIE,
    "too much": r"""yes >&99; cd /""",
    "a writer that stays": r"""(sleep 30 >&99 &); (yes >&99 &); cd /tmp""",
    "a huge environment of its own": "export A=$(head -c 120000 /dev/zero | tr '\\0' a); export B=$A C=$A; "
    "cd /",
}


@pytest.mark.parametrize("command", FORGED.values(), ids=FORGED.keys())
async def test_no_state_that_a_shell_leaves_ends_the_sandbox(box: Box, command: str) -> None:
    await box.write({"a.py": "x = 1\n"})
    await box.sh(command, timeout_s=5)
    for text, printed in (
        ("cd /work; echo alive", b"alive\n"),
        ("ls", b"a.py\n"),
        ("true; ls | cat", b"a.py\n"),
    ):
        assert (await box.sh(text, timeout_s=5)).output == printed
    assert (await box.py("print(1)", timeout_s=5)).output == b"1\n"
    await box.kill()
    assert await box.files() == {"a.py": b"x = 1\n"}


@pytest.mark.parametrize("name", ["5,000 variables", "one variable of 130 KB", "no directory"])
async def test_a_state_that_is_not_kept_is_said(box: Box, name: str) -> None:
    await box.sh("export A=1")
    assert b"not kept" in (await box.sh(FORGED[name], timeout_s=5)).output
    assert (await box.sh("echo $PWD $A")).output == b"/work 1\n"


async def test_a_directory_with_a_path_that_no_call_takes_carries_over(box: Box) -> None:
    name = "d" * 250
    await box.sh(f"for i in {{1..20}}; do mkdir {name} && cd {name}; done; echo here > file")
    result = await box.sh("cat file; echo ${#PWD}")
    assert result.output == b"here\n%d\n" % (len("/work") + 20 * 251)


LINKS = "mkdir d; cd d; for i in 1 2 3 4 5 6 7 8; do ln -s . $i; done"
PATTERNS = {
    "links to the folder itself": (LINKS, "echo */*/*/*/*/*/*/*"),
    "30 levels of two links": ("mkdir d; cd d; ln -s . a; ln -s . b", "echo " + "/".join(["*"] * 30)),
    "12 patterns of links": (LINKS, "ls " + " ".join(["*/*/*/*/*/*"] * 12)),
    "folders, not links": (
        "mkdir -p {1..8}/{1..8}/{1..8}/{1..8}/{1..8}",
        "echo " + " ".join(["*/*/*/*/*"] * 100),
    ),
    "many names and a slow pattern": (
        "python3 -c \"for i in range(10000): open('a' * 200 + str(i), 'w').close()\"",
        "echo " + " ".join(["*a*a*a*a*a*a*a*a*a*b"] * 150),
    ),
    "one long pattern": (
        "python3 -c \"for i in range(3000): open('a' * 240 + str(i), 'w').close()\"",
        "echo " + "?*" * 1900 + "b",
    ),
}


@pytest.mark.parametrize(("setup", "command"), PATTERNS.values(), ids=PATTERNS.keys())
async def test_a_pattern_of_names_ends_at_the_deadline_and_spares_the_sandbox(
    box: Box, setup: str, command: str
) -> None:
    assert (await box.sh(setup, timeout_s=20)).exit_code == 0
    began = time.monotonic()
    result = await box.sh(command, timeout_s=0.3)
    assert time.monotonic() - began < 2.0
    assert result.killed_by != "pid 1 silent"
    assert (await box.sh("echo alive", timeout_s=10)).output == b"alive\n"


LEASE = (
    "import fcntl, os, signal, time\n"
    "signal.signal(signal.SIGIO, signal.SIG_IGN)\n"
    "held = [open(name, mode) for name, mode in (('program', 'r+b'), ('script', 'r'), ('data', 'r+b'))]\n"
    "for file, kind in zip(held, (fcntl.F_WRLCK, fcntl.F_RDLCK, fcntl.F_WRLCK)):\n"
    "    try: fcntl.fcntl(file, fcntl.F_SETLEASE, kind)\n"
    "    except OSError: pass\n"
    "if os.fork() == 0:\n    os.closerange(0, 3); time.sleep(100)\n"
)


@pytest.mark.parametrize(
    "command", ["./program", "cat < data", "echo x > data", "./script", "echo x >> script"]
)
async def test_no_lease_makes_pid_1_wait(box: Box, command: str) -> None:
    await box.write({"script": "#!/bin/sh\n", "data": "x\n"}, executable=["script"])
    await box.sh("cp /bin/true program")
    await box.py(LEASE)
    assert (await box.sh(command, timeout_s=1)).killed_by != "pid 1 silent"
    assert (await box.sh("echo alive", timeout_s=10)).output == b"alive\n"
    assert await box.read("data")
    assert "data" in await box.files()


async def test_a_program_that_is_stopped_before_it_begins_does_not_stop_pid_1(box: Box) -> None:
    stopper = (
        "import os, signal\n"
        "if os.fork() == 0:\n"
        "  os.closerange(0, 3)\n"
        "  while True:\n"
        "    try: os.kill(-1, signal.SIGSTOP)\n"
        "    except OSError: pass\n"
    )
    await box.py(stopper)
    for command in ("ls", "true; ls", "ls > file", "cd /tmp"):
        assert (await box.sh(command, timeout_s=0.3)).killed_by in ("deadline", None)
        await box.py(stopper, timeout_s=0.3)
    await box.kill()
    assert (await box.sh("echo alive")).output == b"alive\n"


async def test_a_pipe_that_somebody_else_has_emptied_does_not_stop_its_reader() -> None:
    reading, writing = pipe()
    os.write(writing, b"promised")
    thief = os.open(f"/proc/self/fd/{reading}", os.O_RDONLY)  # an episode can do that with its own output
    assert os.read(thief, 100) == b"promised"
    os.set_blocking(thief, True)
    with anyio.fail_after(5):
        assert await anyio.to_thread.run_sync(read_available, reading, abandon_on_cancel=True) == b""
    assert not is_ended(reading)
    for descriptor in (writing, thief):
        os.close(descriptor)
    assert is_ended(reading)
    os.close(reading)


@pytest.mark.full
async def test_cpu_time_of_pid_1_is_its_own_affair(pool: Pool) -> None:
    box = await pool.start(SandboxSpec(cpu_s=1))
    began = time.monotonic()
    while (spent := await _cpu_of_pid_1(box)) < 2.3:
        await box.sh("yes | head -c 60M", timeout_s=5)
        assert time.monotonic() - began < 60, f"pid 1 has used {spent:.1f} s"
    assert (await box.sh("echo alive")).output == b"alive\n"


async def _cpu_of_pid_1(box: Box) -> float:
    fields = (await box.sh("echo $(< /proc/1/stat)")).output.rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


async def test_no_limit_of_cpu_time_can_kill_pid_1(pool: Pool) -> None:
    box = await pool.start(SandboxSpec(cpu_s=3))
    assert (await box.sh("grep cpu /proc/1/limits")).output.split()[3:5] == [b"3", b"unlimited"]
    assert (
        await box.py("import resource; print(resource.getrlimit(resource.RLIMIT_CPU))")
    ).output == b"(3, 4)\n"


async def test_a_program_that_ignores_the_signal_has_no_more_cpu_time(pool: Pool) -> None:
    box = await pool.start(SandboxSpec(cpu_s=1))
    result = await box.sh("trap '' XCPU; while :; do :; done", timeout_s=30)
    assert (result.exit_code, result.fault, result.killed_by) == (137, Fault.BUDGET, "cpu")


async def test_background_output_costs_little_while_nobody_asks(box: Box) -> None:
    await box.sh("yes & exit")
    before = await _cpu_of_pid_1(box)
    await anyio.sleep(1.0)
    assert await _cpu_of_pid_1(box) - before < 0.3


SIGNALS = "for s in $(seq 1 64); do kill -$s 1; kill -$s -1 -- 2>/dev/null; done"


async def test_no_signal_ends_pid_1(box: Box) -> None:
    await box.sh("trap '' $(seq 1 64); " + SIGNALS, timeout_s=5)
    flood = (
        "import os, signal\nfor _ in range(20000):\n  for s in (17, 18, 24, 25, 29, 34, 64): "
        "os.kill(1, s)\nprint('done')"
    )
    assert (await box.py(flood, timeout_s=20)).output == b"done\n"
    assert (await box.sh("echo alive")).output == b"alive\n"


TRUTH: Mapping[str, tuple[int | None, Fault | None, str | None]] = {
    "true " + "x" * 200_000: (126, None, None),
    "export A=1; true " + "x" * 200_000: (126, None, None),
}


@pytest.mark.parametrize("command", TRUTH)
async def test_a_command_that_no_program_can_be_given_says_why(box: Box, command: str) -> None:
    result: Result = await box.sh(command)
    assert (result.exit_code, result.fault, result.killed_by) == TRUTH[command]
    assert result.output == b"bash: Argument list too long\n"


async def test_files_that_no_text_can_name_are_refused_and_end_nothing(box: Box) -> None:
    for path in ("\ud800", "a/" * 2500 + "x", "b" * 300):
        with pytest.raises((ValueError, OSError)):
            await box.write({path: "x"})
    deep = "c/" * 1900 + "x"
    await box.write({deep: "deep\n"})
    assert await box.read(deep) == b"deep\n"
    await box.write({f"{'c/' * 1900}{number}": "" for number in range(50)})
    assert (await box.sh("echo alive")).output == b"alive\n"


MAPPINGS = """
import ctypes, os, time
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
for number in range(65000): libc.mmap(None, 4096, number % 2, 0x22, -1, 0)
for _ in range(60):
    if os.fork() == 0: time.sleep(100)
time.sleep(100)
"""  # noqa: E501


@pytest.mark.full
async def test_processes_that_take_long_to_look_at_or_to_end_do_not_stop_pid_1(pool: Pool) -> None:
    box = await pool.start(SandboxSpec(mem_mb=300))
    assert (await box.py(MAPPINGS, timeout_s=4)).killed_by in ("memory", "deadline")
    assert (await box.sh("echo alive", timeout_s=10)).output == b"alive\n"
    await box.kill()
    assert (await box.sh("echo alive", timeout_s=10)).output == b"alive\n"


SWARM = """
import os, time
if os.fork() == 0:
    while True:
        try:
            if os.fork() == 0: time.sleep(100)
        except OSError: time.sleep(0.001)
"""


async def test_what_the_episode_has_used_up_is_said_to_be_that(pool: Pool) -> None:
    box = await pool.start(SandboxSpec(procs=6))
    await box.py(SWARM)
    with anyio.fail_after(10):
        while (result := await box.sh("ls")).killed_by is None:
            pass
    assert (result.exit_code, result.fault, result.killed_by) == (None, Fault.BUDGET, "no process left")
    with pytest.raises(SandboxExhausted, match="every process"):
        await box.launch("cat")
    await box.kill()
    service = await box.launch("cat")
    for descriptor in (service.stdin, service.stdout, service.stderr):
        os.close(descriptor)
