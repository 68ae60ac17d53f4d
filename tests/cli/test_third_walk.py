"""What the third newcomer met, who had the wheel and its pages: wrong turns that nobody may take again."""

from __future__ import annotations

import io
import traceback
from pathlib import Path
from typing import cast

import httpx
import pytest
import typer
from rich.console import Console
from tests.cli.conftest import ROOT, Agito
from tests.gateway.conftest import serving

from agito.api import _admitted
from agito.audit import SHORT, Mark, audit
from agito.cli.app import app
from agito.cli.audit import print_card
from agito.cli.dry_run import _caveat, _missing
from agito.cli.gateway import Place, _welcome, gateway_of
from agito.cli.train import _begins_at
from agito.cli.typed_calls import how_to_call, signature, typed_call
from agito.envs import load
from agito.envs.prompts.reward import RewardFunction
from agito.errors import BadEnvironment, NotAdmitted
from agito.gateway import listening
from agito.gateway.tree import KeptMeter, Way
from agito.recipe import Recipe
from agito.record import RunDir
from agito.testing import ReplayEngine
from agito.training.planning.probe import Probe
from agito.types import Json, Sample
from agito.worlds.component import spec
from agito.worlds.world import SUBMIT

ORDERS = spec("orders", "A customer's orders.", {"name": "string", "page": "integer"})
EDIT = spec("edit", "Changes a file.", ["path", "old", "new"])
SH = spec("sh", "A shell.", ["command"])
NEXT = spec("next", "Goes on.")
TOOLS = (SH, EDIT, ORDERS, NEXT, SUBMIT)


# a name that is none


@pytest.mark.parametrize(
    "given", ["./hidden_number.py", "../{here}/hidden_number.py", "{home}/hidden_number.py"]
)
@pytest.mark.parametrize("recipe", [(), ("smoke",)])
def test_an_environment_without_its_class_is_told_so_wherever_its_file_lies(
    given: str, recipe: tuple[str, ...], tmp_path: Path, agito_here: Agito
) -> None:
    agito_here("envs", "new", "hidden_number")
    path = given.format(here=tmp_path.name, home=tmp_path)
    told = agito_here("train", *recipe, "--env", path, expect=4).stderr
    assert f"name its class too, {path}:Class; did you mean {path}:HiddenNumber?" in told


@pytest.mark.parametrize("given", ["./nothing", "sub/shell", ".", "../tasks.jsonl"])
def test_a_path_that_is_no_environment_is_not_taken_for_a_runs_name(given: str, agito_here: Agito) -> None:
    told = agito_here("train", "--env", given, expect=4).stderr
    assert f"environment '{given}'" in told and "--out" not in told


# calls that a person types


@pytest.mark.parametrize(
    ("line", "tool", "arguments"),
    [
        ("orders fok 1", "orders", {"name": "fok", "page": 1}),
        ("orders name=fok page=1", "orders", {"name": "fok", "page": 1}),
        ("orders page=2 name=Ada Lovelace", "orders", {"name": "Ada Lovelace", "page": 2}),
        ('orders {"name": "fok", "page": 1}', "orders", {"name": "fok", "page": 1}),
        ('orders "Ada Lovelace" 1', "orders", {"name": "Ada Lovelace", "page": 1}),
        ("edit dov.py a b", "edit", {"path": "dov.py", "old": "a", "new": "b"}),
        ("edit dov.py 'x = 1' 'x = 2'", "edit", {"path": "dov.py", "old": "x = 1", "new": "x = 2"}),
        (
            'edit path=dov.py old="x = 1" new="x = 2"',
            "edit",
            {"path": "dov.py", "old": "x = 1", "new": "x = 2"},
        ),
        ("edit dov.py a", "edit", {"path": "dov.py", "old": "a"}),
        ("orders fok page=1", "orders", {"name": "fok", "page": "page=1"}),
        ("ls -la 'my file'", "sh", {"command": "ls -la 'my file'"}),
        ("sh name=3; echo $name", "sh", {"command": "name=3; echo $name"}),
        ('sh {"command": "ls"}', "sh", {"command": "ls"}),
        ("{ ls; }", "sh", {"command": "{ ls; }"}),
        ('echo {"name": 1}', "sh", {"command": 'echo {"name": 1}'}),
        ("next", "next", {}),
        ("submit a b", "submit", {"answer": "a b"}),
    ],
)
def test_a_person_types_arguments_in_order_by_name_or_as_json(
    line: str, tool: str, arguments: dict[str, Json]
) -> None:
    call = typed_call(line, TOOLS)
    assert (call.tool, dict(call.arguments), call.problem) == (tool, arguments, None)


