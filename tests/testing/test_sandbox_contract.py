"""Each rule of the sandbox contract catches a box that breaks it; the broken ones are wrapped around the real
one.

That the real one keeps the contract is tested beside it, in tests/world.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agito.errors import SandboxFailure, Uncapturable
from agito.protocols import Result, Sandbox, SandboxPool, SandboxSpec, Service, Standing
from agito.testing import SandboxContract, Violation
from agito.worlds.sandbox import Pool


class Box:
    """A real box, to be broken by overriding."""

    def __init__(self, real: Sandbox, spec: SandboxSpec) -> None:
        self.real, self.spec = real, spec

    async def sh(self, command: str, *, timeout_s: float = 30.0) -> Result:
        return await self.real.sh(command, timeout_s=timeout_s)

    async def py(self, code: str, *, timeout_s: float = 30.0, cpu_s: float | None = None) -> Result:
        return await self.real.py(code, timeout_s=timeout_s, cpu_s=cpu_s)

    async def read(self, path: str, *, limit_bytes: int = 1 << 20) -> bytes:
        return await self.real.read(path, limit_bytes=limit_bytes)

    async def write(self, files: Mapping[str, bytes | str], *, executable: Sequence[str] = ()) -> None:
        await self.real.write(files, executable=executable)

    async def files(self, *, limit_bytes: int = 1 << 22, under: str = "") -> dict[str, bytes]:
        return await self.real.files(limit_bytes=limit_bytes, under=under)

    async def standing(self) -> Standing:
        return await self.real.standing()

    async def kill(self) -> None:
        await self.real.kill()

    async def launch(self, command: str) -> Service:
        return await self.real.launch(command)

    async def launch_script(self, arguments: Sequence[str], *, mark: str) -> Service:
        return await self.real.launch_script(arguments, mark=mark)

    async def connect(self, port: int, *, timeout_s: float = 5.0) -> socket.socket:
        return await self.real.connect(port, timeout_s=timeout_s)

    async def listen(self, port: int = 0) -> socket.socket:
        return await self.real.listen(port)

    async def snapshot(self) -> str:
        return await self.real.snapshot()

    async def close(self) -> None:
        await self.real.close()


class Boxes:
    """A real pool whose boxes are of class `box`, and whose specs are changed by `changes`."""

    def __init__(self, real: SandboxPool, box: type[Box], changes: dict[str, Any]) -> None:
        self.real, self.box, self.changes = real, box, changes

    @property
    def tier(self) -> str:
        return self.changes.get("tier", self.real.tier)

    @property
    def cold(self) -> str | None:
        return self.real.cold

    async def start(self, spec: SandboxSpec) -> Sandbox:
        wanted = replace(spec, **{name: value for name, value in self.changes.items() if name != "tier"})
        return self.box(await self.real.start(wanted), spec)

    async def fork(self, snapshot: str) -> Sandbox:
        return self.box(await self.real.fork(snapshot), SandboxSpec())

    async def drop(self, snapshot: str) -> None:
        await self.real.drop(snapshot)

    async def aclose(self) -> None:
        await self.real.aclose()


class NoExitCode(Box):
    async def sh(self, command: str, *, timeout_s: float = 30.0) -> Result:
        return replace(await super().sh(command, timeout_s=timeout_s), exit_code=0)


class WaitsForInput(Box):
    async def sh(self, command: str, *, timeout_s: float = 30.0) -> Result:
        return await super().sh(command.replace("cat;", "sleep 9;"), timeout_s=0.1)


class Forgetful(Box):
    async def sh(self, command: str, *, timeout_s: float = 30.0) -> Result:
        return await super().sh(f"({command}\n)", timeout_s=timeout_s)


class Remembering(Box):
    """Runs every snippet after all the snippets before it."""

    past = ""

    async def py(self, code: str, *, timeout_s: float = 30.0, cpu_s: float | None = None) -> Result:
        self.past += "\n" + code
        return await super().py(self.past, timeout_s=timeout_s, cpu_s=cpu_s)


class HeadOnly(Box):
    async def sh(self, command: str, *, timeout_s: float = 30.0) -> Result:
        result = await super().sh(command, timeout_s=timeout_s)
        return replace(result, output=result.output[:1000])


class WritesTheBase(Box):
    async def sh(self, command: str, *, timeout_s: float = 30.0) -> Result:
        if self.spec.base:
            Path(self.spec.base, "more.txt").write_text("new")
        return await super().sh(command, timeout_s=timeout_s)


class NotExecutable(Box):
    async def write(self, files: Mapping[str, bytes | str], *, executable: Sequence[str] = ()) -> None:
        await super().write(files)


class ReadsAnything(Box):
    async def read(self, path: str, *, limit_bytes: int = 1 << 20) -> bytes:
        try:
            return await super().read(path, limit_bytes=limit_bytes)
        except ValueError:
            return b""


class EmptyingSnapshot(Box):
    """Loses a file while it is copied."""

    async def snapshot(self) -> str:
        layer = await super().snapshot()
        await super().sh("rm -f f")
        return layer


class NeverKills(Box):
    async def kill(self) -> None:
        return


class ClosesNever(Box):
    async def close(self) -> None:
        return


class ExitsAtTheDeadline(Box):
    async def sh(self, command: str, *, timeout_s: float = 30.0) -> Result:
        result = await super().sh(command, timeout_s=timeout_s)
        return replace(result, exit_code=143 if result.exit_code is None else result.exit_code)


class LeavesASleeper(Box):
    async def sh(self, command: str, *, timeout_s: float = 30.0) -> Result:
        result = await super().sh(command, timeout_s=timeout_s)
        await super().sh("setsid sleep 999 >/dev/null 2>&1 &")
        return result


class ConnectsOutside(Box):
    """Connects in the host's network."""

    async def connect(self, port: int, *, timeout_s: float = 5.0) -> socket.socket:
        try:
            return await super().connect(port, timeout_s=timeout_s)
        except TimeoutError:
            return socket.create_connection(("127.0.0.1", port))


