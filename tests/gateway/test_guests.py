"""Agents of somebody's own, in processes of their own, against the solo harness: the same tokens, versions
and calls.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from array import array
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import anyio
import pytest
from tests.gateway.test_parity import require_same
from tests.render.test_chat import TEMPLATES, write

from agito.harness import SOLO, SoloHarness
from agito.harness.foreign import CommandHarness
from agito.protocols import Agent, AgentSpec, Harness, Renderer, Row, Sampled, SampleRequest
from agito.render import read_chat
from agito.testing import FakeEnvironment, FakeSession
from agito.testing.fakes import TOOLS, call
from agito.types import AttemptId, FinishReason, Limits, TerminationReason, Trajectory, span

pytestmark = pytest.mark.anyio
GUESTS = Path(__file__).with_name("peers")
LIMITS = Limits(turns=9, calls=20, tokens=4000, turn_tokens=200)
TASK = replace(FakeEnvironment().task(split="train", index=0, seed=0)[0], limits=LIMITS)


class Choosing:
    """An engine that draws one of several sensible turns, keyed as engines key their draws: by seed and
    position.
    """

    context = 1 << 13

    def __init__(self, renderer: Renderer, *, answers_after_s: float = 0.0) -> None:
        self.answers_after_s = answers_after_s
        self.turns = [
            renderer.action(calls, TOOLS)
            for calls in (
                [call("open", 1)],
                [call("open", 2), call("open", "é\n")],
                [call("open", 5)],
                [call("submit", 3)],
            )
        ]
        self.num_asked = self.num_open = 0

    def open(self, seed: int) -> Row:
        self.num_open += 1
        return _ChoosingRow(self, seed)


class _ChoosingRow:
    def __init__(self, engine: Choosing, seed: int) -> None:
        self._engine, self._seed, self._ids, self._is_open = engine, seed, array("i"), True

    async def sample(self, request: SampleRequest) -> Sampled:
        engine = self._engine
        engine.num_asked += 1
        await anyio.sleep(engine.answers_after_s)
        self._ids.extend(request.extend)
        drawn = hashlib.sha256(f"{self._seed}/{len(self._ids)}".encode()).digest()[0]
        ids = engine.turns[3 if engine.num_asked > 5 else drawn % 3][: request.max_tokens]
        self._ids.extend(ids)
        logprobs = array("f", [-(token % 7 + 1) / 8 * request.temperature for token in ids])
        stopped = FinishReason.END if ids[-1] in request.stop_ids else FinishReason.LENGTH
        return Sampled(
            ids=ids,
            logprobs=logprobs,
            stopped=stopped,
            versions=span(engine.num_asked, len(request.extend) + len(ids)),
        )

    def branch(self, seed: int) -> Row:
        raise AssertionError("nobody branches here")

    async def close(self) -> None:
        self._engine.num_open -= self._is_open
        self._is_open = False


async def attempt(harness: Harness, renderer: Renderer, session: FakeSession | None = None) -> Trajectory:
    engine = Choosing(renderer)
    agent = Agent(spec=AgentSpec(renderer=renderer, temperature=0.7), engine=engine)
    found = await harness.run(
        TASK, session or FakeSession(), {SOLO: agent}, AttemptId(group=0, slot=0), seed=11
    )
    assert engine.num_open == 0
    return found


@pytest.fixture
def renderer(tmp_path: Path) -> Renderer:
    return read_chat(write(tmp_path, "byte level", TEMPLATES["chatml"]))


@lru_cache
def python_with(*packages: str) -> str:
    """The interpreter of `AGITO_GUESTS`, or this one, if it has the packages. Skips otherwise."""
    python = os.environ.get("AGITO_GUESTS") or sys.executable
    code = f"import {', '.join(packages)}"
    if subprocess.run([python, "-c", code], capture_output=True, timeout=60, check=False).returncode:
        pytest.skip(f"needs {' and '.join(packages)}: name a Python that has them by AGITO_GUESTS")
    return python


async def require_parity(command: str, renderer: Renderer) -> None:
    expected = await attempt(SoloHarness(), renderer)
    found = await attempt(CommandHarness(command, seconds=30), renderer)
    assert found.end is expected.end is TerminationReason.SUBMITTED, found.detail
    require_same(found.segments, expected.segments)
    assert found.turns == expected.turns
    ours, theirs = (
        [
            (event.call.tool, event.call.arguments, event.text, event.left and event.left.turns)
            for event in each.events
        ]
        for each in (found, expected)
    )
    assert ours == theirs
    assert found.detail.startswith(f"{len(found.turns) - 1} of {len(found.turns) - 1} turns")


@pytest.mark.parametrize("command", [f"python {GUESTS / 'plain.py'}", f"{GUESTS / 'plain.py'}:main"])
async def test_an_agent_of_ones_own_samples_what_the_solo_harness_samples(
    command: str, renderer: Renderer
) -> None:
    await require_parity(command, renderer)


@pytest.mark.parametrize("how", ["", " stream"])
@pytest.mark.parametrize(
    ("api", "package"), [("chat", "openai"), ("responses", "openai"), ("messages", "anthropic")]
)
async def test_an_agent_over_the_official_sdk_samples_what_the_solo_harness_samples(
    api: str, package: str, how: str, renderer: Renderer
) -> None:
    await require_parity(f"{python_with(package)} {GUESTS / 'sdk.py'} {api}{how}", renderer)
