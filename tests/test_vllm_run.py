"""`agito train` with a vLLM server as the sampler of a small pre-trained model. AGITO_VLLM names vLLM's
program, unless `make vllm` made it.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.test_policies import PRETRAINED, pretrained
from tests.test_resume import train

from agito.record import read_trajectories
from agito.record.events import Recovered, read_events
from agito.sampling.vllm import installed

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(
        installed() is None, reason="needs vLLM: make vllm, and AGITO_VLLM where it is elsewhere"
    ),
]
SHAPE = {"hidden_size": 128, "intermediate_size": 192, "num_heads": 4, "num_kv_heads": 2, "head_dim": 32}
DEADLINE_S = 1200


def lines_of(run: Path) -> list[Mapping[str, float]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def server_of(model: Path) -> int:
    """The process that listens, not the keeper that holds it."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(model).encode() in words and b"serve" in words and b"keeper.py" not in b" ".join(words):
            return int(place.name)
    raise AssertionError("no vLLM server is running")


@pytest.mark.parametrize("publish", ["adapter", "weights"])
def test_a_run_learns_from_what_vllm_samples_and_goes_on_when_the_server_is_killed(
    publish: str, tmp_path: Path
) -> None:
    """The teacher is the same network under other weights, so that every step moves the policy."""
    student = pretrained(tmp_path / "student", **SHAPE)
    teacher = pretrained(tmp_path / "teacher", seed=2, **SHAPE)
    program = installed()
    assert program is not None
    (tmp_path / ".venv-vllm/bin").mkdir(parents=True)
    (tmp_path / ".venv-vllm/bin/vllm").symlink_to(program[0])
    process = train(
        tmp_path,
        (
            *(each for each in PRETRAINED if not each.startswith(("rl.steps", "sft.demos"))),
            f"model.path={student}",
            f"policies.teacher.path={teacher}",
            "distill.teacher=teacher",
            "distill.keeps_reward=false",
            "compute.sampler=vllm",
            f"vllm.publish={publish}",
            "vllm.threads=1",
            "pipeline.mode=decoupled",
            "pipeline.max_staleness=1",
            "sft.demos=0",
            "rl.steps=5",
            "trainer.rl.lr=0.02",
        ),
    )
    run, until = tmp_path / "runs/run", time.monotonic() + DEADLINE_S
    while not any("policy/loss" in line for line in lines_of(run)):
        assert process.poll() is None and time.monotonic() < until, (tmp_path / "said").read_text()
        time.sleep(0.2)
    os.killpg(server_of(student), signal.SIGKILL)
    assert process.wait(timeout=DEADLINE_S) == 0, (tmp_path / "said").read_text()
    steps = [line for line in lines_of(run) if "policy/loss" in line]
    assert len(steps) == 5 and all(line["attempt/void_num"] == 0 for line in steps)
    assert steps[-1]["distill/reverse_kl_nats"] < steps[0]["distill/reverse_kl_nats"]
    versions: set[int] = set()
    for path in (run / "trajectories").glob("rl-*.parquet"):
        for recorded in read_trajectories(path):
            for segment in recorded.attempt.trajectory.segments:
                versions |= {span.version for span in segment.tokens.versions}
    assert len(versions) >= 3, "the server was given new weights as the run went on"
    assert max(line["age/max_versions"] for line in steps) <= 1
    told = read_events(run / "events.jsonl")
    assert not [event for event in told if isinstance(event, Recovered)], "the run itself never stopped"
