"""What the second newcomer met, who had the wheel and two how-tos: wrong turns that nobody may take again."""

from __future__ import annotations

import ast
import errno
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.cli.conftest import COIN, COMMAND, ROOT, Agito, environment, sets

import agito
from agito.cli.exit_codes import exit_code
from agito.cli.machine import Finding, conclusion, print_findings
from agito.cli.tables import plain_table, print_table
from agito.errors import BadEnvironment, NotFound
from agito.gateway.tree import KeptMeter
from agito.plugins import make
from agito.recipe import Recipe
from agito.record import RunDir
from agito.record.comparison import read_finished
from agito.record.events import EventLog, RunFinished
from agito.runtime.policy_sources import find
from agito.testing.contract import SENTENCES
from agito.testing.environment.worlds import first_set
from agito.training.progress.board import Phase, RunProgress
from agito.training.progress.lines import Lines
from agito.types import AttemptId, Task
from agito.worlds.component import Machine
from agito.worlds.world import World

OWN = "hidden_number.py:HiddenNumber"
_COMMANDS = r"train|eval|play|replay|audit|watch|grade|serve|gateway|compare|models|recipes|plan|envs \w+"
SUGGESTS = re.compile(rf"(?:agito (?:{_COMMANDS})|--resume|--env|--checkpoint)\b[^`\"'{{}},;:]*$")
ENOUGH = {"quote", "resume_command"}


def unquoted(path: Path) -> list[str]:
    """Places where a command is suggested with a name as it is."""
    found = list[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.JoinedStr):
            continue
        before = ""
        for part in node.values:
            if isinstance(part, ast.Constant):
                before += str(part.value)
            elif isinstance(part, ast.FormattedValue):
                call = part.value.func if isinstance(part.value, ast.Call) else None
                is_quoted = isinstance(call, ast.Name) and call.id in ENOUGH
                if SUGGESTS.search(before) and not is_quoted:
                    found.append(f"{path.name}:{node.lineno} {ast.unparse(part.value)}")
                before += "x"
    return found


SAFE = {
    "split",
    "path.name",
    "name",
    "each",
    "phase",
    "run",
    "own",
    "place",
}  # letters of ours, or quoted already


def test_every_command_that_is_suggested_quotes_the_names_in_it() -> None:
    sources = sorted((ROOT / "src/agito").rglob("*.py"))
    bare = [place for path in sources for place in unquoted(path) if place.split(" ", 1)[1] not in SAFE]
    assert bare == []


def test_a_run_whose_name_has_a_space_is_gone_on_with_by_the_very_command_that_is_told(
    tmp_path: Path,
) -> None:
    path = tmp_path / "kill c"
    with RunDir.create(path, "", {}):
        pass
    (path / "checkpoints").mkdir(exist_ok=True)
    for ask in (lambda: find(path), lambda: read_finished(path)):
        with pytest.raises(NotFound) as told:
            ask()
        words = shlex.split(str(told.value).partition("go on with ")[2])
        assert words == ["agito", "train", "--resume", str(path)]


def test_a_check_suggests_a_command_that_a_shell_takes_as_it_is(tmp_path: Path, agito_here: Agito) -> None:
    (tmp_path / "spaced dir").mkdir()
    made = agito_here("envs", "new", "hidden_number", "--into", "spaced dir").stdout
    own = f"spaced dir/{OWN}"
    suggested = [shlex.split(line) for line in made.splitlines()[1:]]
    assert [words[-1] for words in suggested] == [own] * 4
    told = agito_here("envs", "check", own).stdout
    assert shlex.split(told.partition("How good it is: ")[2])[-1] == own


# what a rule says


def test_rules_and_remedies_speak_of_the_target_as_the_code_does() -> None:
    assert SENTENCES["test_nothing_of_the_target_stands_in_the_task"]
    bare = [
        f"{path.name}: {line.strip()}"
        for folder in ("testing", "audit", "redteam")
        for path in sorted((ROOT / "src/agito" / folder).rglob("*.py"))
        for line in path.read_text().splitlines()
        if re.search(r"\b(the|another task's) [Kk]ey\b", line)
    ]
    assert bare == []


