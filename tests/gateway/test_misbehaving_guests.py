"""A guest that hangs, floods, forks, leaves processes behind or knocks at other attempts' doors: its own
attempt's fault, and no more.
"""

from __future__ import annotations

import json
import os
import textwrap
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from tests.gateway.test_guests import TASK, Choosing, attempt
from tests.render.test_chat import TEMPLATES, write

from agito.errors import BadHarness, BadRecipe, WorkerDied
from agito.harness import SOLO, load
from agito.harness.foreign import CommandHarness
from agito.harness.foreign.command import environment
from agito.protocols import Agent, AgentSpec, Engine, Environment, Harness, Renderer
from agito.recipe import Recipe
from agito.render import read_chat
from agito.render.messages import prompt_of
from agito.rollout import AttemptRunner, Plan
from agito.testing import FakeEnvironment, FakeSession, ReplayEngine
from agito.types import AttemptId, Fault, Status, Task, TerminationReason, Trajectory

pytestmark = pytest.mark.anyio
ASKS = """
    import json, os, subprocess, sys, time, urllib.error, urllib.request
    KEY, URL = os.environ["OPENAI_API_KEY"], os.environ["OPENAI_BASE_URL"]
    HI = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    def ask(path="/chat/completions", body=HI, url=URL, key=KEY):
        headers = {"authorization": "Bearer " + key}
        try:
            request = urllib.request.Request(url + path, json.dumps(body).encode(), headers)
            return urllib.request.urlopen(request).status
        except urllib.error.HTTPError as error:
            return error.code
    ask()
"""


@pytest.fixture
def renderer(tmp_path: Path) -> Renderer:
    return read_chat(write(tmp_path, "byte level", TEMPLATES["chatml"]))


def guest(tmp_path: Path, does: str, *, asks: bool = True) -> str:
    path = tmp_path / "guest.py"
    path.write_text((textwrap.dedent(ASKS) if asks else "") + textwrap.dedent(does))
    return f"python {path}"


@pytest.mark.parametrize(
    ("does", "why"),
    [
        ("while True: pass", "its own 1 s are used up"),
        ("while True: print('x' * 100_000)", "it wrote more than 32 MiB"),
        ("while True: sys.stderr.write('y' * 100_000)", "it wrote more than 32 MiB"),
        (
            """
         while True:
             try:
                 if not os.fork():
                     os.setsid(); time.sleep(60)
             except OSError: pass
         """,
            "it runs more than 256 processes",
        ),
    ],
    ids=["hangs", "floods", "floods its errors", "forks"],
)
async def test_a_guest_that_misbehaves_is_ended_and_its_attempt_is_scored_as_it_stands(
    does: str, why: str, tmp_path: Path, renderer: Renderer
) -> None:
    seconds = 1 if "own" in why else 30
    found = await attempt(CommandHarness(guest(tmp_path, does), seconds=seconds), renderer)
    assert found.fault is None and found.end is TerminationReason.SECONDS
    assert why in found.detail and len(found.turns) == 1


async def test_nothing_that_a_guest_started_outlives_its_attempt(tmp_path: Path, renderer: Renderer) -> None:
    mark = f"31{os.getpid()}"
    does = f"""
        subprocess.Popen(["sleep", "{mark}"], start_new_session=True, env={{}})
        time.sleep(60)
    """
    await attempt(CommandHarness(guest(tmp_path, does), seconds=1), renderer)
    lines: list[bytes] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # others come and go
            lines.append(path.read_bytes())
    assert not [line for line in lines if line.startswith(b"sleep\0" + mark.encode())]


async def test_waiting_for_the_policy_or_a_tool_is_not_a_guests_own_time(
    tmp_path: Path, renderer: Renderer
) -> None:
    agent = Agent(spec=AgentSpec(renderer=renderer), engine=Choosing(renderer, answers_after_s=1.5))
    harness = CommandHarness(guest(tmp_path, "ask()"), seconds=2)
    found = await harness.run(TASK, FakeSession(), {SOLO: agent}, AttemptId(group=0, slot=0), seed=1)
    assert found.end is TerminationReason.ABANDONED and len(found.turns) == 2


async def test_a_guest_reaches_no_other_attempts_policy_or_tools(tmp_path: Path, renderer: Renderer) -> None:
    """It is told the address of another attempt that is under way, and tries its own key and none there."""
    place, statuses = tmp_path / "address", tmp_path / "statuses"
    does = f"""
        while not os.path.exists({str(place)!r}): time.sleep(0.01)
        other = open({str(place)!r}).read()
        paths = ("/chat/completions", "/messages", "/responses", "/tools/open")
        found = [ask(path, url=other, key=key) for path in paths for key in (KEY, "", "x")]
        open({str(statuses)!r}, "w").write(json.dumps(found))
    """
    victim = tmp_path / "victim"
    victim.mkdir()
    waits = f"""
        open({str(place)!r} + ".new", "w").write(URL); os.rename({str(place)!r} + ".new", {str(place)!r})
        while not os.path.exists({str(statuses)!r}): time.sleep(0.01)
    """
    found: dict[str, Trajectory] = {}

    async def run(name: str, command: str) -> None:
        found[name] = await attempt(CommandHarness(command, seconds=20), renderer)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, "attacker", guest(tmp_path, does))
        tasks.start_soon(run, "victim", guest(victim, waits))
    assert json.loads(statuses.read_text()) == [401] * 12
    assert len(found["victim"].turns) == len(found["attacker"].turns) == 1 and not found["victim"].events


