"""Workers as Ray actors on a cluster of two nodes, both of this machine: the same bits as over pipes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.conftest import plan, sample
from tests.runtime.test_transports import history

import agito
from agito.errors import WorkerDied
from agito.record.events import Recovered, read_events
from agito.runtime.local_process import launch
from agito.runtime.pool import WorkerPool
from agito.runtime.roles import PolicyHandle
from agito.runtime.transport import Launch

ray: Any = pytest.importorskip("ray", reason="needs Ray: pip install 'agito[ray]'")

from agito.runtime.ray_actors import RayLaunch  # noqa: E402

pytestmark = [
    pytest.mark.full,
    pytest.mark.anyio,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("default"),
]

ROOT = Path(agito.__file__).parents[2]
SHORT = (
    "sft.demos=320",
    "sft.tokenizer_episodes=60",
    "rl.steps=3",
    "rl.groups=8",
    "rl.group_size=4",
    "rl.checkpoint_every=1",
    "eval.tasks=24",
    "eval.structural_tasks=0",
    "eval.baseline_tasks=0",
)
DECOUPLED = ("pipeline.mode=decoupled", "pipeline.max_staleness=0")
OF_THE_CLOCK = ("wall_s", "time/", "engine/", "rollout/", "tool/", "trainer/")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Its address."""
    from ray.cluster_utils import Cluster  # pyright: ignore[reportMissingImports]

    size: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 200 * 2**20, "include_dashboard": False}
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    made = Cluster(initialize_head=True, head_node_args=size)
    made.add_node(num_cpus=2, object_store_memory=200 * 2**20)
    ray.init(address=made.address, logging_level="ERROR", log_to_driver=False)
    made.wait_for_nodes()
    yield made.address
    ray.shutdown()
    made.shutdown()


@asynccontextmanager
async def opened(
    start: Launch, num_workers: int, *, learns_alone: bool = False
) -> AsyncGenerator[tuple[WorkerPool, PolicyHandle]]:
    pool = WorkerPool(num_workers, start=start)
    try:
        yield pool, await pool.open("policy", plan(learns_alone=learns_alone))
    finally:
        await pool.aclose()


def actors() -> dict[str, int]:
    """Process ids of our actors, by node."""
    found: dict[str, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes()
            raylet = (path / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if words.startswith(b"ray::_WorkerActor"):
            found[raylet] = int(path.name)
    return found


async def test_actors_give_the_same_answers_and_the_same_weights_as_processes(
    cluster: str, tmp_path: Path
) -> None:
    """Whatever is asked of a learner and of a sampler whose weights come over the network."""
    assert await history(RayLaunch(), tmp_path / "ray") == await history(launch, tmp_path / "pipes")


async def test_learners_on_two_nodes_sum_their_gradients_to_the_same_bits(
    cluster: str, tmp_path: Path
) -> None:
    batch = [sample(slot, 5 + 3 * slot) for slot in range(6)]
    found: list[tuple[list[float], str]] = []
    for name, start in {"ray": RayLaunch(), "pipes": launch}.items():
        async with opened(start, 2) as (_, policy):
            if name == "ray":
                assert len(actors()) == 2, "both are on one node"
            await policy.learner.begin_phase("sft", 3)
            losses = [stats.values["sft/loss_nats"] for stats in await policy.learner.sft_step([batch] * 3)]
            await policy.learner.push(1)
            await policy.learner.save(tmp_path / name, meta={}, tokenizer={})
        found.append(
            (losses, hashlib.sha256((tmp_path / name / "model.safetensors").read_bytes()).hexdigest())
        )
    assert found[0] == found[1]


async def test_a_killed_actor_is_a_worker_that_died_and_nobody_waits_for_it(cluster: str) -> None:
    async with opened(RayLaunch(), 2) as (pool, policy):
        await policy.learner.begin_phase("sft", 3)
        os.kill(next(iter(actors().values())), signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(WorkerDied, match=r"worker \d ended"):
            await policy.learner.sft_step([[sample(slot, 30) for slot in range(8)]] * 3)
        assert time.monotonic() - began < 60
        assert any(worker.ended for worker in pool.workers)


def train(home: Path, *overrides: str, address: str | None = None) -> subprocess.Popen[bytes]:
    home.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    if address is not None:
        environment["RAY_ADDRESS"] = address
    on = "local" if address is None else "ray"
    words = (*SHORT, *overrides, f"compute.on={on}")
    command = [
        sys.executable,
        "-m",
        "agito.cli",
        "train",
        "smoke",
        "--out",
        str(home / "run"),
        "--admit-anyway",
    ]
    with (home / "said").open("wb") as said:
        return subprocess.Popen(
            [*command, *(word for each in words for word in ("--set", each))], stdout=said, stderr=said
        )


def finished(home: Path, process: subprocess.Popen[bytes]) -> tuple[str, list[dict[str, object]]]:
    """Weights and figures of each step."""
    assert process.wait(timeout=600) == 0, (home / "said").read_text()[-2000:]
    weights = hashlib.sha256((home / "run/checkpoints/final/model.safetensors").read_bytes()).hexdigest()
    lines = [json.loads(line) for line in (home / "run/metrics.jsonl").read_text().splitlines()]
    return weights, [
        {name: value for name, value in line.items() if not name.startswith(OF_THE_CLOCK)} for line in lines
    ]


@pytest.mark.parametrize("overrides", [(), DECOUPLED], ids=["on-policy", "decoupled"])
def test_a_run_on_a_cluster_of_two_nodes_is_equal_to_a_local_one_bit_for_bit(
    cluster: str, overrides: tuple[str, ...], tmp_path: Path
) -> None:
    on_ray, local = tmp_path / "ray", tmp_path / "local"
    expected = finished(local, train(local, *overrides))
    assert finished(on_ray, train(on_ray, *overrides, address=cluster)) == expected
    assert len(expected[1]) > 3


def test_a_run_whose_actor_is_killed_goes_on_and_ends_with_the_same_weights(
    cluster: str, tmp_path: Path
) -> None:
    on_ray, local = tmp_path / "ray", tmp_path / "local"
    process = train(on_ray, address=cluster)
    until = time.monotonic() + 400
    while (
        not (on_ray / "run/checkpoints/step-1").exists()
        and time.monotonic() < until
        and process.poll() is None
    ):
        time.sleep(0.05)
    os.kill(next(iter(actors().values())), signal.SIGKILL)
    weights, _ = finished(on_ray, process)
    assert weights == finished(local, train(local))[0]
    assert any(isinstance(event, Recovered) for event in read_events(on_ray / "run/events.jsonl"))
