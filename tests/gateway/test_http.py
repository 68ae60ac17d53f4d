"""What clients get wrong, and what networks do to them: statuses and bodies that the SDKs know."""

from __future__ import annotations

import contextlib
import gc
import json
import socket
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from starlette.applications import Starlette
from tests.gateway.conftest import KEY, Served, offers, real_engine, serving

from agito.errors import RequestRefused
from agito.gateway import Conversations, Gateway, Refused, Terms, listening
from agito.gateway.app import MOST_BYTES
from agito.protocols import Agent, AgentSpec, Row, Sampled, SampleRequest
from agito.render import NaturalRenderer, Vocabulary
from agito.testing import ByteRenderer, FakeEngine, ReplayEngine
from agito.testing.engines import FakeRow
from agito.testing.fakes import TOOLS, call
from agito.types import Dialect, FinishReason, Limits

pytestmark = pytest.mark.anyio
RENDERER = ByteRenderer(Dialect.NATURAL)
CALL = list(RENDERER.action((call("open", 1),), TOOLS))
HI: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "policy", "messages": HI},
    "/v1/responses": {"model": "policy", "input": "hi"},
    "/v1/messages": {"model": "policy", "messages": HI, "max_tokens": 20},
}


@pytest.fixture
async def served() -> AsyncGenerator[Served]:
    async with serving(ReplayEngine(turns=[CALL])) as found:
        yield found


def told(response: httpx.Response) -> dict[str, Any]:
    """The error, whose place in the body is its API's."""
    body = response.json()
    if response.url.path.startswith("/v1/messages"):
        assert body["type"] == "error"
    assert response.headers["x-should-retry"] == "false"
    return body["error"]


CHAT = [
    ({"model": None}, "model"),
    ({"model": 7}, "model"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0].type",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": 3}}]}]},
        "messages[0].tool_calls[0].function.name",
    ),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    (
        {"tools": [{"type": "function", "function": {"name": "x", "parameters": []}}]},
        "tools[0].function.parameters",
    ),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "fly"}}, "tools": offers()}, "tool_choice"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": 3}, "temperature"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"n": 17}, "n"),
    ({"stop": [1]}, "stop"),
    ({"stop": list("abcde")}, "stop"),
    ({"response_format": {"type": "json_object"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.type"),
    ({"top_logprobs": 3, "logprobs": True}, "top_logprobs"),
    ({"logit_bias": {"5": 1}}, "logit_bias"),
    ({"frequency_penalty": 0.5}, "frequency_penalty"),
    ({"reasoning_effort": "extreme"}, "reasoning_effort"),
    ({"stream": "yes"}, "stream"),
]


@pytest.mark.parametrize(("change", "param"), CHAT, ids=[json.dumps(change)[:60] for change, _ in CHAT])
async def test_what_a_chat_request_has_wrong_is_named(
    change: dict[str, Any], param: str, served: Served
) -> None:
    body = BODIES["/v1/chat/completions"] | change
    response = await served.client.post(
        "/v1/chat/completions", json={key: value for key, value in body.items() if value is not None}
    )
    assert response.status_code == 400
    error = told(response)
    assert error["param"] == param and error["type"] == "invalid_request_error" and param in error["message"]
    assert not served.conversations.tree.lines


OTHERS = [
    ("/v1/responses", {"previous_response_id": "resp_1"}),
    ("/v1/responses", {"background": True}),
    ("/v1/responses", {"input": []}),
    ("/v1/responses", {"input": [{"type": "item_reference", "id": "x"}]}),
    ("/v1/responses", {"tools": [{"type": "web_search"}]}),
    ("/v1/responses", {"text": {"format": {"type": "json_schema"}}}),
    ("/v1/messages", {"max_tokens": None}),
    ("/v1/messages", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}),
    (
        "/v1/messages",
        {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "name": "x", "input": 3}]}]},
    ),
    ("/v1/messages", {"thinking": {"type": "perhaps"}}),
    ("/v1/messages", {"tool_choice": {"type": "some"}}),
    ("/v1/messages", {"top_k": 5}),
]


