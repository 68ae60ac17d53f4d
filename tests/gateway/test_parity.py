"""The same task, policy, seed and temperature through the solo harness and through a client's loop: the same
tokens, to the bit.
"""

from __future__ import annotations

import json
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.conftest import Served, real_engine, serving
from tests.render.test_chat import TEMPLATES, write

from agito.gateway import Terms
from agito.harness import SOLO, SoloHarness
from agito.protocols import Agent, AgentSpec, Renderer
from agito.render import NaturalRenderer, Vocabulary, read_chat
from agito.render.messages import answered
from agito.testing import FakeEnvironment, FakeSession
from agito.testing.fakes import TOOLS
from agito.types import AttemptId, Budget, Call, Dialect, Event, Limits, Segment, Task, Trajectory

pytestmark = pytest.mark.anyio
LIMITS = Limits(turns=6, calls=12, tokens=4000, turn_tokens=24)
TASK = replace(FakeEnvironment().task(split="train", index=0, seed=0)[0], limits=LIMITS)
SEED = 77


async def solo(renderer: Renderer, temperature: float) -> Trajectory:
    async with real_engine(renderer.vocab_size) as engine:
        agent = Agent(spec=AgentSpec(renderer=renderer, temperature=temperature), engine=engine)
        return await SoloHarness().run(
            TASK, FakeSession(), {SOLO: agent}, AttemptId(group=0, slot=0), seed=SEED
        )


def opening(renderer: Renderer, task: Task) -> list[dict[str, Any]]:
    """What a client has to send to be shown what an episode shows."""
    turns = f"You have {task.limits.turns} turns."
    if isinstance(renderer, NaturalRenderer):
        return [
            {"role": "system", "content": turns},
            {"role": "user", "content": task.prompt[Dialect.NATURAL]},
        ]
    return [{"role": "user", "content": f"{task.prompt[Dialect.NATURAL]}\n\n{turns}"}]


def calls_of(choice: dict[str, Any], renderer: Renderer) -> list[Call]:
    """As the solo harness reads them: an answer without a call is a mistake that goes back to the policy."""
    message = choice["message"]
    made = [
        Call(tool=each["function"]["name"], arguments=json.loads(each["function"]["arguments"]))
        for each in message.get("tool_calls", ())
    ]
    (silent,) = renderer.parse(array("i", renderer.stop_ids[:1]), TOOLS)
    problem = "the turn was cut off" if choice["finish_reason"] == "length" else silent.problem
    return made or [Call(tool="", arguments={}, problem=problem)]


async def loop(served: Served, renderer: Renderer, **more: Any) -> list[Event]:
    """A client of its own over plain HTTP, which acts as the solo harness does."""
    messages, session, events = opening(renderer, TASK), FakeSession(), list[Event]()
    for number in range(LIMITS.turns):
        found = await served.ask(messages, max_tokens=LIMITS.turn_tokens, **more)
        choice = found["choices"][0]
        calls = calls_of(choice, renderer)[: LIMITS.calls - len(events)]
        left = Budget(
            turns=LIMITS.turns - number - 1, calls=LIMITS.calls - len(events) - len(calls), tokens=0
        )
        new = await session.act(calls, left)
        events.extend(new)
        if new[-1].ended or len(events) >= LIMITS.calls:
            break
        messages.append(choice["message"])
        ids = [each["id"] for each in choice["message"].get("tool_calls", ())] or [""]
        messages += [
            {"role": "tool", "tool_call_id": each, "content": answered(event)}
            for each, event in zip(ids, new, strict=False)
        ]
    return events


def require_same(found: tuple[Segment, ...], expected: tuple[Segment, ...]) -> None:
    assert len(found) == len(expected) == 1
    ours, theirs = found[0].tokens, expected[0].tokens
    assert ours.ids == theirs.ids
    assert ours.logprobs.tobytes() == theirs.logprobs.tobytes()
    assert ours.kinds == theirs.kinds and ours.channels == theirs.channels
    assert ours.versions == theirs.versions


@pytest.fixture(params=["natural", "chatml", "qwen", "no system"])
def renderer(request: pytest.FixtureRequest, vocabulary: Vocabulary, tmp_path: Path) -> Renderer:
    return (
        NaturalRenderer(vocabulary)
        if request.param == "natural"
        else read_chat(write(tmp_path, "byte level", TEMPLATES[request.param]))
    )


@pytest.mark.parametrize("temperature", [1.0, 0.6])
async def test_a_clients_loop_samples_what_the_solo_harness_samples_to_the_bit(
    renderer: Renderer, temperature: float
) -> None:
    expected = await solo(renderer, temperature)
    async with real_engine(renderer.vocab_size) as engine, serving(engine, renderer) as served:
        await loop(served, renderer, seed=SEED, temperature=temperature)
        found, _ = served.conversations.record()
        assert served.conversations.tree.meter.share_of_turns == 1.0
    require_same(found, expected.segments)


async def test_in_training_the_recipes_sampling_overrides_the_clients(vocabulary: Vocabulary) -> None:
    renderer = NaturalRenderer(vocabulary)
    expected = await solo(renderer, 0.6)
    async with real_engine(renderer.vocab_size) as engine:
        terms = Terms(limits=LIMITS, overrides=True)
        async with serving(engine, renderer, seed=SEED, terms=terms, temperature=0.6) as served:
            await loop(
                served, renderer, seed=1, temperature=0, top_p=0.1, logit_bias={"5": 3}, frequency_penalty=1
            )
            found, _ = served.conversations.record()
    require_same(found, expected.segments)


async def test_a_stream_says_what_the_whole_answer_says(vocabulary: Vocabulary) -> None:
    renderer = NaturalRenderer(vocabulary)
    said: list[str] = []
    for streams in (False, True):
        async with real_engine(renderer.vocab_size) as engine, serving(engine, renderer) as served:
            body = {
                "model": "policy",
                "messages": opening(renderer, TASK),
                "seed": SEED,
                "max_tokens": 40,
                "stream": streams,
            }
            response = await served.client.post("/v1/chat/completions", json=body)
            if not streams:
                said.append(response.json()["choices"][0]["message"]["content"])
                continue
            chunks = [
                json.loads(line[6:]) for line in response.text.split("\n\n") if line.startswith("data: {")
            ]
            said.append("".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks))
            assert len(chunks) > 4 and response.text.endswith("data: [DONE]\n\n")
            segments, turns = served.conversations.record()
            assert [turn.stop - turn.start for turn in turns] == [40] and len(segments) == 1
    assert said[0] == said[1] and said[0]
