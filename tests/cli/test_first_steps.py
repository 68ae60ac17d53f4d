"""What somebody new does first, and what is said to them when it does not work."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.cli.conftest import COIN, Agito, HereIn, sets

from agito.record import RunDir

OWN = """
from agito.testing import FakeEnvironment


class Own(FakeEnvironment):
    name = "own"
    splits = ("train", "heldout")

    def task(self, **which):
        if which["split"] not in self.splits:
            raise ValueError("no such split")
        return super().task(**which)


class Rare(FakeEnvironment):
    async def grade(self, sealed, key, grade_seed):
        if sealed.task_id.endswith(("1", "3")):
            raise KeyError("colour")
        return await super().grade(sealed, key, grade_seed)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "env.levels=[77]"], "env.levels=77: own has 1, 2"),
        (["--set", 'env.families=["coim"]'], "env.families=coim: own has coin; did you mean coin?"),
        (["--set", 'sft.weights={"foo"=1.0}'], "there is no cell foo"),
        (["--set", "rl.stepz=3"], "did you mean steps?"),
    ],
)
def test_a_typo_is_found_before_anything_is_audited_moved_or_made(
    agito_here: Agito, home: Path, words: list[str], said: str
) -> None:
    with RunDir.create(home / "runs/own", "", {}):
        pass
    before = sorted(path.name for path in (home / "runs").iterdir())
    done = agito_here("train", "--env", "own.py:Own", *words, expect=3)
    assert said in done.stderr
    assert "auditing" not in done.stderr
    assert sorted(path.name for path in (home / "runs").iterdir()) == before
    assert not (home / ".cache/agito/cards").exists()


def test_an_environment_without_a_structural_split_is_trained_on_and_its_evaluation_left_out(
    agito: Agito, home: Path
) -> None:
    tiny = [override for override in COIN if not override.startswith("env.")]
    done = agito("train", "--env", "own.py:Own", "--admit-anyway", *sets(*tiny, "rl.steps=1"))
    assert done.stderr.count("has no split `structural`") == 1
    summary = json.loads((home / "runs/own/summary.json").read_text())
    assert summary["success_structural"] is None and summary["success_after"] is not None
    assert f'name = "{home}/own.py:Own"' in (home / "runs/own/config.toml").read_text()


def test_eval_shows_why_attempts_have_no_verdict_and_success_over_all_tasks(
    coin_home: Path, home: Path, here_in: HereIn
) -> None:
    agito = here_in(home)
    run = str(coin_home / "runs/coin")
    done = agito("eval", run, "--env", "own.py:Rare", "--n", "12", "--level", "1")
    assert "void as failure" in done.stdout
    assert "success over all tasks, void or not" in done.stdout
    assert "KeyError: 'colour'" in done.stdout
    told = json.loads(
        agito("eval", run, "--env", "own.py:Rare", "--n", "12", "--level", "1", "--json").stdout
    )["policy"]
    assert told["void"] > 0 and told["num_all"] == 12 and told["num"] == 12 - told["void"]
    assert "KeyError" in next(iter(told["void_causes"]))


class Refusing(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        code = {"/key/v1": 401, "/gone/v1": 404, "/page/v1": 200}[self.path.removesuffix("/chat/completions")]
        body = b"<html>hello</html>" if code == 200 else b'{"error": {"message": "no such key"}}'
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        return


@pytest.fixture(scope="module")
def refusing() -> Generator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (
            "/key/v1",
            'answers 401 Unauthorized: {"error": {"message": "no such key"}}; the key comes from '
            "OPENAI_API_KEY",
        ),
        ("/gone/v1", "the address ends in /v1, and --model is a name that it serves"),
        ("/page/v1", "Expecting value"),
        ("", "cannot be reached"),
    ],
)
def test_an_endpoint_that_refuses_is_an_error_that_says_so(
    agito_here: Agito, refusing: str, place: str, said: str
) -> None:
    url = refusing + place if place else "http://127.0.0.1:1/v1"
    done = agito_here("eval", "--suite", "decisions", "--endpoint", url, "--n", "9", expect=14)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("agito: error: ")]
    assert said in line and url in line
    assert done.stdout == ""


@pytest.mark.parametrize("url", ["notaurl", "ftp://host/v1", "http://", "localhost:8000/v1"])
def test_what_is_no_address_is_said_to_be_none(agito_here: Agito, url: str) -> None:
    assert (
        "write an address, such as http://localhost:8000/v1"
        in agito_here("eval", "--suite", "decisions", "--endpoint", url, expect=3).stderr
    )


def test_an_endpoint_without_anything_to_do_is_wrong_usage(agito_here: Agito) -> None:
    assert "add --env ENV" in agito_here("eval", "--endpoint", "http://localhost:8000/v1", expect=2).stderr


def test_resuming_a_run_that_another_process_writes_says_that_and_nothing_else(
    coin_home: Path, tmp_path: Path, here_in: HereIn
) -> None:
    config = (coin_home / "runs/coin/config.toml").read_text()
    with RunDir.create(tmp_path / "run", config, {}):
        done = here_in(tmp_path)("train", "--resume", "run", expect=1)
    assert "is writing this run" in done.stderr
    assert "stopped" not in done.stderr


def test_a_place_that_cannot_be_written_is_found_before_the_audit(agito_here: Agito, home: Path) -> None:
    (home / "file").write_text("")
    done = agito_here("train", "--env", "own.py:Own", "--out", "file/run", expect=4)
    assert "is no folder" in done.stderr and "auditing" not in done.stderr


def test_recipes_lists_them_and_every_key_of_one(agito_here: Agito) -> None:
    listed = agito_here("recipes").stdout
    for word in ("quickstart", "web-text", "From random weights to an agent that uses a real shell"):
        assert word in listed
    keys = agito_here("recipes", "smoke").stdout
    for word in ("env.families", '["find"]', "trainer.loss.clip_high", "monitor.void_limit"):
        assert word in keys
