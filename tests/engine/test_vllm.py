"""vLLM as a sampler, against a server that speaks its protocol: requests, verification, and recovery."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import anyio
import pytest
from tests.engine import fake_vllm
from tests.engine.fake_vllm import VOCAB_SIZE, logprobs_after, salt_of

import agito
from agito.errors import RequestRefused, WorkerDied
from agito.protocols import Engine, Sampled, SampleRequest
from agito.sampling.embedded import EmbeddedEngine
from agito.sampling.vllm import (
    AdapterSlots,
    KnownLogprobs,
    VllmSampler,
    VllmServer,
    VllmSpec,
    WrongWeights,
    serving,
)
from agito.testing import EngineContract
from agito.types import VersionSpan

pytestmark = pytest.mark.anyio

SOURCE = Path(agito.__file__).parents[1]
PROGRAM = ("env", f"PYTHONPATH={SOURCE}", sys.executable, fake_vllm.__file__)
TEXT = array("i", [3, 1, 4, 1, 5])


def spec(folder: Path, **changes: object) -> VllmSpec:
    (folder / "faults").mkdir(parents=True, exist_ok=True)
    plain = VllmSpec(
        model=folder,
        context=96,
        program=PROGRAM,
        adapters=AdapterSlots(),
        is_seeded=True,
        start_s=60.0,
        silence_s=30.0,
        end_s=0.5,
    )
    return replace(plain, **changes)  # pyright: ignore[reportArgumentType]


def weights(folder: Path, version: int, *, is_adapter: bool = True) -> Path:
    """What a learner would have written."""
    path = folder / f"v{version}" / "adapter_model.safetensors"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"version {version}")
    return path.parent if is_adapter else path


def known(path: Path, *, off: float = 0.0) -> KnownLogprobs:
    found = [logprobs_after(salt_of(path), TEXT[:at])[token] + off for at, token in enumerate(TEXT)]
    return KnownLogprobs(ids=TEXT, logprobs=array("f", found[1:]))


def log(folder: Path) -> list[str]:
    return (folder / "log").read_text().splitlines()


async def logged(folder: Path, line: str) -> None:
    """Until the server has noted this."""
    with anyio.fail_after(20):
        while line not in log(folder):  # noqa: ASYNC110 it is another process that writes
            await anyio.sleep(0.01)


def ask(*extend: int, most: int = 6) -> SampleRequest:
    return SampleRequest(extend=array("i", extend or TEXT), max_tokens=most, stop_ids=())


@asynccontextmanager
async def published(folder: Path, **changes: object) -> AsyncGenerator[tuple[VllmServer, VllmSampler]]:
    """A sampler that has version 1."""
    plan = spec(folder, **changes)
    path = weights(folder, 1, is_adapter=plan.adapters is not None)
    async with serving(plan) as server:
        sampler = VllmSampler(server, "policy")
        await sampler.publish(1, path, known(path))
        yield server, sampler


async def publish(folder: Path, sampler: VllmSampler, version: int) -> None:
    path = weights(folder, version, is_adapter=sampler.capabilities.adapters)
    await sampler.publish(version, path, known(path))


def require_of(sampled: Sampled, past: list[int], path: Path) -> None:
    """Its log-probabilities are those of these weights."""
    for at, (token, logprob) in enumerate(zip(sampled.ids, sampled.logprobs, strict=True)):
        assert logprob == pytest.approx(
            logprobs_after(salt_of(path), [*past, *sampled.ids[:at]])[token], abs=1e-5
        )


class TestTheEngineContract(EngineContract):
    vocab_size = VOCAB_SIZE
    num_interleavings = 2
    folder: ClassVar[Path]

    @pytest.fixture(autouse=True, scope="class")
    async def server(
        self, anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
    ) -> AsyncGenerator[None]:
        async with published(tmp_path_factory.mktemp("vllm")) as (_, sampler):
            type(self).sampler = sampler
            yield

    sampler: ClassVar[VllmSampler]

    @asynccontextmanager
    async def make(self) -> AsyncGenerator[Engine]:
        yield self.sampler


@dataclass
class Task:
    """The result of a task that ran beside the test."""

    sampled: Sampled | None = None


async def test_a_row_sends_all_of_its_tokens_each_time_and_goes_on_with_the_newest_version(
    tmp_path: Path,
) -> None:
    async with published(tmp_path) as (_, sampler):
        row = sampler.open(1)
        first = await row.sample(ask())
        await publish(tmp_path, sampler, 4)
        second = await row.sample(ask(2, 2))
        past = [*TEXT, *first.ids, 2, 2]
        require_of(first, list(TEXT), tmp_path / "v1")
        require_of(second, past, tmp_path / "v4")
        assert first.versions == (VersionSpan(start=0, stop=11, version=1),)
        assert second.versions == (VersionSpan(start=0, stop=8, version=4),)
        assert log(tmp_path)[2:] == [
            "sample policy@1 5",
            "load policy@4",
            "unload policy@1",
            f"sample policy@4 {len(past)}",
        ]
        assert list(await sampler.score(TEXT)) == pytest.approx(known(tmp_path / "v4").logprobs)


async def test_an_adapter_is_unloaded_when_no_request_uses_it_any_more(tmp_path: Path) -> None:
    async with published(tmp_path) as (_, sampler):
        (tmp_path / "slow").touch()
        done = Task()

        async def sample() -> None:
            done.sampled = await sampler.open(1).sample(ask(most=20))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sample)
            await logged(tmp_path, "sample policy@1 5")
            await publish(tmp_path, sampler, 2)
            assert done.sampled is None and "unload policy@1" not in log(tmp_path)
        assert done.sampled is not None
        require_of(done.sampled, list(TEXT), tmp_path / "v1")
        assert done.sampled.versions[0].version == 1
        await publish(tmp_path, sampler, 3)
        assert [line for line in log(tmp_path) if line.startswith("unload")] == [
            "unload policy@1",
            "unload policy@2",
        ]


async def test_full_weights_reach_a_request_under_way_and_its_tokens_say_which_sampled_them(
    tmp_path: Path,
) -> None:
    async with published(tmp_path, adapters=None) as (_, sampler):
        assert sampler.capabilities.in_flight_update and not sampler.capabilities.adapters
        (tmp_path / "slow").touch()
        done = Task()

        async def sample() -> None:
            done.sampled = await sampler.open(1).sample(ask(most=60))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sample)
            await logged(tmp_path, "sample base 5")
            await anyio.sleep(0.1)  # for a few tokens
            await publish(tmp_path, sampler, 2)
            (tmp_path / "slow").unlink()
        assert done.sampled is not None
        one, two = done.sampled.versions
        assert (
            (one.version, two.version) == (1, 2)
            and one.start == 0
            and one.stop == two.start
            and two.stop == 65
        )
        past = list(TEXT)
        for at, (token, logprob) in enumerate(zip(done.sampled.ids, done.sampled.logprobs, strict=True)):
            path = weights(tmp_path, 1 if at + 5 < one.stop else 2, is_adapter=False)
            assert logprob == pytest.approx(logprobs_after(salt_of(path), past)[token], abs=1e-5)
            past.append(token)


@pytest.mark.parametrize("adapters", [AdapterSlots(), None], ids=["adapters", "full weights"])
async def test_a_server_that_goes_on_with_old_weights_is_found_out_and_replaced(
    adapters: AdapterSlots | None, tmp_path: Path
) -> None:
    async with published(tmp_path, adapters=adapters) as (server, sampler):
        (tmp_path / "faults/stale").touch()
        with pytest.raises(WrongWeights, match="version 2 of 'policy': server and learner differ"):
            await publish(tmp_path, sampler, 2)
        sampled = await sampler.open(1).sample(ask())
        require_of(sampled, list(TEXT), weights(tmp_path, 1, is_adapter=adapters is not None))
        assert sampler.version == 1 and server.num_starts == 2
        await publish(tmp_path, sampler, 3)
        assert (await sampler.open(1).sample(ask())).versions[0].version == 3


async def test_a_learner_that_moves_less_than_the_precision_shows_still_finds_a_server_that_does_not_move(
    tmp_path: Path,
) -> None:
    """Within the bound of bfloat16 by itself."""
    async with published(tmp_path, dtype="bfloat16") as (_, sampler):
        path, again = weights(tmp_path, 1), tmp_path / "v2"
        path.rename(again)
        weights(tmp_path, 1)
        with pytest.raises(
            WrongWeights,
            match=r"the learner has moved by 0\.05 nats a token, and the server answers as it did",
        ):
            await sampler.publish(2, again, known(tmp_path / "v1", off=0.05))


@pytest.mark.parametrize("adapters", [AdapterSlots(), None], ids=["adapters", "full weights"])
async def test_a_failed_update_means_a_new_server_whatever_its_health_says(
    adapters: AdapterSlots | None, tmp_path: Path
) -> None:
    async with published(tmp_path, adapters=adapters) as (server, sampler):
        (tmp_path / "faults/refuse").touch()
        await publish(tmp_path, sampler, 2)  # by the next one
        assert server.num_starts == 2
        assert (await sampler.open(1).sample(ask())).versions[0].version == 2


async def test_an_update_that_leaves_what_was_computed_before_means_a_new_server(tmp_path: Path) -> None:
    async with published(tmp_path, adapters=None) as (server, sampler):
        (tmp_path / "faults/keep cache").touch()
        await publish(tmp_path, sampler, 2)
        assert server.num_starts == 2


@pytest.mark.parametrize("adapters", [AdapterSlots(), None], ids=["adapters", "full weights"])
async def test_a_publication_that_is_broken_off_leaves_no_server_in_doubt(
    adapters: AdapterSlots | None, tmp_path: Path
) -> None:
    async with published(tmp_path, adapters=adapters) as (server, sampler):
        (tmp_path / "faults/endless update").touch()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish, tmp_path, sampler, 2)
            await logged(tmp_path, "fault endless update")
            tasks.cancel_scope.cancel()
        sampled = await sampler.open(1).sample(ask())
        require_of(sampled, list(TEXT), weights(tmp_path, 1, is_adapter=adapters is not None))
        assert sampled.versions[0].version == 1 and server.num_starts == 2
        await publish(tmp_path, sampler, 3)


async def test_a_server_that_has_died_unnoticed_is_replaced_before_it_is_published_to(tmp_path: Path) -> None:
    async with published(tmp_path) as (server, sampler):
        assert server.process is not None
        kill(server.process.keeper_pid)
        await publish(tmp_path, sampler, 2)
        assert (await sampler.open(1).sample(ask())).versions[0].version == 2


@pytest.mark.parametrize("fault", ["hollow", "no answer", "short", "broken off", "no number"])
async def test_an_answer_that_cannot_be_right_is_not_recorded_and_its_server_is_replaced(
    fault: str, tmp_path: Path
) -> None:
    async with published(tmp_path) as (server, sampler):
        (tmp_path / "faults" / fault).touch()
        sampled = await sampler.open(1).sample(ask())
        require_of(sampled, list(TEXT), tmp_path / "v1")
        assert server.num_starts == 2


async def test_a_server_that_dies_or_is_killed_in_mid_request_comes_back_and_the_row_goes_on(
    tmp_path: Path,
) -> None:
    async with published(tmp_path) as (server, sampler):
        row = sampler.open(1)
        first = await row.sample(ask())
        (tmp_path / "faults/die").touch()
        second = await row.sample(ask(2))
        past = [*TEXT, *first.ids, 2]
        require_of(second, past, tmp_path / "v1")
        assert server.num_starts == 2 and server.process is not None
        kill(server.process.keeper_pid)
        third = await row.sample(ask(2))
        require_of(third, [*past, *second.ids, 2], tmp_path / "v1")
        assert server.num_starts == 3
        assert [line for line in log(tmp_path) if line.startswith("sample")][
            -1
        ] == f"sample policy@1 {len(past) + 7}"


def kill(keeper: int) -> None:
    """The server, and not who keeps it."""
    (child,) = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)


async def test_a_server_that_computes_nothing_while_requests_wait_is_replaced(tmp_path: Path) -> None:
    async with published(tmp_path, silence_s=0.5) as (server, sampler):
        (tmp_path / "faults/hang").touch()
        await sampler.open(1).sample(ask())
        assert server.num_starts == 2


async def test_a_server_that_is_stopped_is_replaced(tmp_path: Path) -> None:
    async with published(tmp_path, silence_s=0.5) as (server, sampler):
        assert server.process is not None
        keeper = server.process.keeper_pid
        (child,) = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
        os.kill(int(child), signal.SIGSTOP)
        await sampler.open(1).sample(ask())
        assert server.num_starts == 2
        assert not Path(f"/proc/{child}").exists()


async def test_a_request_that_is_cancelled_is_aborted_there(tmp_path: Path) -> None:
    async with published(tmp_path) as (server, sampler):
        (tmp_path / "faults/hang").touch()
        row = sampler.open(1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(row.sample, ask())
            await logged(tmp_path, "fault hang")
            tasks.cancel_scope.cancel()
        await logged(tmp_path, "aborted")
        assert server.num_starts == 1
        with pytest.raises(ValueError, match="it is closed"):
            await row.sample(ask())


async def test_a_request_that_cannot_be_served_leaves_row_and_server_as_they_were(tmp_path: Path) -> None:
    async with published(tmp_path) as (server, sampler):
        row = sampler.open(1)
        for wrong in (ask(most=92), ask(VOCAB_SIZE), ask(most=0), replace(ask(), top_p=0.0)):
            with pytest.raises(ValueError):
                await row.sample(wrong)
        await row.sample(ask())
        assert server.num_starts == 1


async def test_nothing_is_sampled_before_something_is_published(tmp_path: Path) -> None:
    """Beside adapters, vLLM answers for the weights of the server with some adapter's."""
    async with published(tmp_path) as (server, _):
        with pytest.raises(
            ValueError, match=r"nothing was published for 'other' yet; there are \['policy'\]"
        ):
            await VllmSampler(server, "other").open(1).sample(ask())