async def test_its_address_is_dead_when_the_attempt_has_ended(tmp_path: Path, renderer: Renderer) -> None:
    place = tmp_path / "address"
    await attempt(CommandHarness(guest(tmp_path, f"open({str(place)!r}, 'w').write(URL)")), renderer)
    port = int(place.read_text().rpartition(":")[2].split("/")[0])
    with pytest.raises(OSError, match=r"(?i)connect"):
        await anyio.connect_tcp("127.0.0.1", port)


@pytest.mark.parametrize("does", ["import not_there", "raise SystemExit(3)", "pass"])
async def test_a_guest_that_never_asks_the_policy_says_nothing_about_it(
    does: str, tmp_path: Path, renderer: Renderer
) -> None:
    found = await attempt(CommandHarness(guest(tmp_path, does, asks=False)), renderer)
    assert found.fault is Fault.TASK and "asked for nothing" in found.detail
    assert "not_there" in found.detail or "import" not in does


async def test_turns_calls_and_the_submission_end_a_guest_at_once(tmp_path: Path, renderer: Renderer) -> None:
    ends = {}
    for name, limits in {"turns": {"turns": 2}, "calls": {"calls": 2}}.items():
        does = "\nwhile True:\n    ask(); ask('/tools/open', {'box': '1'})\n"
        agent = Agent(spec=AgentSpec(renderer=renderer), engine=Choosing(renderer))
        task = replace(TASK, limits=replace(TASK.limits, **limits))
        harness = CommandHarness(guest(tmp_path, does), seconds=20)
        found = await harness.run(task, FakeSession(), {SOLO: agent}, AttemptId(group=0, slot=0), seed=1)
        ends[name] = (found.end, len(found.turns) <= 2 or name == "calls", len(found.events) <= 2)
    assert ends == {
        "turns": (TerminationReason.TURNS, True, True),
        "calls": (TerminationReason.CALLS, True, True),
    }


async def test_an_engine_that_is_gone_is_not_the_attempts_failure(tmp_path: Path, renderer: Renderer) -> None:
    engine: Engine = ReplayEngine(turns=(), failure=WorkerDied("gone"))
    agent = Agent(spec=AgentSpec(renderer=renderer), engine=engine)
    with pytest.raises(WorkerDied):
        await CommandHarness(guest(tmp_path, "time.sleep(60)")).run(
            TASK, FakeSession(), {SOLO: agent}, AttemptId(group=0, slot=0), seed=1
        )


async def test_a_guests_attempt_is_graded_as_any_other(tmp_path: Path, renderer: Renderer) -> None:
    environment: Environment = FakeEnvironment()
    task, target = environment.task(split="train", index=0, seed=0)
    coin = str(target.data["coin"])
    rewards = []
    for box in (coin, "no box"):
        harness: Harness = CommandHarness(guest(tmp_path, f"ask('/tools/submit', {{'box': {box!r}}})"))
        runner = AttemptRunner(environment, harness, {SOLO: AgentSpec(renderer=renderer)}, seed=0)
        found = await runner.run(
            Plan(task=lambda group: (task, target)), AttemptId(group=0, slot=0), {"main": Choosing(renderer)}
        )
        assert found.verdict.status is Status.SCORED
        rewards.append(found.verdict.reward)
    assert rewards == [1.0, 0.0]


def test_a_command_that_cannot_be_started_is_refused_before_anything_begins(tmp_path: Path) -> None:
    for command in ("no-such-program x", "python not_there.py", "not_there.py:main", "'", "   "):
        with pytest.raises(BadHarness):
            load("solo", command=command or " ", folder=str(tmp_path))


def test_a_recipe_names_a_harness_or_a_command() -> None:
    made = Recipe.model_validate({"harness": {"command": "python mine.py"}})
    assert Path(made.harness.folder).is_absolute()
    assert Recipe.model_validate(made.model_dump()) == made
    with pytest.raises((ValueError, BadRecipe), match="give one of them"):
        Recipe.model_validate({"harness": {"command": "python mine.py", "name": "x.py:Mine"}})


def test_a_guest_finds_policy_tools_and_task_where_the_sdks_look(renderer: Renderer) -> None:
    task: Task = TASK
    env = environment("http://127.0.0.1:1", "secret", prompt_of(task, renderer.dialect), {})
    assert (
        env["OPENAI_BASE_URL"] == "http://127.0.0.1:1/v1"
        and env["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:1"
    )
    assert env["OPENAI_API_KEY"] == env["ANTHROPIC_API_KEY"] == "secret"
    assert "127.0.0.1" in env["NO_PROXY"] and env["AGITO_TASK"].endswith("You have 9 turns.")
    assert "AGITO_TASK" not in environment("http://127.0.0.1:1", "secret", "x" * 200_000, {})
