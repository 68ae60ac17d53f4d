"""The scorecard: hand-worked intervals, and a served model measured over real HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from agito.errors import EndpointFailed
from agito.evaluation import scorecard
from agito.evaluation.scorecard import Scorecard, estimate
from agito.harness.endpoint import ChatHarness
from agito.recipe import EnvSection, MixSection, Recipe
from agito.record.events import ignore
from agito.types import Status


def test_a_share_has_its_exact_interval_and_a_mean_the_normal_one() -> None:
    share = estimate([1.0] * 9 + [0.0])
    # Clopper and Pearson, 1934
    assert (share.value, round(share.low, 3), round(share.high, 3)) == (0.9, 0.555, 0.997)
    mean = estimate([1.0, 2.0, 3.0, 4.0])
    assert mean.value == 2.5 and mean.high - 2.5 == pytest.approx(1.96 * (5 / 3) ** 0.5 / 2, rel=1e-4)


def test_a_checkpoint_of_several_environments_is_scored_on_the_suite_alone() -> None:
    mix = (MixSection(name="shell"), MixSection(name="desk"))
    recipe = Recipe(env=EnvSection(name="decisions", levels=(2,), mix=mix))
    assert scorecard.recipe_for("decisions", recipe).env.names == ("decisions",)
    own = Recipe(env=EnvSection(name="decisions", levels=(2,)))
    assert scorecard.recipe_for("decisions", own) is own


def answer(messages: list[dict[str, Any]]) -> tuple[str, str]:
    """A ledger in a few lines: every `name value,` that was read, and the question that comes last."""
    known: dict[str, str] = {}
    question = ""
    for text in (
        message["content"].rsplit("It begins: ")[-1].split("\n")[0]
        for message in messages
        if message["role"] in ("user", "tool")
    ):
        *facts, question = text.split(", ")
        known |= dict(fact.split(" ") for fact in facts)
    name = question.rstrip("?")
    return name, known.get(name, "gone")


class Served(BaseHTTPRequestHandler):
    """Speaks the chat-completions protocol; the model `mute` never calls a tool, `broken` fails, `weary`
    fails on every other request.
    """

    asked = 0

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/chat/completions" and body["tools"][0]["function"]["name"] == "say"
        Served.asked += 1
        if body["model"] == "broken" or (body["model"] == "weary" and Served.asked % 2):
            self.send_error(500)
            return
        message: dict[str, Any] = {"role": "assistant", "content": "let me think"}
        if body["model"] != "mute":
            name, value = answer(body["messages"])
            function = {"name": "say", "arguments": json.dumps({"name": name, "value": value})}
            message = {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": function}],
            }
        reply = json.dumps({"choices": [{"message": message}], "usage": {"completion_tokens": 7}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *args: object) -> None:
        return


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Served)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/"
    server.shutdown()
    thread.join()
    server.server_close()


async def score(url: str, model: str) -> Scorecard:
    recipe = Recipe(env=EnvSection(name="decisions", families=("ledger",), levels=(1, 2)))
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        harness = ChatHarness(client, model)
        return await scorecard.of_endpoint(
            harness, model, recipe, ignore, suite="decisions", split="heldout", num_tasks=12
        )


@pytest.mark.anyio
async def test_any_endpoint_takes_the_place_of_a_checkpoint_and_is_measured_beside_optimum_null_and_random(
    url: str,
) -> None:
    card = await score(url, "ledger-in-a-few-lines")
    assert [column.name for column in card.columns] == ["ledger-in-a-few-lines", "optimum", "null", "random"]
    policy, optimum, null, random = card.columns
    assert policy.success.success == optimum.success.success == 1.0
    assert null.success.success == random.success.success == 0.0
    assert policy.estimate("ledger_contradictions").value == 0.0
    assert random.estimate("ledger_contradictions").value > 0.8
    assert all(
        reading.attempt.trajectory.num_sampled == 7 * len(reading.attempt.trajectory.events)
        for reading in policy.readings
    )
    json.dumps(card.to_json(), allow_nan=False)


@pytest.mark.anyio
async def test_a_model_that_calls_no_tool_is_told_so_and_fails(url: str) -> None:
    mute = (await score(url, "mute")).columns[0]
    assert mute.success.success == 0.0
    assert "no tool was called" in mute.readings[0].attempt.trajectory.events[0].text


@pytest.mark.anyio
async def test_an_attempt_that_the_endpoint_fails_is_void_and_counted_with_its_cause(url: str) -> None:
    card = await score(url, "weary")
    weary = card.columns[0]
    void = [reading for reading in weary.readings if reading.attempt.verdict.status is Status.VOID]
    assert weary.void == len(void) > 0
    assert weary.over_all.num == 12
    told = card.to_json()
    assert "answers N Internal Server Error" in str(told["void_causes"])
    assert told["void"] == {"weary": len(void), "optimum": 0, "null": 0, "random": 0}


@pytest.mark.anyio
async def test_an_endpoint_that_never_answers_is_an_error_in_plain_words_as_soon_as_that_is_clear(
    url: str,
) -> None:
    before = Served.asked
    with pytest.raises(EndpointFailed, match="answers 500 Internal Server Error"):
        await score(url, "broken")
    assert Served.asked - before < 24
    with pytest.raises(EndpointFailed, match=r"http://127\.0\.0\.1:1/v1 cannot be reached"):
        await score("http://127.0.0.1:1/v1", "any")