async def test_two_policies_share_a_server_and_nothing_else(tmp_path: Path) -> None:
    async with published(tmp_path) as (server, sampler):
        other, path = VllmSampler(server, "other"), weights(tmp_path, 9)
        await other.publish(1, path, known(path))
        for each, own in ((sampler, tmp_path / "v1"), (other, path)):
            require_of(await each.open(1).sample(ask()), list(TEXT), own)
        assert server.process is not None
        kill(server.process.keeper_pid)
        for each, own in ((sampler, tmp_path / "v1"), (other, path)):
            require_of(await each.open(1).sample(ask()), list(TEXT), own)


async def test_a_version_is_never_used_again_and_must_be_there(tmp_path: Path) -> None:
    async with published(tmp_path) as (server, sampler):
        path = weights(tmp_path, 2)
        for version in (0, 1):
            with pytest.raises(ValueError, match=f"version {version} of 'policy' comes after 1"):
                await sampler.publish(version, path, known(path))
        with pytest.raises(ValueError, match="there are no weights of version 2"):
            await sampler.publish(2, tmp_path / "nowhere", known(path))
        assert server.num_starts == 1


async def test_a_server_that_never_starts_is_given_up_and_says_why(tmp_path: Path) -> None:
    plan = spec(tmp_path, max_starts=3, program=("sh", "-c", "echo there is no such model >&2; exit 3"))
    async with serving(plan) as server:
        sampler, path = VllmSampler(server, "policy"), weights(tmp_path, 1)
        with pytest.raises(
            WorkerDied,
            match=r"vLLM failed 3 times in a row; the last: vLLM did not start:\nthere is no such model",
        ):
            await sampler.publish(1, path, known(path))


