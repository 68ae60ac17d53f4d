"""`agito gateway` as a person meets it: one command, any client, and what was served on the disk."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import COMMAND, agito_in, environment, sets
from tests.test_resume import COIN

from agito.record.reading import read_trajectories
from agito.types import TokenSource

ROOT = Path(__file__).parents[2]
NATURAL = (
    *COIN,
    "env.dialect=natural",
    "compute.context=1024",
    "sft.demos=16",
    "sft.epochs=1",
    "rl.steps=1",
    "eval.tasks=2",
    "model.vocab_size=400",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained through somebody's own agent, from an empty folder."""
    home = tmp_path_factory.mktemp("own")
    (home / "my_agent.py").write_text(agent_of(ROOT / "docs" / "howto" / "own-agent.md"))
    overrides = sets(*NATURAL, "harness.command=python my_agent.py")
    agito_in(home)("train", "quickstart", "--name", "mine", "--admit-anyway", *overrides)
    return home / "runs/mine"


@contextlib.contextmanager
def served(run: Path, *more: str) -> Generator[tuple[str, subprocess.Popen[str]]]:
    home = run.parents[1]
    process = subprocess.Popen(
        [*COMMAND, "gateway", str(run), "--port", "0", "--key", "k", *more],
        cwd=home,
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield line.split("OPENAI_BASE_URL=")[1].split()[0], process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def post(url: str, body: dict[str, Any], key: str = "k") -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def agent_of(page: Path) -> str:
    """The Python of the guide, as it stands."""
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    return code


def test_a_run_trained_through_somebodys_own_agent_learned_from_exactly_what_it_sampled(run: Path) -> None:
    for phase in ("demo", "before", "rl", "after"):
        attempts = [
            each.attempt
            for path in run.glob(f"trajectories/{phase}-*.parquet")
            for each in read_trajectories(path)
        ]
        assert attempts, phase
        for attempt in attempts:
            trajectory = attempt.trajectory
            assert attempt.is_scored
            assert re.search(r"stayed on their segment|\b1 answered;", trajectory.detail)
            assert trajectory.turns and len(trajectory.segments) == 1
            for turn in trajectory.turns:
                kinds = trajectory.segments[0].tokens.kinds[turn.start : turn.stop]
                assert set(kinds) <= {TokenSource.SAMPLED, TokenSource.CONTROL}


def test_what_one_command_served_is_kept_through_a_kill_and_a_second_server_writes_beside_it(
    run: Path, tmp_path: Path
) -> None:
    messages = [{"role": "user", "content": "find the coin"}]
    body = {"model": "mine", "messages": messages, "max_tokens": 12, "seed": 3}
    with served(run, "--record", str(tmp_path)) as (url, process):
        first = post(f"{url}/chat/completions", body)
        again = post(f"{url}/chat/completions", body)
        assert first["choices"] == again["choices"]
        more = [*messages, first["choices"][0]["message"], {"role": "user", "content": "go on"}]
        post(f"{url}/chat/completions", body | {"messages": more})
        with pytest.raises(urllib.error.HTTPError, match="401"):
            post(f"{url}/chat/completions", body, key="other")
        ends = time.monotonic() + 30
        while num_kept(tmp_path) < 3 and time.monotonic() < ends:
            time.sleep(0.05)
        process.kill()
    with served(run, "--record", str(tmp_path)) as (url, _):
        post(f"{url}/chat/completions", body)
    parts = [
        [each.attempt.trajectory for each in read_trajectories(path)]
        for path in sorted(tmp_path.glob("*.parquet"))
    ]
    assert [sorted(len(each.turns) for each in part) for part in parts] == [[1, 2], [1]]
    assert len({each.attempt.group for part in parts for each in part}) == 3
    sampled = {
        sum(each.segments[0].tokens.is_sampled) for part in parts for each in part if len(each.turns) == 1
    }
    assert sampled == {first["usage"]["completion_tokens"]}


def num_kept(folder: Path) -> int:
    """Turns."""
    found = [each for path in folder.glob("served-*.parquet") for each in read_trajectories(path)]
    return sum(len(each.attempt.trajectory.turns) for each in found)


def test_a_port_that_is_taken_is_said_in_one_line_before_a_model_is_loaded(run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = agito_in(run.parents[1])("gateway", str(run), "--port", port, expect=None)
    assert done.returncode != 0 and f"port {port}" in done.stderr and "--port" in done.stderr