@pytest.mark.parametrize(
    ("old", "new", "at_most"),
    [("reward=float(", "reward=2 * float(", 1), ("reward=float(", "reward=-1 + float(", 1)],
)
def test_what_follows_from_a_reward_outside_the_range_is_told_once(
    tmp_path: Path, agito_here: Agito, old: str, new: str, at_most: int
) -> None:
    agito_here("envs", "new", "hidden_number")
    path = tmp_path / "hidden_number.py"
    path.write_text(path.read_text().replace(old, new))
    told = agito_here("envs", "check", OWN, expect=13).stdout
    wrong = told.count("✗")
    assert wrong > 3
    assert told.count("as above: every reward lies in the declared range") == wrong - at_most
    assert "nan" not in told.lower() and "ValueError" not in told


def test_rewards_within_a_declared_range_keep_the_standard(tmp_path: Path, agito_here: Agito) -> None:
    agito_here("envs", "new", "hidden_number")
    path = tmp_path / "hidden_number.py"
    source = path.read_text().replace("reward=float(", "reward=-1 + 3 * float(")
    declared = 'reward_range, name, version, chance_level = (-1, 2), "hidden_number", "1", 0.0'
    path.write_text(source.replace('name, version, chance_level = "hidden_number", "1", 0.125', declared))
    assert "✗" not in agito_here("envs", "check", OWN).stdout


def test_an_environment_that_judges_nothing_is_told_so_and_not_that_nan_is_no_number(
    tmp_path: Path, agito_here: Agito
) -> None:
    agito_here("envs", "new", "hidden_number")
    path = tmp_path / "hidden_number.py"
    source = path.read_text().replace(
        "        return Verdict(", '        return Verdict.void("later")\n        return Verdict('
    )
    path.write_text(source)
    told = agito_here("envs", "check", OWN, expect=13).stdout
    assert "gets no verdict in 48 of 48 episodes" in told and "NaN" not in told


class Held(Machine):
    name, tools = "held", ()


@dataclass
class Counted:
    number: int
    seen: set[str]


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ({1, 2}, "`held.state`"),
        ({"asked": [frozenset({1})]}, "`held.state['asked'][0]`"),
        (Counted(1, {"a"}), "`held.state.seen`"),
        ({"asked": [1, 2], "by": (3, Counted)}, ""),
    ],
)
def test_a_set_in_a_state_is_found_wherever_it_is(state: object, place: str) -> None:
    task = Task(id="t", env="e", split="train", family="f", level=1, prompt={}, tools=())
    assert first_set(World(task, [Held(state)], AttemptId(group=0, slot=0), noise_seed=0)) == place


def test_a_state_that_holds_a_set_is_refused_by_a_check(tmp_path: Path, agito_here: Agito) -> None:
    agito_here("envs", "new", "hidden_number")
    path = tmp_path / "hidden_number.py"
    source = (
        path.read_text()
        .replace("self.state ", "min(self.state) ")
        .replace("self.state\n", "min(self.state)\n")
    )
    source = source.replace("< self.state", "< min(self.state)")
    path.write_text(source.replace('[Hidden(target.data["hidden"])]', '[Hidden({target.data["hidden"]})]'))
    told = agito_here("envs", "check", OWN, expect=13).stdout
    assert "✗ the digest tells states apart, and looking changes nothing" in told
    assert "`hidden.state` holds a set in" in told and "keep a list in a fixed order" in told


# what is asked for by a name that is none