class ListensOutside(Box):
    """Listens in the host's network, where the box is not."""

    async def listen(self, port: int = 0) -> socket.socket:
        return socket.create_server(("127.0.0.1", port))


class DiesOfPatterns(Box):
    async def sh(self, command: str, *, timeout_s: float = 30.0) -> Result:
        if "*/*/*" in command:
            await self.close()
        return await super().sh(command, timeout_s=timeout_s)


class CapturesNoShutFile(Box):
    """As a reader does that skips what it cannot open, and calls everything else a mistake of its caller."""

    async def files(self, *, limit_bytes: int = 1 << 22, under: str = "") -> dict[str, bytes]:
        try:
            return {
                path: data
                for path, data in (await super().files(limit_bytes=limit_bytes, under=under)).items()
                if path != "shut/in/a"
            }
        except Uncapturable as error:
            raise ValueError(str(error)) from None


class CopiesNoDeepTree(Box):
    async def snapshot(self) -> str:
        if (await super().sh("test -e d/d/d/d/d/d/d/d")).exit_code == 0:
            raise SandboxFailure("the workspace is too deep")
        return await super().snapshot()


def saying(output: str, when: str) -> type[Box]:
    """A box that answers `output` to whatever contains `when`: what a leaky one would have said."""

    class Saying(Box):
        async def sh(self, command: str, *, timeout_s: float = 30.0) -> Result:
            result = await super().sh(command, timeout_s=timeout_s)
            return replace(result, output=output.encode(), exit_code=0) if when in command else result

        async def py(self, code: str, *, timeout_s: float = 30.0, cpu_s: float | None = None) -> Result:
            result = await super().py(code, timeout_s=timeout_s, cpu_s=cpu_s)
            return replace(result, output=output.encode(), exit_code=0) if when in code else result

    return Saying


