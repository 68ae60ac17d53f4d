"""Workers that are forked from one server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from tests.running import workers
from tests.runtime.conftest import plan

from agito.errors import BadRecipe, WorkerDied, WorkerFailed
from agito.models import Qwen3Config
from agito.runtime.client import WorkerClient
from agito.runtime.fork_server import WARM, warm
from agito.runtime.local_process import PipeTransport, launch
from agito.runtime.pool import WorkerPool
from agito.runtime.wire import Done, LoadState, ModelSpec

_DEADLINE_S = 60.0


@pytest.fixture
def launched() -> Iterator[Callable[[int], PipeTransport]]:
    made: list[PipeTransport] = []

    def start(rank: int) -> PipeTransport:
        made.append(launch(rank))
        return made[-1]

    yield start
    for transport in made:
        transport.close()
        transport.kill()


async def pid_of(transport: PipeTransport) -> int:
    with anyio.fail_after(_DEADLINE_S):
        while transport.process.pid is None:
            assert not transport.ended
            await anyio.sleep(0.01)
    return transport.process.pid


async def end_of(transport: PipeTransport) -> str:
    assert await transport.wait(time.monotonic() + _DEADLINE_S)
    return transport.ended


def server_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def is_answered(transport: PipeTransport) -> bool:
    """Asks for something that the worker refuses by its own words."""
    with pytest.raises(WorkerFailed, match="policy 'nobody' is not open here"):
        await asked(transport)
    return True


async def asked(transport: PipeTransport) -> None:
    await WorkerClient(0, transport, _DEADLINE_S).ask("nobody", LoadState(directory=Path()), Done)


async def test_workers_of_one_process_have_one_server_and_sessions_of_their_own(
    launched: Callable[[int], PipeTransport],
) -> None:
    transports = [launched(0), launched(7)]
    pids = [await pid_of(transport) for transport in transports]
    assert server_of(pids[0]) == server_of(pids[1])
    assert [await is_answered(transport) for transport in transports] == [True, True]
    assert {(0, pids[0]), (7, pids[1])} <= set(workers(os.getpid()))
    for transport, pid in zip(transports, pids, strict=True):
        assert os.getsid(pid) == pid
        transport.close()
        assert await end_of(transport) == "exit code 0"


async def test_a_worker_has_the_directory_the_streams_and_the_environment_of_the_moment(
    launched: Callable[[int], PipeTransport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pid_of(launched(0))
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "said").open("wb") as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            second = launched(1)
            pid = await pid_of(second)
        finally:
            os.dup2(kept, 2)
            os.close(kept)
    assert await is_answered(second)
    assert Path(f"/proc/{pid}/cwd").readlink() == tmp_path
    assert Path(f"/proc/{pid}/fd/2").readlink() == tmp_path / "said"
    first = server_of(pid)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "3")  # read once, when a process starts
    assert server_of(await pid_of(launched(2))) != first


async def test_a_worker_reads_the_environment_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What limits the instruction set is read where a network is compiled for this machine."""
    shape = Qwen3Config(
        vocab_size=17,
        hidden_size=32,
        intermediate_size=32,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        max_position=64,
    )
    asked = replace(plan(), model=ModelSpec(source=shape, seed=0))
    monkeypatch.setenv("AGITO_ISA", "abacus")
    pool = WorkerPool(1)
    try:
        with pytest.raises(BadRecipe, match="AGITO_ISA=abacus"):
            await pool.open("policy", asked)
    finally:
        await pool.aclose()
    monkeypatch.delenv("AGITO_ISA")
    pool = WorkerPool(1)
    try:
        await pool.open("policy", asked)
    finally:
        await pool.aclose()


async def test_where_a_process_waits_that_has_imported_everything_servers_are_forked_from_it(
    launched: Callable[[int], PipeTransport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "5")
    with warm(tmp_path / "warm", os.environ):
        monkeypatch.setenv(WARM, str(tmp_path / "warm"))
        first = launched(0)
        pid = await pid_of(first)
        server = server_of(pid)
        waiting = server_of(server)
        assert server_of(waiting) == os.getpid() and os.getsid(server) == server
        assert await is_answered(first) and (0, pid) in workers(os.getpid())
        os.kill(pid, signal.SIGTERM)
        assert await end_of(first) == "signal SIGTERM"
        monkeypatch.setenv("MALLOC_ARENA_MAX", "6")  # it has read another
        second = launched(0)
        assert server_of(server_of(await pid_of(second))) == os.getpid() and await is_answered(second)
    assert not any(Path(f"/proc/{each}").exists() for each in (server, waiting))


async def test_how_a_worker_ended_is_told(launched: Callable[[int], PipeTransport]) -> None:
    early, late = launched(0), launched(1)
    early.kill()
    assert early.ended == "signal SIGKILL"
    os.kill(await pid_of(late), signal.SIGSEGV)
    assert await end_of(late) == "signal SIGSEGV"
    with pytest.raises(WorkerDied, match="signal SIGSEGV"):
        await asked(late)


async def test_workers_outlive_their_server_and_the_next_ones_have_another(
    launched: Callable[[int], PipeTransport],
) -> None:
    first = launched(0)
    pid = await pid_of(first)
    server = server_of(pid)
    os.kill(server, signal.SIGKILL)
    while Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[0] != "Z":  # noqa: ASYNC110 nothing says so
        await anyio.sleep(0.01)
    assert await is_answered(first) and not first.ended
    second = launched(1)
    assert server_of(await pid_of(second)) != server
    first.kill()
    assert "process that forks workers is gone" in await end_of(first)


async def test_a_worker_that_has_ended_leaves_no_open_file(
    launched: Callable[[int], PipeTransport],
) -> None:
    await pid_of(launched(0))
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        transport = launched(1)
        await pid_of(transport)
        transport.close()
        await end_of(transport)
    assert len(list(Path("/proc/self/fd").iterdir())) == open_files


async def test_workers_that_are_given_up_before_they_are_forked_end_nothing_else(
    launched: Callable[[int], PipeTransport],
) -> None:
    first = launched(0)
    assert await is_answered(first)
    server = server_of(await pid_of(first))
    num_files = len(list(Path(f"/proc/{server}/fd").iterdir()))
    os.kill(server, signal.SIGSTOP)
    try:
        for rank in range(1, 9):
            transport = launch(rank)
            transport.close()
            if rank % 2:
                transport.kill()
            del transport
    finally:
        os.kill(server, signal.SIGCONT)
    last = launched(9)
    assert await is_answered(last)
    mine = {await pid_of(each) for each in (first, last)}
    assert server_of(await pid_of(last)) == server
    with anyio.fail_after(_DEADLINE_S):
        while children_of(server) != mine:  # noqa: ASYNC110 nothing says so
            await anyio.sleep(0.01)
        while len(list(Path(f"/proc/{server}/fd").iterdir())) > num_files + 2:  # noqa: ASYNC110 the same
            await anyio.sleep(0.01)


def children_of(pid: int) -> set[int]:
    return {int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def test_server_and_workers_end_with_their_owner() -> None:
    owner = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import time; from agito.runtime.local_process import launch; kept = launch(0)\n"
            "while kept.process.pid is None: time.sleep(0.01)\n"
            "print(kept.process.pid, flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        server = server_of(pid)
        owner.kill()
    until = time.monotonic() + _DEADLINE_S
    while any(Path(f"/proc/{each}").exists() for each in (pid, server)):
        assert time.monotonic() < until, "they outlived their owner"
        time.sleep(0.02)