@pytest.mark.parametrize(
    ("path", "change"), OTHERS, ids=[f"{path} {json.dumps(change)[:50]}" for path, change in OTHERS]
)
async def test_what_cannot_be_honoured_is_refused_in_the_other_apis_too(
    path: str, change: dict[str, Any], served: Served
) -> None:
    body = {key: value for key, value in (BODIES[path] | change).items() if value is not None}
    response = await served.client.post(path, json=body)
    assert response.status_code == 400 and told(response)["type"] == "invalid_request_error"
    assert not served.conversations.tree.lines


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 400),
        (b"", 400),
        (b"[]", 400),
        (b"\xff\xfe", 400),
        (b'{"model": NaN}', 400),
        (b"[" * 100_000, 400),
        (b" " * (MOST_BYTES + 1), 413),
    ],
    ids=["half", "empty", "list", "no utf-8", "nan", "deep", "huge"],
)
async def test_malformed_and_huge_bodies_are_refused(
    path: str, content: bytes, status: int, served: Served
) -> None:
    response = await served.client.post(path, content=content)
    assert response.status_code == status and told(response)["message"]


@pytest.mark.parametrize("path", [*BODIES, "/v1/models", "/v1/messages/count_tokens"])
@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer other"}, {"x-api-key": "other"}, {"authorization": KEY}]
)
async def test_nothing_is_answered_without_the_key(
    path: str, headers: dict[str, str], served: Served
) -> None:
    async with httpx.AsyncClient(base_url=served.url, headers=headers) as client:
        response = await client.request(
            "GET" if path.endswith("models") else "POST", path, json=BODIES.get(path, {})
        )
    assert response.status_code == 401 and told(response)["type"] == "authentication_error"


@pytest.mark.parametrize("path", BODIES)
async def test_both_ways_of_sending_the_key_are_known(path: str, served: Served) -> None:
    for headers in ({"authorization": f"bearer {KEY}"}, {"x-api-key": KEY}):
        async with httpx.AsyncClient(base_url=served.url, headers=headers) as client:
            assert (await client.post(path, json=BODIES[path])).status_code == 200


async def test_an_unknown_model_address_and_method_are_told_apart(served: Served) -> None:
    def choose(name: str) -> Conversations:
        if name != "policy":
            raise Refused(404, f"there is no model {name!r} here", code="model_not_found", param="model")
        return served.conversations

    gateway = Gateway(choose, ["policy"], key=KEY, overrides=False)
    async with (
        listening(gateway.app()) as url,
        httpx.AsyncClient(base_url=url, headers={"x-api-key": KEY}) as client,
    ):
        for path, body in BODIES.items():
            response = await client.post(path, json=body | {"model": "gpt-4o"})
            assert response.status_code == 404 and "gpt-4o" in told(response)["message"]
        assert (await client.get("/v1/models")).json()["data"][0]["id"] == "policy"
        assert (await client.get("/v1/models/policy")).json()["id"] == "policy"
        assert (await client.get("/v1/models/other")).status_code == 404
        assert (await client.post("/v1/embeddings", json={})).status_code == 404
        assert (await client.get("/v1/chat/completions")).status_code == 405


async def test_an_attempt_whose_turns_are_used_up_says_so_and_asks_for_no_retry() -> None:
    terms = Terms(limits=Limits(turns=1, turn_tokens=400, tokens=4000))
    async with serving(ReplayEngine(turns=[CALL]), terms=terms) as served:
        for path, body in BODIES.items():
            statuses = [(await served.client.post(path, json=body)).status_code for _ in range(2)]
            assert statuses[1] == 429 and statuses[0] in (200, 429)
        assert (await served.client.post("/v1/chat/completions", json=BODIES["/v1/chat/completions"])).json()[
            "error"
        ]["code"] == ("insufficient_quota")


async def test_a_context_that_is_full_is_told_as_the_sdks_know_it(served: Served) -> None:
    long = [{"role": "user", "content": "x" * 20_000}]
    response = await served.client.post("/v1/chat/completions", json={"model": "policy", "messages": long})
    assert response.status_code == 400 and told(response)["code"] == "context_length_exceeded"