def test_what_play_says_of_a_call_with_several_arguments_can_be_typed() -> None:
    assert signature(ORDERS) == "orders(name, page)" and signature(NEXT) == "next()"
    (_, note) = how_to_call((SH, ORDERS, SUBMIT))
    examples = note.removeprefix("Several arguments: ").partition(";")[0].split(", or ")
    calls = [typed_call(each, TOOLS) for each in examples]
    assert [dict(call.arguments) for call in calls] == [{"name": "NAME", "page": 1}] * 3
    assert len(how_to_call((SH, SUBMIT))) == 1


def test_play_lists_the_parameters_and_takes_them_in_each_way(
    agito_here: Agito, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter(["orders fok 1", "orders name=fok page=1", 'orders {"name": "fok", "page": 1}'])
    monkeypatch.setattr("builtins.input", lambda prompt="": next(lines, None) or _end())
    told = agito_here("play", "desk").stdout
    assert "orders(name, page): " in told and "move(order, place): " in told
    assert "Several arguments: orders NAME 1, or " in told
    assert "lacks" not in told and "422" not in told


def _end() -> str:
    raise EOFError


# what `grade` raises

BOOM = "        raise KeyError('oops')\n"


def breaking(path: Path) -> int:
    """Lets `grade` raise; the line that does."""
    lines = path.read_text().splitlines(keepends=True)
    at = next(at for at, line in enumerate(lines) if "async def grade" in line) + 1
    path.write_text("".join([*lines[:at], BOOM, *lines[at:]]))
    return at + 1


def test_a_check_tells_what_grade_raises_once_with_its_line_and_nothing_of_dialects(
    tmp_path: Path, agito_here: Agito
) -> None:
    agito_here("envs", "new", "hidden_number")
    at = breaking(tmp_path / "hidden_number.py")
    told = agito_here("envs", "check", "hidden_number.py:HiddenNumber", expect=13).stdout
    wrong = told.count("✗")
    assert wrong > 3 and told.count("KeyError: 'oops'") == 1 and told.count("as above: ") == wrong - 1
    assert f"hidden_number.py:{at} in grade" in told
    assert "nan" not in told and "two ways to write" not in told


def test_play_says_the_line_at_which_grade_raises(
    tmp_path: Path, agito_here: Agito, monkeypatch: pytest.MonkeyPatch
) -> None:
    agito_here("envs", "new", "hidden_number")
    at = breaking(tmp_path / "hidden_number.py")
    monkeypatch.setattr("builtins.input", lambda prompt="": "submit 3")
    told = agito_here("play", "hidden_number.py:HiddenNumber").stdout
    assert f"KeyError: 'oops' (hidden_number.py:{at})" in " ".join(told.split())


# rewards that are none


SUMS = "".join(f'{{"prompt": "What is {at} + 1?", "answer": "{at + 1}"}}\n' for at in range(60))
NONE = {
    "raises": ("1 / 0", "ZeroDivisionError: division by zero (mine.py:2)", "repair what raises here"),
    "text": ("return 'yes'", "the reward is 'yes'", "keep to what is asked for here"),
    "nothing": ("return None", "the reward is None", "keep to what is asked for here"),
    "outside": ("return 7", "returned 7, outside 0 to 1", "keep to what is asked for here"),
}


def prompts_in(home: Path, body: str) -> str:
    (home / "tasks.jsonl").write_text(SUMS)
    (home / "mine.py").write_text(f"def reward(completion, answer):\n    {body}\n")
    return "tasks.jsonl,reward=mine.py:reward"


@pytest.mark.parametrize("kind", NONE)
async def test_a_card_measures_nothing_by_a_reward_that_is_none_and_says_what_to_do(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, found, remedy = NONE[kind]
    monkeypatch.chdir(tmp_path)
    name = prompts_in(tmp_path, body)
    card = await audit(lambda: load(name), depth=SHORT)
    (gate,) = card.failed
    assert gate.name == "reward function" and found in gate.found and gate.remedy.startswith(remedy)
    for name in ("difference", "constant answers", "echo", "determinism"):
        (other,) = (each for each in card.gates if each.name == name)
        assert other.value is None and other.doubt and other.found.startswith("not measured")
    told = {quality.name: quality for quality in card.qualities}
    for name in ("stability", "resistance to cheating"):
        assert told[name].says.startswith("not measured") and told[name].mark is not Mark.GOOD
    console = Console(file=io.StringIO(), width=200)
    print_card(card, console)
    lines = console.file.getvalue().rstrip().splitlines()  # type: ignore[attr-defined]
    assert lines[-1] == "not fit to train on: reward function"
    assert "training goes on" not in "".join(lines[-4:])


def test_python_is_told_the_whole_finding_its_own_words_and_no_frames_of_the_audit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    name = prompts_in(tmp_path, "return 'yes'")
    with pytest.raises(NotAdmitted) as refused:
        _admitted(Recipe.model_validate({"env": {"name": name}}), lambda line: None, anyway=False)
    said = str(refused.value)
    assert "BadReward: " in said and "return a number, a bool" in said and "…" not in said
    assert "admit_anyway=True" in said and "--admit-anyway" not in said
    files = {Path(frame.filename).name for frame in traceback.extract_tb(refused.value.__traceback__)}
    assert files <= {"api.py", Path(__file__).name} and refused.value.__suppress_context__


# names and columns that are misspelt

OWN = """
from agito.envs.procedural import ProceduralEnvironment

class Onwards: ...
class Own(ProceduralEnvironment): ...
"""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("audit", "tasks.jsonl,rewrad=mine.py:reward"), "'rewrad=mine.py:reward' is no option"),
        (("audit", "tasks.jsonl,rewrad=mine.py:reward"), "did you mean reward?"),
        (("play", "gone.parquet,tool=mine.py:reward"), "did you mean tools?"),
        (("audit", "tasks.jsonl,tokens=12"), "write DATA,reward=FILE.py:FUNCTION"),
        (("train", "own.py:Own"), "that is an environment; train on it with --env own.py:Own"),
        (("train", "own.py"), "train on it with --env own.py:Own"),
        (("train", "own"), "train on it with --env own.py:Own"),
        (("train", "agito.testing:FakeEnvironment"), "--env agito.testing:FakeEnvironment"),
        (("train", "gone.py"), "--env gone.py:Class"),
        (("train", "tasks.jsonl"), "--prompts tasks.jsonl --reward FILE.py:NAME"),
        (("audit", "own.py:Onw"), "own.py has no Onw; did you mean own.py:Own?"),
        (("train", "--env", "agito.testing:FakeEnviroment"), "did you mean FakeEnvironment?"),
        (("models", "show", "nope"), "agito models list shows those that can be got"),
        (("models", "get", "smollm"), "did you mean smollm2-135m?"),
    ],
)
def test_a_word_at_the_wrong_place_is_told_the_right_one(
    words: tuple[str, ...], told: str, tmp_path: Path, agito_here: Agito
) -> None:
    prompts_in(tmp_path, "return 1")
    (tmp_path / "own.py").write_text(OWN)
    done = agito_here(*words, expect=None)
    assert done.returncode in (1, 3, 4) and told in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (
            '{"promt": "x", "answer": "1"}',
            "row 61: no column `prompt`; it has promt, answer; did you mean promt?",
        ),
        ('{"prompt": null, "answer": "1"}', "row 61: no column `prompt`; it has answer"),
    ],
)
def test_a_row_without_its_prompt_says_what_it_has(
    row: str, told: str, tmp_path: Path, agito_here: Agito
) -> None:
    name = prompts_in(tmp_path, "return 1")
    (tmp_path / "tasks.jsonl").write_text(f"{SUMS}{row}\n")
    assert told in agito_here("audit", name, expect=None).stderr


