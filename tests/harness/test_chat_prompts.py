"""An endpoint that answers prompts in words: what it says is its answer, and tools are offered where there
are some.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from agito.envs import load
from agito.harness.endpoint import ChatHarness
from agito.rollout import EpisodeDriver
from agito.testing import FakeEnvironment, FakeSession
from agito.types import AttemptId, Effort, TerminationReason, Thinking

TOOLS = '''
def look(word: str) -> str:
    """Looks a word up."""
    return word[::-1]
'''


@pytest.mark.parametrize("has_tools", [False, True], ids=["words alone", "with a tool"])
async def test_an_endpoint_answers_prompts_in_words(tmp_path: Path, has_tools: bool) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say kev backwards."}]
    rows = [
        {"prompt": [*chat[:1], {**chat[1], "content": f"{chat[1]['content']} {at}"}], "answer": "vek"}
        for at in range(6)
    ]
    (tmp_path / "tasks.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "mine.py").write_text(
        "def reward(completion, answer):\n    return completion == answer\n" + TOOLS
    )
    tools = f",tools={tmp_path}/mine.py:look" if has_tools else ""
    environment = load(f"{tmp_path}/tasks.jsonl,reward={tmp_path}/mine.py:reward{tools}")
    asked: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        function = {"name": "look", "arguments": '{"word": "kev"}'}
        looks = has_tools and len(asked) == 1
        message = {"role": "assistant", "content": None if looks else "vek"}
        message |= {"tool_calls": [{"id": "a", "type": "function", "function": function}]} if looks else {}
        return httpx.Response(200, json={"choices": [{"message": message}]})

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://endpoint/v1")
    task, target = environment.task(split="train", index=0, seed=0)
    attempt = AttemptId(group=0, slot=0)

    async def act(session: Any) -> Any:
        return await ChatHarness(client, "m").run(task, session, {}, attempt, seed=0)

    finished = await EpisodeDriver(environment, noise_seed=0).run(task, target, attempt, act)
    assert (finished.verdict.reward, finished.trajectory.end) == (1.0, TerminationReason.SUBMITTED)
    assert [message["role"] for message in asked[0]["messages"]] == ["system", "user"]
    assert [tool["function"]["name"] for tool in asked[0].get("tools", [])] == ["look"] * has_tools
    if has_tools:
        assert asked[1]["messages"][-1] == {
            "role": "tool",
            "tool_call_id": "a",
            "content": "vek\n[7 turns left]",
        }


def test_an_endpoint_is_asked_for_an_effort_and_never_held_to_a_budget() -> None:
    client = httpx.AsyncClient(base_url="http://endpoint/v1")
    with pytest.raises(ValueError, match="cannot be held to a budget of think tokens"):
        ChatHarness(client, "m", thinking=Thinking(effort=Effort.HIGH, turn_tokens=9))


@pytest.mark.anyio
async def test_an_effort_is_said_to_an_endpoint_as_its_api_has_it() -> None:
    asked: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        call = {"name": "submit", "arguments": '{"box": "1"}'}
        message = {"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": call}]}
        return httpx.Response(200, json={"choices": [{"message": message}]})

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://endpoint/v1")
    task, _ = FakeEnvironment().task(split="train", index=0, seed=0)
    for thinking in (None, Thinking(effort=Effort.LOW)):
        harness = ChatHarness(client, "m", thinking=thinking)
        await harness.run(task, FakeSession(), {}, AttemptId(group=0, slot=0), seed=0)
    assert [body.get("reasoning_effort") for body in asked] == [None, "low"]
