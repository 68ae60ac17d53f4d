"""Guests in a sandbox of their own: the same tokens, and no way out but the gateway."""

from __future__ import annotations

import json
import os
import re
import textwrap
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from tests.gateway.test_guests import GUESTS, TASK, Choosing, attempt
from tests.gateway.test_misbehaving_guests import ASKS
from tests.gateway.test_parity import require_same
from tests.render.test_chat import TEMPLATES, write

from agito.errors import BadHarness
from agito.harness import SOLO, SoloHarness, load
from agito.harness.foreign import CommandHarness
from agito.harness.foreign.layout import layout
from agito.protocols import Agent, AgentSpec, Renderer, seen_at
from agito.recipe import Recipe
from agito.render import read_chat
from agito.testing import FakeSession
from agito.types import AttemptId, Event, Fault, TerminationReason, Trajectory
from agito.worlds.sandbox import Pool

pytestmark = pytest.mark.anyio
TELLS = """
    def tell(value):
        request = urllib.request.Request(
            os.environ["AGITO_TOOLS_URL"] + "/open", json.dumps({"box": json.dumps(value)}).encode(),
            {"authorization": "Bearer " + KEY})
        urllib.request.urlopen(request)
"""


@pytest.fixture
def renderer(tmp_path: Path) -> Renderer:
    return read_chat(write(tmp_path, "byte level", TEMPLATES["chatml"]))


def inside(
    tmp_path: Path, does: str, *, seconds: float = 20, asks: bool = True, warm: bool = True
) -> CommandHarness:
    """A guest that has asked the policy once, and `tell`s by a call of a tool."""
    folder = tmp_path / "agent"
    folder.mkdir(exist_ok=True)
    before = textwrap.dedent(ASKS) + textwrap.dedent(TELLS) if asks else ""
    (folder / "guest.py").write_text(before + textwrap.dedent(does))
    return CommandHarness(
        "/usr/bin/python3 guest.py", folder=str(folder), seconds=seconds, sandbox=Pool.open, warm=warm
    )


def told(found: Trajectory) -> list[object]:
    return [json.loads(str(event.call.arguments["box"])) for event in found.events]


async def test_in_a_sandbox_a_guest_samples_what_the_solo_harness_samples(renderer: Renderer) -> None:
    """With the interpreter that trains, which the sandbox is shown."""
    expected = await attempt(SoloHarness(), renderer)
    found = await attempt(CommandHarness("python plain.py", folder=str(GUESTS), sandbox=Pool.open), renderer)
    assert found.end is expected.end is TerminationReason.SUBMITTED, found.detail
    require_same(found.segments, expected.segments)
    assert found.turns == expected.turns


async def test_a_function_runs_in_a_sandbox_too(renderer: Renderer) -> None:
    found = await attempt(CommandHarness("plain.py:main", folder=str(GUESTS), sandbox=Pool.open), renderer)
    assert found.end is TerminationReason.SUBMITTED, found.detail


async def test_a_guest_in_a_sandbox_sees_its_files_and_nothing_of_whoever_trains(
    tmp_path: Path, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "of the trainer")
    secret = tmp_path / "secret"
    secret.write_text("targets")
    beside = tmp_path / "agent" / "beside"
    beside.parent.mkdir()
    beside.write_text("not named")
    does = f"""
        tell([os.environ.get("A_SECRET"), sorted(os.listdir(".")), os.getuid() == 0, os.getcwd(),
              [os.path.exists(p) for p in ({str(secret)!r}, {str(beside)!r}, {str(Path.home())!r} + "/.ssh",
                                           "/etc/shadow", "/work/beside")]])
    """
    found = await attempt(inside(tmp_path, does), renderer)
    assert told(found) == [[None, ["guest.py"], False, "/work", [False] * 5]], found.detail


