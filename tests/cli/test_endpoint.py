"""`agito eval --endpoint`: a served model on any environment, and on the tasks of a run."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Agito, HereIn

COIN = "agito.testing:FakeEnvironment"


class Searching(BaseHTTPRequestHandler):
    """Opens one box after another, and submits the one with the coin. The model `hasty` submits the first."""

    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked.append(body)
        said = [message["content"] for message in body["messages"] if message["role"] == "tool"]
        opened = [text for text in said if not text.startswith("[timeout]")]
        found = bool(opened) and opened[-1].startswith("coin\n")
        tool = "submit" if found or body["model"] == "hasty" else "open"
        box = len(opened) - found
        function = {"name": tool, "arguments": json.dumps({"box": str(box)})}
        uses = [{"id": f"c{len(said)}", "type": "function", "function": function}]
        message = {"role": "assistant", "content": None, "tool_calls": uses}
        reply = json.dumps({"choices": [{"message": message, "finish_reason": "tool_calls"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *args: object) -> None:
        return


@pytest.fixture
def url() -> Generator[str]:
    Searching.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Searching)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_endpoint_is_evaluated_on_any_environment_beside_its_scripts(agito_here: Agito, url: str) -> None:
    words = ("eval", "--env", COIN, "--endpoint", url, "--level", "1", "--n", "6", "--temperature", "0.5")
    found = json.loads(agito_here(*words, "--model", "patient", "--json").stdout)
    assert (found["checkpoint"], found["env"], found["num_tasks"]) == (f"{url} patient", COIN, 6)
    assert set(found["baselines"]) == {"first", "guess", "open_loop", "demonstrator", "oracle"}
    assert found["policy"]["success"] == 1.0 and found["policy"]["by_cell"]["coin-1"]["num"] == 6
    assert {body["temperature"] for body in Searching.asked} == {0.5}
    assert {body["max_tokens"] for body in Searching.asked} == {2048}
    told = agito_here(*words, "--model", "hasty", "--no-baselines", "--attempts", "2").stdout
    assert "pass@2" in told and re.search(r"all .* 12\b", told)


def test_an_endpoint_is_evaluated_on_the_tasks_of_a_run_as_one_of_its_checkpoints(
    coin_home: Path, here_in: HereIn, url: str
) -> None:
    here = here_in(coin_home)
    words = ("eval", "runs/coin", "--n", "4", "--no-baselines", "--json")
    own, served = (
        json.loads(here(*words, *more).stdout) for more in ((), ("--endpoint", url, "--model", "patient"))
    )
    for key in ("env", "split", "num_tasks", "temperature", "seed"):
        assert own[key] == served[key], key
    assert set(own["policy"]["by_cell"]) == set(served["policy"]["by_cell"])
    assert served["policy"]["success"] == 1.0
    assert {body["max_tokens"] for body in Searching.asked} == {48}, "its own limit of a turn"


def test_an_endpoint_takes_one_run_and_chooses_no_checkpoint(agito_here: Agito) -> None:
    words = ("eval", "--endpoint", "http://localhost:8000/v1")
    assert "at most one run" in agito_here(*words, "one", "two", expect=2).stderr
    assert "--choose" in agito_here(*words, "--env", COIN, "--choose", expect=2).stderr
