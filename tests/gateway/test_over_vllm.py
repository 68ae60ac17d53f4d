"""The gateway with a vLLM server as its policy's sampler: the official SDK before it, agents that train
through it. AGITO_VLLM names vLLM's program, unless `make vllm` made it; AGITO_MODELS, a folder with
smollm2-135m.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from array import array
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import torch
from tests.gateway.conftest import serving
from tests.gateway.test_guests import GUESTS
from tests.gateway.test_parity import LIMITS, TASK, loop
from tests.gateway.test_serving import agent_of, served
from tests.test_policies import PRETRAINED, pretrained
from tests.test_resume import train

from agito.gateway import Terms
from agito.harness import SOLO, SoloHarness
from agito.models.checkpoint import load, save
from agito.models.config import WEIGHTS_NAME
from agito.protocols import Agent, AgentSpec, Engine
from agito.record import read_trajectories
from agito.render import read_chat
from agito.runtime import load_policy
from agito.sampling.vllm import KnownLogprobs, VllmSampler, VllmSpec, installed
from agito.sampling.vllm import serving as serving_vllm
from agito.sampling.vllm.known_text import BOUNDS
from agito.testing import FakeSession
from agito.types import AttemptId, Segment, TokenSource

ROOT = Path(__file__).parents[2]
MODEL = Path(os.environ.get("AGITO_MODELS", "models")).absolute() / "smollm2-135m"
CLOSE = 2e-3  # nats at any token
pytestmark = [
    pytest.mark.full,
    pytest.mark.anyio,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(
        installed() is None, reason="needs vLLM: make vllm, and AGITO_VLLM where it is elsewhere"
    ),
    pytest.mark.skipif(
        not MODEL.is_dir(),
        reason=f"needs {MODEL}: agito models get smollm2-135m, and AGITO_MODELS if it is elsewhere",
    ),
]


def home_in(folder: Path) -> Path:
    """A folder in which a command finds vLLM and the model."""
    program = installed()
    assert program is not None
    for link, target in (".venv-vllm/bin/vllm", Path(program[0])), ("models/smollm2-135m", MODEL):
        (folder / link).parent.mkdir(parents=True)
        (folder / link).symlink_to(target)
    return folder


def segments_in(folder: Path, pattern: str) -> list[Segment]:
    found = [each for path in sorted(folder.glob(pattern)) for each in read_trajectories(path)]
    return [segment for each in found for segment in each.attempt.trajectory.segments]


def require_own(segments: list[Segment]) -> None:
    """Sampled tokens have the log-probabilities that the checkpoint's own network gives them in float32, as
    far as the precision in which it was served explains.
    """
    model, bounds = load(MODEL, dtype=torch.float32), BOUNDS[load_policy.recipe_of(MODEL).model.dtype]
    off = list[float]()
    for segment in segments:
        ids = torch.tensor(segment.tokens.ids)
        with torch.no_grad():
            logits = model.logits(model.hidden(ids, [len(ids)]))[:-1]
        expected = logits.log_softmax(-1).gather(1, ids[1:, None])[:, 0]
        off += [
            abs(float(expected[at - 1]) - segment.tokens.logprobs[at])
            for at, is_sampled in enumerate(segment.tokens.is_sampled)
            if is_sampled
        ]
    assert len(off) > 50 and max(off) < bounds.token and sum(off) / len(off) < bounds.mean


def test_clients_of_the_official_sdk_are_answered_by_vllm_and_what_they_got_is_kept_token_by_token(
    tmp_path: Path,
) -> None:
    home, sdk = home_in(tmp_path), python_of_vllm()
    with served(home / "models/smollm2-135m", "--sampler", "vllm", "--record", "served") as (url, _):
        asked = {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "k"}
        done = subprocess.run(
            [sdk, str(GUESTS / "asks.py")],
            env=asked,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    whole, streamed = found["whole"], found["streamed"]
    assert whole[0] == streamed[0] == found["afterwards"] and streamed[2] > 1
    assert len(whole[1]) == whole[2] > 3 and whole[1] == pytest.approx(streamed[1], abs=CLOSE)
    assert found["kept"][0] == found["kept"][1] and found["too long"] == "context_length_exceeded"
    assert [name for name, _ in found["forced"]] in ([], ["open"])
    assert found["forced"] or found["forced text"]
    assert len(set(found["sampled"])) == 3
    stopped, letter = found["stopped"]
    assert whole[0].startswith(stopped) and whole[0][len(stopped)] == letter
    assert found["responses"][0] == found["responses"][1] == whole[0]
    segments = segments_in(home, "served/served-*.parquet")
    assert sum(sum(segment.tokens.is_sampled) for segment in segments) > 8 * whole[2]
    assert {span.version for segment in segments for span in segment.tokens.versions} == {1}
    assert any(TokenSource.FORCED in segment.tokens.kinds for segment in segments)
    require_own(segments)


def python_of_vllm() -> str:
    """Which has the package `openai`."""
    program = installed()
    assert program is not None
    return str(Path(program[0]).resolve().with_name("python"))


@asynccontextmanager
async def engine_of_vllm(folder: Path) -> AsyncGenerator[Engine]:
    """In float32, in which two batches give the same tokens."""
    model, program = load(MODEL, dtype=torch.float32), installed()
    assert program is not None
    save(model, folder)
    text = torch.tensor([number * 37 % 251 for number in range(100)])
    with torch.no_grad():
        logits = model.logits(model.hidden(text, [len(text)]))[:-1]
    logprobs = logits.log_softmax(-1).gather(1, text[1:, None])[:, 0]
    known = KnownLogprobs(ids=array("i", text.tolist()), logprobs=array("f", logprobs.tolist()))
    async with serving_vllm(VllmSpec(model=folder, context=4096, program=program)) as server:
        sampler = VllmSampler(server, "main")
        await sampler.publish(1, folder / WEIGHTS_NAME, known)
        yield sampler


@pytest.mark.parametrize("overrides", [False, True])
async def test_a_clients_loop_trains_on_what_the_solo_harness_trains_on_through_the_same_server(
    overrides: bool, tmp_path: Path
) -> None:
    """Greedily: draws of vLLM do not repeat."""
    renderer = read_chat(MODEL)
    async with engine_of_vllm(tmp_path / "model") as engine:
        spec = AgentSpec(renderer=renderer, temperature=0.0)
        agent = Agent(spec=spec, engine=engine)
        solo = await SoloHarness().run(TASK, FakeSession(), {SOLO: agent}, AttemptId(group=0, slot=0), seed=1)
        terms = Terms(limits=LIMITS if overrides else None, overrides=overrides)
        async with serving(engine, renderer, terms=terms, temperature=0.0) as client:
            await loop(client, renderer)
            (found,), turns = client.conversations.record()
    (expected,) = solo.segments
    assert found.tokens.ids == expected.tokens.ids and found.tokens.kinds == expected.tokens.kinds
    assert found.tokens.versions == expected.tokens.versions and len(turns) == len(solo.turns) > 1
    ours, theirs = (
        array("f", [each for each in segment.tokens.logprobs if not math.isnan(each)])
        for segment in (found, expected)
    )
    assert ours == pytest.approx(theirs, abs=1e-3)


def test_a_run_learns_through_somebodys_own_agent_from_what_vllm_samples(tmp_path: Path) -> None:
    home = home_in(tmp_path)
    student = pretrained(
        home / "student", hidden_size=128, intermediate_size=192, num_heads=4, num_kv_heads=2, head_dim=32
    )
    (home / "my_agent.py").write_text(agent_of(ROOT / "docs/howto/own-agent.md"))
    process = train(
        home,
        (
            *(each for each in PRETRAINED if not each.startswith("sft.demos")),
            f"model.path={student}",
            "env.dialect=natural",
            "harness.command=python my_agent.py",
            "compute.sampler=vllm",
            "vllm.threads=1",
            "sft.demos=0",
        ),
    )
    assert process.wait(timeout=1200) == 0, (home / "said").read_text()
    segments = segments_in(home / "runs/run", "trajectories/rl-*.parquet")
    versions = [{span.version for span in segment.tokens.versions} for segment in segments]
    assert len(segments) >= 8 and all(len(each) == 1 for each in versions)
    assert len(set.union(*versions)) == 2, "each step samples with the weights of the step before"
    lines = [json.loads(line) for line in (home / "runs/run/metrics.jsonl").read_text().splitlines()]
    assert all(line["attempt/void_num"] == 0 for line in lines if "policy/loss" in line)
