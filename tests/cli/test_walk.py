"""What somebody met who walked through the product for the first time."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cli.conftest import COMMAND, Agito, HereIn, environment
from typer.core import TyperGroup
from typer.main import get_command

from agito.audit import FULL, Depth, audit
from agito.cli.app import app
from agito.cli.machine import Finding, print_findings
from agito.cli.tables import counted
from agito.cli.terminal import out
from agito.envs import load
from agito.training.admission import keep, known_card

QUICK = Depth(name="short", seconds=25.0, share=0.05)
FAKE = "agito.testing:FakeEnvironment"


def test_an_environments_name_in_place_of_a_recipes_is_told_both_ways_to_train_on_it(
    agito_here: Agito,
) -> None:
    told = agito_here("train", "decisions", expect=4).stderr
    assert "that is an environment; train on it with --env decisions, or by a recipe: chain, fanout" in told


@pytest.mark.parametrize("given", ["hidden_number", "hidden_number.py"])
def test_an_environment_named_like_a_file_here_is_told_what_that_file_holds(
    agito_here: Agito, given: str
) -> None:
    agito_here("envs", "new", "hidden_number")
    assert (
        "did you mean hidden_number.py:HiddenNumber?" in agito_here("train", "--env", given, expect=4).stderr
    )


def test_what_is_wrong_with_a_command_is_said_alone(coin_home: Path, here_in: HereIn) -> None:
    (line,) = here_in(coin_home)("eval", "runs/coin", "--split", "nosuch", expect=3).stderr.splitlines()
    assert line.startswith("agito: error: split=nosuch")


def test_an_evaluation_says_that_the_environment_was_edited_since(
    coin_home: Path, tmp_path: Path, here_in: HereIn
) -> None:
    shutil.copytree(coin_home / "runs", tmp_path / "runs")
    about = tmp_path / "runs/coin/run.json"
    known = json.loads(about.read_text())
    about.write_text(json.dumps(known | {"admission": known["admission"] | {"digest": "another"}}))
    for home, is_told in ((coin_home, False), (tmp_path, True)):
        told = here_in(home)("eval", "runs/coin", "--split", "nosuch", expect=3).stderr
        assert ("has changed since this run was trained on it" in told) == is_told


def test_attempts_of_every_recorded_step_can_be_listed(coin_home: Path, here_in: HereIn) -> None:
    agito = here_in(coin_home)
    last = agito("replay", "runs/coin", "--phase", "rl").stdout
    assert "of rl-00002.parquet; there are steps 0 to 2: --step N" in " ".join(last.split())
    first = agito("replay", "runs/coin", "--phase", "rl", "--step", "0").stdout
    assert "of rl-00000.parquet" in " ".join(first.split()) and first.splitlines()[1] != last.splitlines()[1]
    assert (
        "step 9 of phase rl is not recorded; there are steps 0 to 2"
        in agito("replay", "runs/coin", "--phase", "rl", "--step", "9", expect=4).stderr
    )


def test_a_run_without_attempts_is_told_from_no_run_at_all(
    coin_home: Path, tmp_path: Path, here_in: HereIn
) -> None:
    shutil.copytree(coin_home / "runs", tmp_path / "runs")
    agito = here_in(tmp_path)
    there = tmp_path / "runs/coin/trajectories"
    for path in there.glob("rl-*"):
        path.unlink()
    said = agito("replay", "runs/coin", "--phase", "rl", expect=4).stderr
    assert "no attempts of phase rl recorded yet; there are those of demo, before, after" in said
    for path in there.iterdir():
        path.unlink()
    assert "runs/coin: no attempts recorded yet" in agito("replay", "runs/coin", expect=4).stderr
    assert "runs/none: no run there" in agito("replay", "runs/none", expect=4).stderr
    shown = " ".join(agito("replay", "--help").stdout.split())
    assert "demo, sft, before, rl, after, structural and baselines" in shown


def test_every_value_of_a_recipe_is_shown_as_it_can_be_written(agito_here: Agito) -> None:
    rows = re.findall(
        r"^(\w[\w.]*)  +(\S.*?)   *\S", agito_here("recipes", "web", columns=600).stdout, re.MULTILINE
    )[1:]
    assert len(rows) > 60 and any(value == "(not set)" for _, value in rows)
    for key, value in rows:
        assert value == "(not set)" or tomllib.loads(f"value = {value}"), key


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("eval", "runs/coin", "--suite", "decision"), 3, "did you mean decisions?"),
        (("envs", "chek", "x.py:X"), 2, "did you mean check?"),
        (("play", "shell", "--family", "fnd"), 3, "did you mean find?"),
    ],
)
def test_a_word_that_is_nearly_right_is_answered_with_the_right_one(
    coin_home: Path, here_in: HereIn, words: tuple[str, ...], code: int, told: str
) -> None:
    assert told in " ".join(here_in(coin_home)(*words, expect=code).stderr.split())


def test_a_name_that_is_none_is_refused_before_anything_is_said(agito_here: Agito) -> None:
    (line,) = agito_here("audit", "shel", expect=4).stderr.splitlines()
    assert line.startswith("agito: error: environment 'shel'")


def test_every_command_shows_an_example() -> None:
    def leaves(group: TyperGroup, at: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, command in group.commands.items():
            path = f"{at} {name}".strip()
            found |= leaves(command, path) if isinstance(command, TyperGroup) else {path: command.help or ""}
        return found

    top = get_command(app)
    assert isinstance(top, TyperGroup)
    without = [name for name, said in leaves(top, "").items() if "Example" not in said]
    assert without in ([], ["envs list", "envs check", "envs new"])  # their group shows theirs


def test_a_busy_machine_is_no_failure() -> None:
    console = out()
    with console.capture() as caught:
        print_findings(
            console, "machine", [Finding(name="cores", value="2", remedy="busy", is_only_noise=True)]
        )
    assert "!" in caught.get() and "✗" not in caught.get()


def test_a_checkpoint_that_never_learned_a_suite_is_announced_so(coin_home: Path, here_in: HereIn) -> None:
    done = here_in(coin_home)("eval", "runs/coin", "--suite", "decisions", "--split", "nosuch", expect=3)
    assert "learned agito.testing:FakeEnvironment, never decisions" in done.stderr


def test_a_rule_is_told_as_a_sentence(agito_here: Agito) -> None:
    told = agito_here("envs", "check", FAKE).stdout.splitlines()
    for sentence in (
        "an unknown split, family or level is refused",
        "every event is numbered, names its call, and says what is left",
        "every solution earns full marks, whatever faults it meets",
        "the demonstrator's success falls with its skill",
    ):
        assert f"✓ {sentence}" in told


def test_one_is_not_counted_as_many() -> None:
    assert [counted(number, "turn") for number in (0, 1, 2, 12_345)] == [
        "0 turns",
        "1 turn",
        "2 turns",
        "12 345 turns",
    ]


def test_no_task_of_the_template_is_in_two_splits(tmp_path: Path, agito_here: Agito) -> None:
    agito_here("envs", "new", "hidden_number")
    own = load(f"{tmp_path}/hidden_number.py:HiddenNumber")
    prompts = {
        split: {
            str(own.task(split=split, index=index, seed=seed)[0].prompt)
            for index in range(200)
            for seed in (0, 1)
        }
        for split in own.splits
    }
    assert all(
        not prompts[one] & prompts[other] for one in own.splits for other in own.splits if one != other
    )


async def test_a_full_card_gives_way_to_a_short_one_only_when_that_found_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    short = await audit(lambda: load(FAKE), depth=QUICK)
    failing = replace(
        short.qualities[0], gates=tuple(replace(gate, holds=False) for gate in short.qualities[0].gates)
    )
    worse = replace(short, qualities=(failing, *short.qualities[1:]))
    found: list[str] = []
    for card in (replace(short, depth=FULL.name), short, worse):
        keep(card)
        kept, _ = known_card(load(FAKE))
        assert kept is not None
        found.append(f"{kept.depth} {bool(kept.failed)}")
    assert found == ["full False", "full False", "short True"]


def test_an_error_is_folded_between_words_where_a_person_reads_it(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [*COMMAND, "train", "nosuch"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment(tmp_path) | {"COLUMNS": "40"},
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    told = os.read(ours, 1 << 16).decode().splitlines()
    os.close(ours)
    assert done.returncode == 4
    assert len(told) > 3 and max(map(len, told)) <= 40
    whole = subprocess.run(
        command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True
    ).stderr
    assert " ".join(" ".join(told).split()) == whole.strip()


LOOSE = """
from agito.testing import FakeEnvironment
from agito.types import Status, Verdict


class Loose(FakeEnvironment):
    async def grade(self, sealed, key, grade_seed):
        reward = float(bool(sealed.submitted))
        return Verdict(status=Status.SCORED, reward=reward, scores={"success": reward}, grade_seed=grade_seed)
"""


async def test_what_a_gate_found_ends_with_a_whole_word(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(LOOSE)
    card = await audit(lambda: load(f"{tmp_path / 'own.py'}:Loose"), depth=QUICK)
    (found,) = (gate.found for gate in card.failed if gate.name == "exploits")
    assert re.search(r"attacks earn more than luck: ([\w: ]+; ){5}and \d+ more$", found), found