STATUS = "CapEff:\t00000000a80425fb\nNoNewPrivs:\t1\nSeccomp:\t2\n"
BROKEN: list[tuple[type[Box], dict[str, Any], str]] = [
    (Box, {"tier": " "}, "a_pool_says_its_tier"),
    (NoExitCode, {}, "a_command_gives_its_exit_code_and_its_output_in_order"),
    (WaitsForInput, {}, "a_command_that_reads_its_input_does_not_hang"),
    (Forgetful, {}, "directory_and_exported_variables_carry_over_and_nothing_else"),
    (Remembering, {}, "a_snippet_sees_files_but_no_earlier_snippet"),
    (HeadOnly, {}, "long_output_is_cut_in_the_middle_and_counted"),
    (
        Box,
        {"env": {"GIVEN": "x=1", "PYTEST_CURRENT_TEST": "leak"}},
        "the_environment_is_the_specs_and_not_the_hosts",
    ),
    (Box, {"tools": None}, "only_the_named_tools_are_on_the_path"),
    (WritesTheBase, {}, "a_base_directory_is_seen_and_never_changed"),
    (NotExecutable, {}, "what_is_written_can_be_read_and_run"),
    (ReadsAnything, {}, "the_host_never_follows_a_path_out_of_the_workspace"),
    (EmptyingSnapshot, {}, "a_fork_starts_from_the_snapshot_and_goes_its_own_way"),
    (NeverKills, {}, "killing_leaves_no_process_and_a_box_that_works"),
    (ClosesNever, {}, "closing_is_idempotent_and_a_closed_box_says_so"),
    (ExitsAtTheDeadline, {}, "a_deadline_ends_an_action_and_spares_the_box"),
    (LeavesASleeper, {}, "processes_that_ignore_signals_end_at_the_deadline"),
    (Box, {"mem_mb": 400}, "memory_is_limited"),
    (Box, {"procs": 100}, "the_number_of_processes_is_limited"),
    (Box, {"work_mb": 30}, "disk_is_limited"),
    (Box, {"tmp_mb": 30}, "disk_is_limited"),
    (Box, {"work_mb": 30, "fsize_mb": 20}, "disk_is_limited"),
    (Box, {"output_bytes": 9000}, "a_flood_of_output_hurts_nobody"),
    (saying("neighbour", "cat mine"), {}, "files_outside_the_box_are_out_of_reach"),
    (saying("host secret", "cat /tmp"), {}, "files_outside_the_box_are_out_of_reach"),
    (saying("", "echo x > /usr"), {}, "files_outside_the_box_are_out_of_reach"),
    (saying("reached", "socket"), {}, "no_network_is_within_reach"),
    (saying("lo eth0", "/proc/net/dev"), {}, "no_network_is_within_reach"),
    (saying(STATUS, "/proc/self/status"), {}, "a_process_in_the_box_has_no_privileges"),
    (saying("0 0 1", "uid_map"), {}, "a_process_in_the_box_has_no_privileges"),
    (saying("", "unshare"), {}, "a_process_in_the_box_has_no_privileges"),
    (saying("TOKEN=1", "/proc/1/environ"), {}, "pid_1_cannot_be_touched"),
    (ConnectsOutside, {}, "the_host_reaches_a_server_inside_and_only_there"),
    (ListensOutside, {}, "a_listener_is_reached_from_its_own_box_alone"),
    (NeverKills, {}, "a_service_outlives_actions_and_not_its_box"),
    (DiesOfPatterns, {}, "nothing_that_an_episode_does_ends_its_box"),
    (CapturesNoShutFile, {}, "what_cannot_be_captured_is_said_and_is_no_failure"),
    (CapturesNoShutFile, {}, "no_mode_hides_a_file_from_a_capture"),
    (CopiesNoDeepTree, {}, "a_snapshot_takes_whatever_tree_there_is"),
    (saying("3=/host", "/proc/self/fd"), {}, "no_descriptor_of_the_host_is_inherited"),
]


@pytest.mark.parametrize(
    ("box", "changes", "rule"), BROKEN, ids=[f"{box.__name__}-{rule[:30]}" for box, _, rule in BROKEN]
)
def test_a_rule_catches_a_box_that_breaks_it(box: type[Box], changes: dict[str, Any], rule: str) -> None:
    class Broken(SandboxContract):
        async def make(self) -> SandboxPool:
            return Boxes(await Pool.open(), box, changes)

    with pytest.raises(Violation) as caught:
        getattr(Broken(), f"test_{rule}")()
    assert rule.replace("_", " ") in str(caught.value) and "Remedy: " in str(caught.value)


def test_every_rule_is_shown_to_catch_something() -> None:
    assert set(SandboxContract.rules()) == {f"test_{rule}" for _, _, rule in BROKEN}