@pytest.mark.parametrize("given", ["many.jsonl", "many.parquet", "many.jsonl,tokens=16", "data"])
def test_prompts_without_their_reward_function_are_told_what_is_missing(tmp_path: Path, given: str) -> None:
    (tmp_path / "data").mkdir()
    name = str(tmp_path / given)
    with pytest.raises(
        NotFound, match=r"a set of prompts is an environment with its reward function"
    ) as told:
        make("environment", name, {}, (), BadEnvironment)
    assert f"{name.partition(',')[0]},reward=FILE.py:NAME" in str(told.value)


def test_a_recipe_where_an_environment_should_stand_is_told_what_it_trains_on() -> None:
    with pytest.raises(NotFound, match="smoke is a recipe, which trains on shell"):
        make("environment", "smoke", {"shell": ""}, (), BadEnvironment)


def test_a_runs_bare_name_is_answered_with_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with RunDir.create(tmp_path / "runs/kill9", "", {}):
        pass
    for ask in (agito.resume, lambda name: agito.replay(name, "1.0"), lambda name: read_finished(Path(name))):
        with pytest.raises(NotFound, match="did you mean runs/kill9\\?"):
            ask("kill9")
        with pytest.raises(NotFound, match="give a run's folder, such as runs/quickstart"):
            ask("kill8")


@pytest.mark.parametrize("name", ["", " ", "a/b", "..", "/tmp/x"])
def test_a_run_is_named_by_one_word_and_nothing_is_moved_for_another(
    tmp_path: Path, agito_here: Agito, name: str
) -> None:
    with RunDir.create(tmp_path / "runs/smoke", "", {}):
        pass
    told = agito_here("train", "smoke", "--name", name, expect=2).stderr
    assert "it names a folder in runs; a path goes with --out" in " ".join(told.split())
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["smoke"]
    with pytest.raises(ValueError, match="it names a folder in runs"):
        Recipe.model_validate({"name": name})


def test_an_environment_named_like_one_of_ours_is_written_with_a_word_about_it(agito_here: Agito) -> None:
    told = agito_here("envs", "new", "shell").stderr
    assert "shell is also the name of an environment of Agito's; yours is shell.py:Shell" in told
    assert not agito_here("envs", "new", "hidden_number").stderr


def test_a_server_that_is_not_told_how_to_serve_names_the_whole_command(agito_here: Agito) -> None:
    told = " ".join(agito_here("serve", "shell", expect=2).stderr.split())
    assert "agito serve shell --mcp" in told and "for --mcp" not in told


# what is told while it goes on, and at its end


def test_who_trains_from_python_is_told_where_the_run_is_and_how_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given: dict[str, Any] = {"overrides": (*COIN, "rl.steps=1"), "admit_anyway": True}
    agito.train("quickstart", out="runs/one", **given)
    told = capfd.readouterr().err.splitlines()
    assert told[0].endswith("the run will be in runs/one")
    assert any("imitation" in line and "begins" in line for line in told)
    assert any("held out, after" in line and "done in" in line for line in told)
    agito.train("quickstart", out="runs/two", on_event=lambda event: None, **given)
    assert "runs/two" not in capfd.readouterr().err