@pytest.mark.parametrize(
    ("asked", "meant"), [("solution", "answer"), ("expected", "answer"), ("awnser", "answer")]
)
def test_a_reward_that_asks_for_a_missing_answer_is_told_the_column_that_holds_one(
    asked: str, meant: str
) -> None:
    made = RewardFunction(eval(f"lambda completion, {asked}: 1"), "mine.py:reward")
    with pytest.raises(BadEnvironment, match=r"did you mean answer\?$"):
        made.require(("answer", "source"))


@pytest.mark.parametrize("option", ["--tasks", "-n", "--n"])
def test_the_number_of_tasks_is_taken_by_each_of_its_names(option: str, agito_here: Agito) -> None:
    told = agito_here("eval", "runs/none", option, "2", expect=4).stderr
    assert "runs/none" in told


# what is told at the end and at the beginning


def test_a_gateway_that_nobody_went_on_with_counts_its_answers_and_no_shares() -> None:
    meter = KeptMeter()
    meter.turns[Way.OPENED] += 2
    assert meter.told() == "2 answered; none went on with an earlier answer"


def test_a_resumed_run_says_that_it_is_one_and_from_where(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "one"
    with RunDir.create(path, "", {}):
        pass
    assert _begins_at(path) == "it had no checkpoint yet, so it begins again from the start"


def test_a_probe_of_prompts_that_saw_no_completion_speaks_of_no_demonstrations() -> None:
    recipe = Recipe.model_validate({"model": {"path": "models/mine"}})
    silent = Probe(is_scripted=False, turn_limit=256)
    assert "demonstrations" not in _caveat(recipe, silent)
    assert _missing(silent) == "not one completion of at most 256 tokens ended within 20 s"
    assert "demonstrations" in _caveat(recipe, Probe(shown=[cast("Sample", object())]))


@pytest.mark.parametrize("model", ["mine", "gpt-4o", "smollm2-135m"])
async def test_the_one_policy_of_a_gateway_answers_whatever_its_model_is_called(model: str) -> None:
    async with serving(ReplayEngine(turns=[list(b"hi")])) as served:
        gateway = gateway_of(served.conversations, "smollm2-135m", key="key")
        async with (
            listening(gateway.app()) as url,
            httpx.AsyncClient(base_url=url, headers={"x-api-key": "key"}) as client,
        ):
            body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
            answered = await client.post("/v1/chat/completions", json=body)
            assert answered.status_code == 200 and answered.json()["model"] == model
            listed = (await client.get("/v1/models")).json()["data"]
            assert [each["id"] for each in listed] == ["smollm2-135m"]


def test_a_gateways_welcome_says_that_any_name_is_served(capsys: pytest.CaptureFixture[str]) -> None:
    _welcome("http://127.0.0.1:8000", "mine", Place(host="127.0.0.1", port=8000, key="key"))
    assert "# model: mine, and any other name is served by it too" in capsys.readouterr().out


def test_the_package_page_names_every_command() -> None:
    page = (ROOT / "docs" / "package.md").read_text()
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert [name for name in commands if name not in page] == []