async def test_a_guest_in_a_sandbox_reaches_no_network_and_no_other_gateway(
    tmp_path: Path, renderer: Renderer
) -> None:
    """It is told a port of the machine at which somebody listens, and the key of an attempt under way."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        does = f"""
            import socket
            def reach(host, port):
                try:
                    socket.create_connection((host, port), 2).close()
                    return "reached"
                except OSError as error:
                    return type(error).__name__
            tell([reach("127.0.0.1", {port}), reach("192.0.2.1", 80), reach("localhost", {port}),
                  [ask(path, key=key) for path in ("/chat/completions", "/tools/open") for key in ("", "x")]])
        """
        found = await attempt(inside(tmp_path, does), renderer)
    (reached,) = told(found)
    assert isinstance(reached, list) and "reached" not in reached[:3] and reached[3] == [401] * 4, reached


async def test_a_guest_with_another_attempts_address_and_key_reaches_only_its_own_gateway(
    tmp_path: Path, renderer: Renderer
) -> None:
    """Every guest has the same address, in a network of its own; the key of another one holds there only."""
    keys: dict[str, str] = {}
    both = anyio.Event()

    async def run(name: str) -> Trajectory:
        async def pause() -> None:
            if len(keys) == 2:
                both.set()
            await both.wait()

        class Meeting(FakeSession):
            async def act(self, calls, left):  # type: ignore[no-untyped-def]
                (one,) = calls
                if one.tool == "open" and str(one.arguments["box"]).startswith('"agito-'):
                    keys[name] = json.loads(str(one.arguments["box"]))
                    await pause()
                    other = next(key for who, key in keys.items() if who != name)
                    return (Event(index=0, call=one, text=other, left=left),)
                return await super().act(calls, left)

        folder = tmp_path / name
        folder.mkdir()
        does = """
            request = urllib.request.Request(
                os.environ["AGITO_TOOLS_URL"] + "/open", json.dumps({"box": json.dumps(KEY)}).encode(),
                {"authorization": "Bearer " + KEY})
            other = json.load(urllib.request.urlopen(request))["content"].split()[0]
            tell([other.startswith("agito-"), other != KEY, ask(key=other), ask("/tools/open", key=other)])
        """
        return await attempt(inside(folder, does), renderer, Meeting())

    found: dict[str, Trajectory] = {}
    async with anyio.create_task_group() as tasks:
        for name in ("one", "other"):

            async def keep(name: str = name) -> None:
                found[name] = await run(name)

            tasks.start_soon(keep)
    for each in found.values():
        assert told(each)[-1] == [True, True, 401, 401] and len(each.turns) == 1, each.detail


@pytest.mark.parametrize(
    ("does", "why"),
    [
        ("while True: pass", "its own 1.5 s are used up"),
        ("time.sleep(60)", "its own 1.5 s are used up"),
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
            "its own 1.5 s are used up|was killed",  # by the clock, or for memory by the kernel
        ),
        ("x = bytearray(1 << 33)", "it ended with exit code 1"),
        ("open('big', 'wb').write(bytes(1 << 28))", "No space left on device"),
        ("import signal; os.kill(-1, signal.SIGKILL)", "all of it was killed"),
        ("os._exit(7)", "it ended with exit code 7"),
        (
            """
            import re
            found = [open(f"/proc/{pid}/cmdline").read() for pid in os.listdir("/proc") if pid.isdigit()]
            marks = {mark for each in found for mark in re.findall("[0-9a-f]{32}", each)}
            for mark in marks:
                sys.stderr.write(f"\\n{mark} {'9' * 5000}\\n")
            sys.stderr.flush()
            time.sleep(0.5)
            os._exit(len(marks))
            """,
            "all of it was killed|it ended with exit code [01]",  # 0: it finds no mark
        ),
    ],
    ids=["spins", "sleeps", "floods", "floods errors", "forks", "memory", "disk", "kills", "ends", "forges"],
)
@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
async def test_a_guest_that_misbehaves_in_a_sandbox_is_ended_and_scored_as_it_stands(
    does: str, why: str, warm: bool, tmp_path: Path, renderer: Renderer
) -> None:
    seconds = 1.5 if "own" in why else 30
    found = await attempt(inside(tmp_path, does, seconds=seconds, warm=warm), renderer)
    assert found.fault is None and re.search(why, found.detail) and len(found.turns) == 1, found.detail


async def test_beside_a_guest_that_forks_another_goes_on(tmp_path: Path, renderer: Renderer) -> None:
    forks = "\nwhile True:\n    try:\n        os.fork()\n    except OSError: pass\n"
    found: dict[str, Trajectory] = {}

    async def run(name: str, harness: CommandHarness) -> None:
        found[name] = await attempt(harness, renderer)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, "forks", inside(tmp_path, forks, seconds=2))
        plain = CommandHarness("/usr/bin/python3 plain.py", folder=str(GUESTS), sandbox=Pool.open)
        tasks.start_soon(run, "plain", plain)
    assert found["plain"].end is TerminationReason.SUBMITTED
    # by the clock, or for memory by the kernel
    assert found["forks"].end in (TerminationReason.SECONDS, TerminationReason.ABANDONED)
    assert found["forks"].fault is None and len(found["forks"].turns) == 1


async def test_the_task_comes_by_standard_input_into_the_sandbox_whatever_its_length(
    tmp_path: Path, renderer: Renderer
) -> None:
    prompt = "é" * 150_000
    task = replace(TASK, prompt=dict.fromkeys(TASK.prompt, prompt))
    harness = inside(tmp_path, "tell([len(sys.stdin.read()), 'AGITO_TASK' in os.environ])")
    agent = Agent(spec=AgentSpec(renderer=renderer), engine=Choosing(renderer))
    found = await harness.run(task, FakeSession(), {SOLO: agent}, AttemptId(group=0, slot=0), seed=1)
    assert told(found) == [[len(prompt) + len("\n\nYou have 9 turns."), False]], found.detail


async def test_a_guest_in_a_sandbox_that_never_asks_the_policy_says_nothing_about_it(
    tmp_path: Path, renderer: Renderer
) -> None:
    found = await attempt(inside(tmp_path, "import not_there", asks=False), renderer)
    assert found.fault is Fault.TASK and "not_there" in found.detail


async def test_folders_and_files_that_a_recipe_names_are_there_and_cannot_be_written(
    tmp_path: Path, renderer: Renderer
) -> None:
    shown = tmp_path / "library"
    (shown / "bin").mkdir(parents=True)
    (shown / "bin" / "greets").write_text("#!/bin/sh\necho hello\n")
    (shown / "bin" / "greets").chmod(0o755)
    for each in (tmp_path, *tmp_path.parents):  # a test's folders are its own otherwise
        if each.is_relative_to("/tmp/pytest-of-" + os.environ.get("USER", "root")):
            each.chmod(0o755)
    agent = tmp_path / "agent"
    (agent / "lib").mkdir(parents=True)
    (agent / "lib" / "mine.py").write_text("WORD = 'mine'\n")
    (agent / "lib" / "out").symlink_to("/etc/passwd")
    inside(
        tmp_path,
        """
        sys.path.insert(0, "lib")
        import mine
        word, path = subprocess.check_output(["sh", "-c", "greets; command -v greets"], text=True).split()
        try:
            open(path, "a")
        except OSError as error:
            tell([mine.WORD, word, type(error).__name__, "out" in os.listdir("lib")])
        """,
    )
    harness = CommandHarness(
        "/usr/bin/python3 guest.py", folder=str(agent), sandbox=Pool.open, files=["lib"], shown=[str(shown)]
    )
    found = await attempt(harness, renderer)
    assert told(found) == [["mine", "hello", "OSError", False]], found.detail


def test_what_a_sandbox_cannot_see_is_refused_before_anything_begins(tmp_path: Path) -> None:
    outside = tmp_path / "outside.py"
    outside.write_text("")
    folder = tmp_path / "agent"
    folder.mkdir()
    for settings in (
        {"command": f"/usr/bin/python3 {outside}"},
        {"command": "/usr/bin/python3", "files": ("../outside.py",)},
        {"command": "/usr/bin/python3", "files": ("nothing.py",)},
        {"command": "/usr/bin/python3", "shown": ("nowhere",)},
        {"command": "/usr/bin/python3", "shown": ("/",)},
    ):
        with pytest.raises(BadHarness):
            load("solo", folder=str(folder), sandbox=True, open_pool=Pool.open, **settings)  # pyright: ignore[reportArgumentType]


def test_a_program_in_a_home_folder_does_not_show_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    for place, is_whole in (("bin", False), (".local/bin", False), ("venv/bin", True)):
        program = home / place / "agent"
        program.parent.mkdir(parents=True)
        (program.parent / "python3").touch()
        program.touch(mode=0o755)
        (program.parents[1] / "lib/python3.11").mkdir(parents=True)
        found = layout([str(program)], tmp_path, files=(), shown=(), warm=True)
        expected = (
            [program.parents[1]] if is_whole else [program.parent, program.parents[1] / "lib/python3.11"]
        )
        assert {*found.shown} == {os.path.realpath(each) for each in expected}
        assert found.argv == (seen_at(os.path.realpath(program)),)
        assert seen_at(os.path.realpath(program.parent)) in found.path.split(":")


def test_a_recipes_command_runs_in_a_sandbox_unless_it_says_otherwise() -> None:
    assert Recipe.model_validate({"harness": {"command": "python mine.py"}}).harness.sandbox