STOPPED = """
import sys

import agito
from agito.record.events import PhaseStarted, StepFinished


def stop(event):
    if isinstance(event, StepFinished):
        raise {error}


if __name__ == "__main__":
    agito.train("quickstart", overrides=sys.argv[1:], out="runs/kill c", on_event=stop, admit_anyway=True)
"""


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "OSError(5, 'broken')"])
def test_a_run_from_python_that_is_stopped_says_how_to_go_on_in_a_few_lines(
    tmp_path: Path, error: str
) -> None:
    (tmp_path / "go.py").write_text(STOPPED.format(error=error))
    done = subprocess.run(
        [sys.executable, "go.py", *COIN],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=110,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "agito train --resume 'runs/kill c'" in last and "nothing is committed yet" in last
    if error == "KeyboardInterrupt":
        assert len(done.stderr.splitlines()) < 20, done.stderr


def test_a_run_that_is_interrupted_before_its_first_phase_says_whether_anything_was_begun(
    tmp_path: Path,
) -> None:
    slow = "import time\n\nfrom agito.testing import FakeEnvironment\n\n\nclass Slow(FakeEnvironment):\n"
    slow += "    def __init__(self):\n        super().__init__()\n        print('opening', flush=True)\n"
    slow += "        time.sleep(0.5)\n"
    (tmp_path / "slow.py").write_text(slow)
    words = ("train", "quickstart", "--name", "kill c", *sets(*COIN), "--env", "slow.py:Slow")
    process = subprocess.Popen(
        [*COMMAND, *words],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stderr is not None
        while "auditing it first" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    assert process.returncode == 130 and "nothing was begun: no run was made or moved" in rest
    assert not (tmp_path / "runs").exists()


def test_a_board_stands_still_at_the_end_of_its_run_and_foresees_nothing_more() -> None:
    now = [100.0]
    board = RunProgress([Phase("rl", "reinforcement", "steps", 2)], clock=lambda: now[0])
    log = EventLog(board.handle, clock=lambda: now[0])
    log.begin("rl", 2)
    now[0] = 171.0
    log.emit(RunFinished())
    now[0] = 9000.0
    assert board.now - board.began == 71.0
    assert board.left_s() != board.left_s(), "not a number: nothing is left"


def test_the_last_of_a_phase_is_told_once() -> None:
    now, said = [0.0], list[str]()
    lines = Lines(
        RunProgress([Phase("after", "held out, after", "tasks", 2)], clock=lambda: now[0]), said.append
    )
    log = EventLog(lines.handle, clock=lambda: now[0])
    log.begin("after", 2)
    for _ in range(2):
        now[0] += 9.0
        log.advance({"success/num": 1.0, "success/successes": 1.0})
    log.emit(RunFinished())
    assert [line.partition("after")[2].split()[0] for line in said] == ["0/2", "1/2", "2/2"]
    assert "done in 0:18" in said[-1]


def test_a_gateway_that_nobody_used_says_so() -> None:
    assert KeptMeter().told() == "nobody has asked for anything"


# what this machine offers


def test_a_doctor_suggests_nothing_that_will_fail_here() -> None:
    def said(*wrong: str) -> str:
        names = ("torch", "cores", "disk", "browser")
        findings = [
            Finding(
                name=name, value="", remedy="mend" if name in wrong else "", is_only_noise=name == "cores"
            )
            for name in names
        ]
        return re.sub(r"\[.*?\]", "", conclusion(findings))

    assert said() == said("cores") == "ready: agito train smoke, in about a minute"
    assert (
        said("disk") == "ready: agito train smoke --out DIR, another place than this one, in about a minute"
    )
    assert said("browser") == "ready but for browser: agito train smoke, in about a minute"
    assert "agito train" not in said("torch", "disk")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_place_that_this_user_may_not_use_is_told_with_what_to_do(
    capsys: pytest.CaptureFixture[str], number: int
) -> None:
    assert exit_code(OSError(number, "no", "/root/x")) == NotFound.exit_code
    told = capsys.readouterr().err
    assert "/root/x" in told and "choose another place" in told and "--debug" not in told


def test_narrow_tables_keep_their_values_in_line_and_break_no_path() -> None:
    path = "/home/somebody/.cache/agito/libagito-0123456789abcdef.so"
    console = Console(width=60, force_terminal=False)
    with console.capture() as caught:
        print_findings(console, "machine", [Finding(name="compiled engine", value=path, remedy="no")])
        table = plain_table("environment", "families", "chance")
        table.add_row("shell", "find, repair, " + "x" * 50, "0.125")
        print_table(console, table)
    said = caught.get()
    assert path in said and "compiled engine" in said
    rows = [line for line in said.splitlines() if "families" in line or "chance" in line]
    starts = [re.search(r"(families|chance)\s+", line) for line in rows]
    assert len(rows) == 2 and len({found.end() for found in starts if found}) == 1
