"""Simulated users: scripted ones with a hidden goal, and ones behind a real server with the OpenAI chat
protocol.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from agito.errors import SandboxFailure
from agito.types import Call, Fault
from agito.worlds.api.http import listening
from agito.worlds.model_user import ModelUser
from agito.worlds.users import Mind, User


def user() -> User:
    mind = Mind(
        wants={"item": "lamp", "place": "home"},
        recalls={"item": "desk"},
        changes=[{"item": "rug"}, {"place": "work", "item": "bed"}],
        patience=7,
    )
    return User(mind, {"item": ("which", "item"), "place": ("where",)})


def ask(text: str) -> Call:
    return Call(tool="ask", arguments={"text": text})


def test_a_user_remembers_wrongly_once_and_changes_its_mind_when_asked_to_confirm() -> None:
    person = user()
    said = ["Which item is it?", "which", "are you sure", "Where to?", "sure?", "which", "sure"]
    assert [person.step(ask(text)).text for text in said] == [
        "desk",
        "lamp",
        "no rug",
        "home",
        "no work bed",
        "bed",
        "yes",
    ]


def test_a_user_says_nothing_about_what_it_is_not_asked_and_leaves_when_its_patience_is_gone() -> None:
    person = user()
    assert [person.step(ask(text)).text for text in ("tell me everything", "", "when")] == ["what"] * 3
    assert [person.step(ask("sure")).text for _ in range(5)] == ["no rug", "no work bed", "yes", "yes", "bye"]


async def test_a_fork_of_a_talk_changes_its_mind_by_itself() -> None:
    person = user()
    person.step(ask("which"))
    fork = await person.fork(await person.snapshot())
    assert (await fork.call(ask("sure"), timeout_s=1.0)).text == "no rug"
    assert person.step(ask("which")).text == "lamp"


@asynccontextmanager
async def chat(status: int = 200, wait_s: float = 0.0) -> AsyncGenerator[tuple[httpx.AsyncClient, list[Any]]]:
    """A real server that echoes its input, and the requests that it got."""
    seen: list[Any] = []

    async def complete(request: Request) -> JSONResponse:
        body = await request.json()
        seen.append(body)
        await anyio.sleep(wait_s)
        content = f"{len(body['messages'])}: {body['messages'][-1]['content']}"
        return JSONResponse(
            {"choices": [{"message": {"role": "assistant", "content": content}}]}, status_code=status
        )

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chat.socket"
        application = Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with (
            listening(application, path),
            httpx.AsyncClient(transport=transport, base_url="http://model/v1/") as client,
        ):
            yield client, seen


async def test_a_model_plays_the_user_and_sees_the_whole_talk() -> None:
    async with chat() as (client, seen):
        person = ModelUser("You want a lamp.", client, model="tiny", seed=3)
        assert (await person.call(ask("hello"), timeout_s=5.0)).text == "2: hello"
        fork = await person.fork(await person.snapshot())
        assert (await fork.call(ask("again"), timeout_s=5.0)).text == "4: again"
        assert (await person.call(ask("other"), timeout_s=5.0)).text == "4: other"
        assert await person.digest() != await fork.digest()
    roles = [message["role"] for message in seen[-1]["messages"]]
    assert (
        roles == ["system", "user", "assistant", "user"]
        and seen[-1]["messages"][0]["content"] == "You want a lamp."
    )
    assert (seen[-1]["model"], seen[-1]["seed"], seen[-1]["temperature"]) == ("tiny", 3, 0)


async def test_a_slow_model_is_a_timeout_and_a_broken_one_makes_the_attempt_void() -> None:
    async with chat(wait_s=0.5) as (client, _):
        answer = await ModelUser("x", client, model="tiny").call(ask("hello"), timeout_s=0.05)
        assert answer.fault is Fault.TIMEOUT
    async with chat(status=500) as (client, _):
        with pytest.raises(SandboxFailure, match="simulated user"):
            await ModelUser("x", client, model="tiny").call(ask("hello"), timeout_s=5.0)
