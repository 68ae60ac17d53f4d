"""What the third newcomer met, who had the wheel and its pages: wrong turns that nobody may take again."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.conftest import Agito

from agito.cli.typed_calls import how_to_call, signature, typed_call
from agito.types import Json
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
