"""An endpoint in the place of a policy: what it is sent, to the token, and what becomes of its answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.render.test_chat import CHATML, QWEN, write

from agito.harness.endpoint import ChatHarness
from agito.render import read_chat
from agito.testing import FakeEnvironment, FakeSession
from agito.testing.fakes import TOOLS, call
from agito.types import AttemptId, FinishReason, TerminationReason, Trajectory

pytestmark = pytest.mark.anyio
TASK, _ = FakeEnvironment().task(split="train", index=0, seed=0)


def using(*boxes: object, **more: Any) -> dict[str, Any]:
    """A message that opens boxes."""
    functions = [{"name": "open", "arguments": json.dumps({"box": str(box)})} for box in boxes]
    uses = [{"id": f"c{at}", "type": "function", "function": each} for at, each in enumerate(functions)]
    return {"role": "assistant", "content": None, "tool_calls": uses, **more}


async def played(
    answers: Sequence[dict[str, Any]], turn_tokens: int | None = 99
) -> tuple[Trajectory, list[dict[str, Any]]]:
    """What an endpoint that answers so comes to, and what it was sent."""
    asked: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        return httpx.Response(200, json=answers[len(asked) - 1])

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://at/v1") as client:
        harness = ChatHarness(client, "m", turn_tokens=turn_tokens)
        attempt = AttemptId(group=0, slot=0)
        return await harness.run(TASK, FakeSession(), {}, attempt, seed=0), asked


def choice(
    message: dict[str, Any], reason: str = "tool_calls", *, usage: dict[str, int] | None = None
) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": reason}], "usage": usage}


def as_served(message: dict[str, Any]) -> dict[str, Any]:
    """As vLLM gives it to a chat template: arguments are objects, and no text is an empty one."""
    uses = [
        use | {"function": use["function"] | {"arguments": json.loads(use["function"]["arguments"])}}
        for use in message.get("tool_calls", [])
    ]
    return message | {"content": message["content"] or ""} | ({"tool_calls": uses} if uses else {})


@pytest.mark.parametrize("template", [CHATML, QWEN], ids=["Hermes put around it", "a template with tools"])
async def test_an_endpoint_is_shown_the_very_tokens_that_a_policy_of_ours_is_shown(
    tmp_path: Path, template: str
) -> None:
    """So a policy that was trained here reads, when it is served, what it has learned to read."""
    write(tmp_path, "byte level", template)
    renderer = read_chat(tmp_path)
    found, asked = await played([choice(using(1)), choice(using(2, "é")), *[{"choices": []}]])
    tokens = renderer.opening(TASK)
    for turn, boxes in enumerate(([1], [2, "é"], [])):
        messages = [*map(as_served, asked[turn]["messages"]), {"role": "assistant", "content": "zebra"}]
        ((ids, trainable),) = renderer.stretches(messages, asked[turn]["tools"])
        assert ids[: trainable.rindex(0) + 1] == tokens, f"turn {turn}"
        if boxes:
            events = [found.events[index] for index in found.turns[turn].calls]
            tokens += renderer.action([call("open", box) for box in boxes], TOOLS)
            tokens += renderer.observation(events)
    assert len(asked) == 3 and "[58 turns left]" in asked[2]["messages"][-1]["content"]


async def test_a_served_policy_of_ours_is_held_to_the_tokens_that_its_attempts_had() -> None:
    limits = TASK.limits
    usage = {"completion_tokens": 40, "prompt_tokens": limits.tokens - 60}
    last = {"completion_tokens": 8, "prompt_tokens": limits.tokens - 8}
    found, asked = await played(
        [choice(using(1), usage=usage), choice(using(2), usage=last)], turn_tokens=None
    )
    assert [body["max_tokens"] for body in asked] == [limits.turn_tokens, 20]
    assert (found.end, found.fault) == (TerminationReason.TOKENS, None)
    _, asked = await played([choice(using(1), usage=last), {"choices": []}])
    assert [body["max_tokens"] for body in asked] == [99, 99]


async def test_an_answer_is_sent_back_without_fields_that_say_nothing() -> None:
    """A server's `"tool_calls": []`, or a null, is refused by others when it comes back."""
    silent = {"role": "assistant", "content": None, "tool_calls": [], "refusal": None, "audio": None}
    thought = using(1, refusal=None, reasoning_content="first one")
    _, asked = await played([choice(silent, "stop"), choice(thought), {"choices": []}])
    sent = [message for message in asked[2]["messages"] if message["role"] == "assistant"]
    assert sent == [{"role": "assistant", "content": ""}, using(1, reasoning_content="first one")]


async def test_a_turn_without_a_call_is_told_why_whether_it_ended_or_was_cut_off() -> None:
    said = {"role": "assistant", "content": "let me see"}
    found, asked = await played([choice(said, "length"), choice(said, "stop"), {"choices": []}])
    assert [turn.stopped for turn in found.turns] == [FinishReason.LENGTH, FinishReason.END]
    told = [message["content"] for message in asked[2]["messages"] if message["role"] == "user"][1:]
    assert "the turn was cut off" in told[0] and "no tool was called" in told[1]
    assert told[0].startswith("[policy]\n") and told[0].endswith("[59 turns left]")
