"""Rules about what a box cannot do: outlast its deadline, exceed its limits, or reach anything outside."""

from __future__ import annotations

import socket
import tempfile
import time
from pathlib import Path

from agito.protocols import Result, Sandbox
from agito.testing.contract import require, rule
from agito.testing.sandbox.base import SandboxBase, count_processes, require_alive, text
from agito.types import Fault

SLACK_S = 5.0  # how late a deadline may be on a busy machine


class ConfinementRules(SandboxBase):
    @rule("kill everything inside at the deadline; exit code None, Fault.TIMEOUT, killed_by deadline")
    async def test_a_deadline_ends_an_action_and_spares_the_box(self) -> None:
        async with self.box() as box:
            for act, what in ((box.sh, "sleep 60"), (box.py, "while True: pass")):
                began = time.monotonic()
                result = await act(what, timeout_s=0.2)
                took = time.monotonic() - began
                require(took < 0.2 + SLACK_S, f"an action with 0.2 s took {took:.1f} s")
                require(result.exit_code is None, f"it ended with exit code {result.exit_code}")
                require(result.fault is Fault.TIMEOUT, f"the fault is {result.fault}")
                require(result.killed_by == "deadline", f"killed_by={result.killed_by!r}")
            await require_alive(box, "a deadline")

    @rule("escalate: kill everything inside whatever signals it ignores, in other sessions too")
    async def test_processes_that_ignore_signals_end_at_the_deadline(self) -> None:
        async with self.box() as box:
            before = await count_processes(box)
            result = await box.sh(
                "trap '' TERM INT HUP; (trap '' TERM; setsid sleep 999 & sleep 999) & sleep 999",
                timeout_s=0.3,
            )
            require(result.exit_code is None, f"it ended with exit code {result.exit_code}")
            left = await count_processes(box)
            require(left <= before, f"{left - before} processes outlived the deadline")

    @rule("limit memory by cgroup or watchdog, count files in memory too, and name what was killed")
    async def test_memory_is_limited(self) -> None:
        async with self.box() as box:
            greedy = "parts = []\nwhile True: parts.append(bytearray(b'x' * (1 << 22)))"
            result = await box.py(greedy, timeout_s=20.0)
            require_failed(result, f"a snippet that takes all memory of {self.spec.mem_mb} MiB")
            require(
                result.peak_mb < 2 * self.spec.mem_mb,
                f"it reached {result.peak_mb:.0f} MiB where {self.spec.mem_mb} are allowed",
            )
            await require_alive(box, "a snippet that takes all memory")

    @rule("limit processes per box, not per user")
    async def test_the_number_of_processes_is_limited(self) -> None:
        async with self.box() as box:
            bomb = (
                "import os, time\nn = 0\n"
                "try:\n    while n < 2000:\n        if os.fork() == 0: time.sleep(30); os._exit(0)\n       "
                " n += 1\n"
                "except OSError: pass\nprint(n, flush=True)"
            )
            started = text(await box.py(bomb, timeout_s=20.0))
            require(
                started.isdigit() and int(started) <= self.spec.procs,
                f"{started} processes started of {self.spec.procs}",
            )
            await box.kill()
            await require_alive(box, "a fork bomb")

    @rule("give workspace and temporary directory sizes of their own, and files a largest size")
    async def test_disk_is_limited(self) -> None:
        async with self.box() as box:
            for folder, most in ((".", self.spec.work_mb), ("/tmp", self.spec.tmp_mb)):
                await box.sh(
                    f"cd {folder} && for i in $(seq 40); do head -c 1000000 /dev/zero > fill$i || break; "
                    "done; cd - >/dev/null"
                )
                used = int(text(await box.sh(f"cat {folder}/fill* | wc -c"))) / (1 << 20)
                require(used <= most + 1, f"{used:.0f} MiB fit into {folder}, where {most} are allowed")
                await box.sh(f"rm -f {folder}/fill*")
            await box.sh("head -c 30000000 /dev/zero > large")
            size = int(text(await box.sh("cat large | wc -c"))) / (1 << 20)
            require(
                size <= self.spec.fsize_mb + 0.1,
                f"one file has {size:.0f} MiB, where {self.spec.fsize_mb} are allowed",
            )
            await require_alive(box, "a full disk")

    @rule("drain output without keeping it all; end the action at its deadline or at a byte budget")
    async def test_a_flood_of_output_hurts_nobody(self) -> None:
        async with self.box() as box:
            result = await box.sh("yes", timeout_s=0.5)
            require(
                result.fault in (Fault.TIMEOUT, Fault.BUDGET),
                f"an endless flood ended with {result.fault}, exit code {result.exit_code}",
            )
            require(
                len(result.output) <= self.spec.output_bytes + 200, f"{len(result.output)} bytes were kept"
            )
            await require_alive(box, "a flood of output")

    @rule(
        "give every box its own mounts: no file of the host's users, none of another box, nothing of the "
        "system to be written"
    )
    async def test_files_outside_the_box_are_out_of_reach(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            secret = Path(folder, "secret")
            secret.write_text("host secret")
            secret.chmod(0o644)
            async with self.pool() as pool:
                one, two = await pool.start(self.spec), await pool.start(self.spec)
                await one.sh(
                    "echo neighbour > mine; echo neighbour > /tmp/mine; echo neighbour > /dev/shm/mine"
                )
                for command in (f"cat {secret}", "cat /etc/shadow", "cat mine /tmp/mine /dev/shm/mine"):
                    seen = text(await two.sh(command))
                    require(
                        "secret" not in seen.replace(str(secret), "")
                        and "neighbour" not in seen
                        and "root:" not in seen,
                        f"`{command}` reads {seen!r}",
                    )
                for path in ("/usr/x", "/etc/x", "/bin/x"):
                    require((await two.sh(f"echo x > {path}")).exit_code != 0, f"{path} can be written")
                for box in (one, two):
                    await box.close()

    @rule("give every box its own network with loopback only")
    async def test_no_network_is_within_reach(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port: int = server.getsockname()[1]
            async with self.box() as box:
                found = text(await box.py(CONNECT.format(port=port)))
                require(found == "refused", f"a server on the host's loopback was {found}")
                devices = text(await box.sh("sed -n '3,$s/:.*//p' /proc/net/dev")).split()
                require(set(devices) <= {"lo"}, f"network devices {devices}")

    @rule("drop the user id and all capabilities, set no_new_privs, and filter system calls")
    async def test_a_process_in_the_box_has_no_privileges(self) -> None:
        async with self.box() as box:
            status = text(await box.py("print(open('/proc/self/status').read())"))
            fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
            require(int(fields["CapEff"], 16) == 0, f"effective capabilities {fields['CapEff'].strip()}")
            require(fields["NoNewPrivs"].strip() == "1", "no_new_privs is not set")
            require(fields["Seccomp"].strip() == "2", "system calls are not filtered")
            uid_map = text(await box.sh("cat /proc/self/uid_map")).split()
            require(uid_map[1] != "0", f"the box's user is the host's root: {uid_map}")
            require(
                await fails(box, "unshare -r true") and await fails(box, "mount -t tmpfs x /tmp"),
                "namespaces or mounts can be made inside",
            )

    @rule(
        "shield pid 1: not dumpable, ptrace denied, signals ignored, its environment and descriptors closed"
    )
    async def test_pid_1_cannot_be_touched(self) -> None:
        async with self.box() as box:
            for command in ("cat /proc/1/environ", "ls /proc/1/fd", "head -c 1 /proc/1/mem"):
                result = await box.sh(command)
                require(
                    result.exit_code != 0 or not result.output, f"`{command}` reads {result.output[:40]!r}"
                )
            await box.sh("kill -9 1; kill -STOP 1; kill -INT 1; kill -TERM 1")
            await require_alive(box, "signals to pid 1")

    @rule("hand the box no descriptor of the host but its own pipes")
    async def test_no_descriptor_of_the_host_is_inherited(self) -> None:
        with tempfile.TemporaryFile() as held:
            held.write(b"host secret")
            held.flush()
            async with self.box() as box:
                open_ones = text(await box.py(DESCRIPTORS))
                require(open_ones == "", f"descriptors beyond the standard three: {open_ones}")


CONNECT = """
import socket
s = socket.socket()
s.settimeout(2)
try:
    s.connect(("127.0.0.1", {port}))
    print("reached")
except OSError:
    print("refused")
"""
DESCRIPTORS = """
import os
found = []
for fd in range(3, 256):
    try:
        found.append(f"{fd}={os.readlink(f'/proc/self/fd/{fd}')}")
    except OSError:
        pass
print(" ".join(found))
"""


def require_failed(result: Result, what: str) -> None:
    require(result.exit_code != 0, f"{what} succeeded")


async def fails(box: Sandbox, command: str) -> bool:
    return (await box.sh(command)).exit_code != 0