async def test_one_failed_start_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults/no start").touch()
    async with published(tmp_path) as (server, sampler):
        await sampler.open(1).sample(ask())
        assert server.num_starts == 2


async def test_a_request_that_kills_every_server_fails_alone(tmp_path: Path) -> None:
    async with published(tmp_path, program=("env", "AGITO_FAKE_POISON=13", *PROGRAM)) as (server, sampler):
        with pytest.raises(RequestRefused, match="2 servers did not answer this request"):
            await sampler.open(1).sample(ask(13))
        await sampler.open(1).sample(ask())
        assert server.num_starts == 3, "none is spent on it any more"


def test_a_server_ends_with_the_process_that_started_it_however_that_ends(tmp_path: Path) -> None:
    script = f"""
import anyio, pathlib, sys
sys.path.insert(0, {str(SOURCE.parent)!r})
from tests.engine.test_vllm import published
async def main():
    async with published(pathlib.Path({str(tmp_path)!r})) as (server, _):
        keeper = server.process.keeper_pid
        print(open(f"/proc/{{keeper}}/task/{{keeper}}/children").read().strip(), server.process.directory, flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""  # noqa: E501
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid, directory = process.stdout.readline().split()
        child = Path("/proc") / pid
        assert child.exists() and Path(directory).exists()
        process.kill()
    until = time.monotonic() + 20
    while (child.exists() or Path(directory).exists()) and time.monotonic() < until:
        time.sleep(0.05)
    assert not child.exists() and not Path(directory).exists()


def test_kinds_of_samplers_say_what_they_can_do(tmp_path: Path) -> None:
    assert EmbeddedEngine.capabilities.keyed_determinism and not EmbeddedEngine.capabilities.adapters
    sampler = VllmSampler(VllmServer(spec(tmp_path)), "policy")
    assert (
        sampler.capabilities.adapters
        and not sampler.capabilities.keyed_determinism
        and not sampler.capabilities.in_flight_update
    )


@pytest.mark.parametrize(("rank", "limit"), [(1, 1), (4, 8), (16, 16), (17, 32), (512, 512)])
def test_an_adapter_of_any_rank_fits_the_limit_that_vllm_is_started_with(rank: int, limit: int) -> None:
    plan = VllmSpec(model=Path("m"), context=8, adapters=AdapterSlots(max_rank=rank))
    words = plan.command(Path("s"))
    assert words[words.index("--max-lora-rank") + 1] == str(limit)
    with pytest.raises(ValueError, match="rank 1 to 512"):
        AdapterSlots(max_rank=513)


async def test_what_a_server_started_ends_with_it_even_if_its_keeper_is_killed(tmp_path: Path) -> None:
    note = tmp_path / "child"
    helper = f'sleep 300 & echo $! > {note}; exec "$@"'
    plan = spec(tmp_path, program=("sh", "-c", helper, "sh", *PROGRAM))
    async with serving(plan) as server:
        sampler, path = VllmSampler(server, "policy"), weights(tmp_path, 1)
        await sampler.publish(1, path, known(path))
        process, child = server.process, int(note.read_text())
        assert process is not None and Path(f"/proc/{child}").exists()
        os.kill(process.keeper_pid, signal.SIGKILL)
        with anyio.fail_after(60):
            while server.num_starts < 2 or server.process is None:  # noqa: ASYNC110 nothing says so
                await anyio.sleep(0.05)
        await sampler.open(1).sample(ask())
    with anyio.fail_after(10):
        while Path(f"/proc/{child}/exe").exists():  # noqa: ASYNC110 nothing says so
            await anyio.sleep(0.05)