class Stalling(FakeEngine):
    """Does not answer while it stalls."""

    def __init__(self, started: anyio.Event) -> None:
        super().__init__(vocab_size=259, context=4096)
        self.started, self.stalls = started, True

    def open(self, seed: int) -> Row:
        return StallingRow(self, seed)


class StallingRow(FakeRow):
    def __init__(self, engine: Stalling, seed: int) -> None:
        super().__init__(engine, seed, [])
        self._stalling = engine

    async def sample(self, request: SampleRequest) -> Sampled:
        self._stalling.started.set()
        if self._stalling.stalls:
            await anyio.sleep_forever()
        return await super().sample(request)


class GivingUp(FakeEngine):
    """Gives every request up, as one that took servers down."""

    def open(self, seed: int) -> Row:
        return GivingUpRow(self, seed, [])


class GivingUpRow(FakeRow):
    async def sample(self, request: SampleRequest) -> Sampled:
        raise RequestRefused("2 servers did not answer this request")


async def test_a_request_that_an_engine_gives_up_is_refused_alone_and_not_to_be_sent_again() -> None:
    async with serving(GivingUp(vocab_size=259, context=4096)) as served:
        for _ in range(2):
            response = await served.client.post("/v1/chat/completions", json=BODIES["/v1/chat/completions"])
            assert response.status_code == 500 and "2 servers" in told(response)["message"]
            assert response.headers["x-should-retry"] == "false"
        assert served.conversations.died is None, "the gateway goes on"


@pytest.mark.parametrize("streams", [False, True])
async def test_a_client_that_hangs_up_ends_its_request_and_nothing_else(streams: bool) -> None:
    started = anyio.Event()
    engine = Stalling(started)
    async with serving(engine) as served:
        with anyio.move_on_after(10) as scope:
            async with anyio.create_task_group() as tasks:

                async def hang_up() -> None:
                    async with httpx.AsyncClient(
                        base_url=served.url, headers={"x-api-key": KEY}, timeout=30
                    ) as client:
                        await client.post(
                            "/v1/chat/completions", json=BODIES["/v1/chat/completions"] | {"stream": streams}
                        )

                tasks.start_soon(hang_up)
                await started.wait()
                tasks.cancel_scope.cancel()
        assert not scope.cancelled_caught
        with anyio.fail_after(5):
            while any(line.is_busy for line in served.conversations.tree.lines):  # noqa: ASYNC110 - the server notices when it does
                await anyio.sleep(0.01)
        engine.stalls = False
        await served.ask(HI, max_tokens=4)
        segments, turns = served.conversations.record()
        assert len(segments) == len(turns) == 1


async def test_a_reader_that_is_slow_gets_the_whole_stream(vocabulary: Vocabulary) -> None:
    renderer = NaturalRenderer(vocabulary)
    async with real_engine(renderer.vocab_size) as engine, serving(engine, renderer) as served:
        body = {"model": "policy", "messages": HI, "seed": 2, "max_tokens": 100}
        whole = (await served.client.post("/v1/chat/completions", json=body)).json()["choices"][0]["message"][
            "content"
        ]
        said = ""
        async with served.client.stream(
            "POST", "/v1/chat/completions", json=body | {"stream": True}
        ) as response:
            async for line in response.aiter_lines():
                await anyio.sleep(0.002)
                if line.startswith("data: {"):
                    said += json.loads(line[6:])["choices"][0]["delta"].get("content", "")
        assert said == whole


async def test_several_choices_are_several_samples_of_one_prompt(vocabulary: Vocabulary) -> None:
    renderer = NaturalRenderer(vocabulary)
    async with real_engine(renderer.vocab_size) as engine, serving(engine, renderer) as served:
        found = await served.ask(HI, tools=(), n=3, max_tokens=20, logprobs=True)
        texts = {choice["message"]["content"] for choice in found["choices"]}
        assert len(texts) == 3 and [choice["index"] for choice in found["choices"]] == [0, 1, 2]
        entries = found["choices"][0]["logprobs"]["content"]
        assert found["usage"]["completion_tokens"] >= len(entries) and all(
            entry["logprob"] <= 0 for entry in entries
        )


