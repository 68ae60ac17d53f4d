"""A mistake of the user's own is told as theirs, with its line; nobody is asked to report it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.conftest import Agito, HereIn

from agito.audit import Depth, audit
from agito.cli.episode import print_event
from agito.cli.terminal import out
from agito.envs import load
from agito.models.hub import is_hub_id
from agito.rollout import EpisodeDriver, scripted
from agito.types import AttemptId, Call, Event, Status, Verdict

QUICK = Depth(name="short", seconds=3.0, share=0.02)
OWN = "hidden_number.py:HiddenNumber"


def edit(home: Path, agito: Agito, old: str, new: str) -> None:
    """The template with a mistake in it."""
    agito("envs", "new", "hidden_number")
    path = home / "hidden_number.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("command", [("audit", OWN, "--short"), ("train", "--env", OWN)])
@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "return int(task.prompt[Dialect.COMPACT].split()[-1])",
            "return 0",
            " in negative_controls: ValueError: empty",
        ),
        (
            "return lambda: bisect(task, skill, seed)",
            'return {}["skill"]',
            " in demonstrator: KeyError: 'skill'",
        ),
        (
            'return {"zero"',
            'return [1] or {"zero"',
            "HiddenNumber says or returns cannot be used: AttributeError",
        ),
        (
            "return (lambda: bisect(task, 1.0, 0),)",
            "return bisect(task, 1.0, 0)",
            "cannot be used: TypeError",
        ),
    ],
)
def test_what_an_environment_of_ones_own_raises_is_told_with_its_line_and_not_as_a_bug_of_agitos(
    tmp_path: Path, agito_here: Agito, command: tuple[str, ...], old: str, new: str, told: str
) -> None:
    edit(tmp_path, agito_here, old, new)
    said = agito_here(*command, expect=3).stderr
    assert "hidden_number.py:" in said and told in said
    assert said.strip().endswith(f"see agito envs check {OWN}")
    assert "please report" not in said


@pytest.mark.parametrize("levels", ["(1, 2)", "'12'", "(1.5,)", "7"])
def test_an_environment_without_families_or_whose_levels_are_no_numbers_is_refused_by_name(
    tmp_path: Path, agito_here: Agito, levels: str
) -> None:
    families, member = ("()", "families=()") if levels == "(1, 2)" else ('("bisect",)', "levels=")
    edit(tmp_path, agito_here, '("bisect",), (1, 2)', f"{families}, {levels}")
    for words in (("envs",), ("audit",), ("train", "--env")):
        assert f"{member}" in agito_here(*words, OWN, expect=3).stderr


async def test_a_grader_that_returns_no_verdict_has_failed(tmp_path: Path, agito_here: Agito) -> None:
    edit(tmp_path, agito_here, "        return Verdict(", "        return 1.0\n        return Verdict(")
    verdict = await first_verdict(tmp_path, "solution")
    assert verdict.status is Status.VOID and "`grade` returned float, not a Verdict" in verdict.evidence


async def first_verdict(home: Path, who: str) -> Verdict:
    environment = load(f"{home}/{OWN}")
    task, target = environment.task(split="train", index=0, seed=0)
    ways = {**environment.negative_controls(task), "solution": environment.solutions(task, target)[0]}
    attempt = AttemptId(group=0, slot=0)
    driver = EpisodeDriver(environment, noise_seed=0)
    return (await driver.run(task, target, attempt, scripted(ways[who], task, attempt))).verdict


@pytest.mark.parametrize(
    ("old", "new", "reward"),
    [("reward=float(", "reward=2 * float(", "2"), ("reward=float(", "reward=-1 + float(", "-1")],
)
async def test_a_reward_outside_the_declared_range_is_void_and_the_environment_is_not_fit_to_train_on(
    tmp_path: Path, agito_here: Agito, old: str, new: str, reward: str
) -> None:
    edit(tmp_path, agito_here, old, new)
    verdict = await first_verdict(tmp_path, "solution" if reward == "2" else "zero")
    wanted = f"reward {reward} is outside 0 to 1; let `grade` stay within it, or declare `reward_range`"
    assert verdict.status is Status.VOID and wanted in verdict.evidence
    card = await audit(lambda: load(f"{tmp_path}/{OWN}"), depth=QUICK)
    assert "broken" in [gate.name for gate in card.failed]
    assert wanted in card.broke[0].what


def test_a_check_names_the_reward_that_is_outside_the_declared_range(
    tmp_path: Path, agito_here: Agito
) -> None:
    edit(tmp_path, agito_here, "reward=float(", "reward=2 * float(")
    told = agito_here("envs", "check", OWN, expect=13).stdout
    assert "✗ every reward lies in the declared range" in told and "reward 2 is outside 0 to 1" in told


async def test_a_declared_range_admits_the_rewards_within_it(tmp_path: Path, agito_here: Agito) -> None:
    edit(tmp_path, agito_here, "reward=float(", "reward=2 * float(")
    path = tmp_path / "hidden_number.py"
    path.write_text(
        path.read_text()
        .replace("chance_level = ", "chance_level, reward_range = ")
        .replace("0.125", "0.25, (0.0, 2.0)")
    )
    card = await audit(lambda: load(f"{tmp_path}/{OWN}"), depth=QUICK)
    assert "broken" not in [gate.name for gate in card.failed]


@pytest.mark.parametrize(
    "words",
    [
        ("eval", "runs/none"),
        ("play", "--checkpoint", "runs/none"),
        ("gateway", "runs/none", "--port", "0"),
        ("eval", "elsewhere/final"),
        ("eval", "here/none"),
        ("train", "shell", "--model", "runs/none"),
        ("train", "shell", "--model", "here/none"),
    ],
)
def test_the_name_of_a_run_that_is_not_there_is_sent_nowhere(
    tmp_path: Path, agito_here: Agito, words: tuple[str, ...]
) -> None:
    (tmp_path / "here").mkdir()
    said = agito_here(*words, expect=4).stderr
    assert "hub" not in said
    assert words[-1 if "--port" not in words else 1] in said


@pytest.mark.parametrize(
    ("name", "may_be"),
    [
        ("Qwen/Qwen3-0.6B", True),
        ("HuggingFaceTB/SmolLM2-135M", True),
        ("runs/smoke", False),
        ("models/own", False),
        ("out/final", False),
        ("checkpoints/step-40", False),
        ("./own/model", False),
        ("~/own", False),
        ("data/tasks.jsonl", False),
        ("a/b/c", False),
        ("own", False),
    ],
)
def test_only_what_can_be_no_path_of_ones_own_is_a_hubs(name: str, may_be: bool) -> None:
    assert is_hub_id(name) is may_be


def test_a_run_that_is_not_there_is_looked_for_nearby(coin_home: Path, here_in: HereIn) -> None:
    said = here_in(coin_home)("eval", "runs/coins", expect=4).stderr
    assert f"no run and no checkpoint at {coin_home}/runs/coins; did you mean runs/coin?" in said
    (coin_home / "below").mkdir(exist_ok=True)
    said = here_in(coin_home / "below")("eval", "runs/coin", expect=4).stderr
    assert "did you mean ../runs/coin?" in said


@pytest.mark.parametrize(
    "words",
    [
        ("audit", "shell", "--html", "nothere/card.html"),
        ("audit", "shell", "--html", "/proc/card.html"),
        ("audit", "shell", "--html", "folder"),
        ("train", "smoke", "--out", "/proc/x"),
        ("train", "smoke", "--out", "file/x"),
        ("gateway", "run", "--port", "0", "--record", "/proc/x"),
        ("gateway", "run", "--port", "0", "--record", "file"),
        ("envs", "new", "own", "--into", "/proc/x"),
        ("envs", "new", "own", "--into", "file"),
        ("grade", "shell", "heldout/find-1/0", "--workspace", "/proc/x", "--begin"),
        ("models", "get", "smollm2-135m", "--into", "/proc/x"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path, agito_here: Agito, words: tuple[str, ...]
) -> None:
    (tmp_path / "file").write_text("taken")
    (tmp_path / "folder").mkdir()
    done = agito_here(*words, expect=4)
    (line,) = done.stderr.splitlines()
    assert line.startswith("agito: error: ") and "please report" not in line
    assert next(word for word in words if word.startswith(("/proc", "file", "folder", "nothere"))) in line


def checked(agito: Agito, sentence: str) -> str:
    """What a check says of the rule, without line breaks."""
    told = agito("envs", "check", OWN, expect=13).stdout
    _, found, rest = told.partition(f"✗ {sentence}")
    assert found, told
    return " ".join(rest.partition("✓")[0].partition("✗")[0].split())


SOLVED = "every solution earns full marks, whatever faults it meets"


def test_a_solution_that_runs_out_of_turns_is_told_so_and_given_the_remedy_for_that(
    tmp_path: Path, agito_here: Agito
) -> None:
    edit(tmp_path, agito_here, "Limits(turns=10, calls=10)", "Limits(turns=2, calls=10)")
    said = checked(agito_here, SOLVED)
    assert "; the attempt ended by turns (2). Remedy: allow in `limits` the turns" in said
    assert "timeout" not in said and "()" not in said


def test_a_solution_that_is_wrong_where_no_fault_was_injected_is_not_told_to_survive_timeouts(
    tmp_path: Path, agito_here: Agito
) -> None:
    edit(tmp_path, agito_here, "return (lambda: bisect(task, 1.0, 0),)", "return (lambda: guess(10**6),)")
    said = checked(agito_here, SOLVED)
    assert (
        "the attempt ended by submitted. Remedy: no fault was injected: compare what the solution submits"
        in said
    )


def test_what_an_environment_raises_in_episodes_is_told_once_whatever_the_task(
    tmp_path: Path, agito_here: Agito
) -> None:
    edit(tmp_path, agito_here, '        said = text_of(call, "number")', "        said = len(7)")
    told = agito_here("envs", "check", OWN, expect=13).stdout
    assert told.count("object of type 'int' has no len()") == 1
    assert told.count("as above: ") >= 5


def test_a_split_that_an_environment_lacks_is_looked_for_in_its_own_file(
    tmp_path: Path, agito_here: Agito
) -> None:
    edit(
        tmp_path,
        agito_here,
        '    families, levels = ("bisect",)',
        '    splits = ("train", "heldout")\n    families, levels = ("bisect",)',
    )
    told = agito_here("envs", "check", OWN, expect=13).stdout
    assert "procedural.py" not in told and "hidden_number.py:" in told


def test_a_call_is_shown_with_its_tool_unless_it_is_a_shells(capsys: pytest.CaptureFixture[str]) -> None:
    for tool, wanted in (("ask", "$ ask 7"), ("sh", "$ 7")):
        print_event(out(), Event(index=0, call=Call(tool=tool, arguments={"x": "7"}), text=""), tool)
        assert capsys.readouterr().out.strip() == wanted


def test_a_mark_of_doubt_is_explained_beneath_the_card_and_the_chance_level_is_told_as_declared(
    agito_here: Agito,
) -> None:
    agito_here("envs", "new", "hidden_number")
    told = " ".join(agito_here("audit", OWN, "--short", "--seconds", "2").stdout.split())
    assert "! marks what is worth a look; only ✗ keeps out of training" in told
    assert "declared to earn 12.5%" in told