async def test_a_seed_gives_the_same_answer_again_and_another_seed_another(vocabulary: Vocabulary) -> None:
    renderer = NaturalRenderer(vocabulary)
    async with real_engine(renderer.vocab_size) as engine, serving(engine, renderer) as served:
        said = [
            (await served.ask(HI, max_tokens=30, seed=seed))["choices"][0]["message"] for seed in (1, 1, 2)
        ]
        assert said[0] == said[1] != said[2]
        unseeded = [(await served.ask(HI, max_tokens=30))["choices"][0]["message"] for _ in range(2)]
        assert unseeded[0] != unseeded[1]


async def test_usage_counts_what_was_kept_and_what_was_sampled(served: Served) -> None:
    first = await served.ask(HI)
    message = first["choices"][0]["message"]
    second = await served.ask(
        [*HI, message, {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "ok"}]
    )
    assert first["usage"]["completion_tokens"] == len(CALL)
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == first["usage"]["total_tokens"]


async def test_agents_of_one_client_are_told_apart_by_its_own_header(served: Served) -> None:
    for session in ("planner", "worker"):
        body = {"model": "policy", "messages": HI, "tools": offers()}
        await served.client.post("/v1/chat/completions", json=body, headers={"x-session-id": session})
    segments, _ = served.conversations.record()
    assert [segment.agent for segment in segments] == ["planner", "worker"]


async def test_without_tools_and_with_tool_choice_none_what_reads_like_a_call_is_text(served: Served) -> None:
    for tools, more in (((), {}), (TOOLS, {"tool_choice": "none"})):
        choice = (await served.ask(HI, tools, **more))["choices"][0]
        assert "tool_calls" not in choice["message"] and choice["finish_reason"] == "stop"
        assert choice["message"]["content"].startswith('{"tool"')


async def test_effort_is_recorded_whatever_the_api_calls_it(served: Served) -> None:
    asked = {
        "/v1/chat/completions": {"reasoning_effort": "high"},
        "/v1/responses": {"reasoning": {"effort": "low"}},
        "/v1/messages": {"thinking": {"type": "enabled", "budget_tokens": 4000}},
    }
    for path, more in asked.items():
        assert (await served.client.post(path, json=BODIES[path] | more)).status_code == 200
    _, turns = served.conversations.record()
    assert [turn.effort.value for turn in turns] == ["high", "low", "medium"]


async def test_tokens_are_counted_before_they_are_asked_for(served: Served) -> None:
    body = {"model": "policy", "messages": HI, "system": "be brief"}
    counted = (await served.client.post("/v1/messages/count_tokens", json=body)).json()["input_tokens"]
    used = (await served.client.post("/v1/messages", json=body | {"max_tokens": 20})).json()["usage"]
    assert counted == used["input_tokens"] + used["cache_read_input_tokens"]


async def test_an_answer_cut_at_its_budget_says_so_and_is_gone_on_with_behind_a_forced_end(
    served: Served,
) -> None:
    cut = await served.ask(HI, max_tokens=5)
    assert cut["choices"][0]["finish_reason"] == "length"
    await served.ask([*HI, cut["choices"][0]["message"], {"role": "user", "content": "go on"}])
    (segment,), turns = served.conversations.record()
    assert (
        turns[0].stopped is FinishReason.LENGTH and segment.tokens.ids[turns[0].stop] == RENDERER.stop_ids[0]
    )
    assert not segment.tokens.is_sampled[turns[0].stop]


async def test_an_agent_whose_renderer_knows_no_conversations_is_refused_at_once() -> None:
    class Bare:
        dialect = Dialect.NATURAL

    agent = Agent(spec=AgentSpec(renderer=Bare()), engine=ReplayEngine(turns=[]))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Bare cannot put a client's conversation into tokens"):
        Conversations(agent, seed=0, terms=Terms())


async def test_a_connection_that_comes_as_a_server_ends_is_cut_off_and_leaves_nothing_open() -> None:
    for turns in range(6):  # of the event loop, between connecting and leaving
        async with listening(Starlette()) as url:
            link = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=5)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
        with link, contextlib.suppress(ConnectionResetError):
            assert link.recv(1) == b""
    gc.collect()  # what is not closed warns
