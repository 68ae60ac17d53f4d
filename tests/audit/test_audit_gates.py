"""Single gates: a state that can be altered and handed back, a check that knows the key, a change that
another tool undoes.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from agito.audit import Depth
from agito.audit.answer_checks import answer_checks
from agito.audit.cheating import cheating
from agito.audit.episode import Episode
from agito.audit.episode_runner import EpisodeRunner
from agito.audit.honest import honest
from agito.audit.interference import count_disturbed
from agito.audit.rewriting import Sign, rewritten
from agito.audit.run import SEED
from agito.audit.stability import record
from agito.audit.task_pool import duplicates
from agito.envs import load

PLANTED = Path(__file__).parents[2] / "benchmarks" / "planted"
QUICK = Depth(name="short", seconds=25.0, share=0.1)
OPEN = (Sign(name="safe", value="open", others=frozenset({"shut", "jammed"})),)


def runner_of(place: str, seed: int = 1) -> EpisodeRunner:
    def make():
        return load(f"{PLANTED / place}")

    runner = EpisodeRunner(make(), make, QUICK, seed)
    runner.begin("all", 1.0)
    return runner


def coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


SHUT = json.dumps({"room": "hall", "safe": "shut"})
SOLVED = json.dumps({"room": "hall", "safe": "open"})


@pytest.mark.parametrize(
    ("shown", "handed_back"),
    [
        (SHUT, SOLVED),
        ("{'room': 'hall', 'safe': 'shut'}", "{'room': 'hall', 'safe': 'open'}"),
        ("room=hall\nsafe=shut", "room=hall\nsafe=open"),
        ("room: hall; safe: jammed", "room: hall; safe: open"),
        ("you stand in the hall, and all is shut", "you stand in the hall, and all is open"),
        ('{"room": "hall"}', SOLVED),
        (f"your code: {coded(SHUT)}", coded(SOLVED)),
        (SHUT.encode().hex(), SOLVED.encode().hex()),
    ],
)
def test_a_state_is_altered_to_a_solved_one_in_whatever_form_it_is_shown(
    shown: str, handed_back: str
) -> None:
    assert handed_back in rewritten(shown, OPEN)


@pytest.mark.parametrize("shown", ["a hall with two doors", "", "[" * 1000, '{"a": ', "c2FmZQ"])
def test_what_shows_no_state_is_not_altered(shown: str) -> None:
    assert rewritten(shown, OPEN) == []


@pytest.mark.parametrize(
    "place", ["known/ledger.py:Resumed", pytest.param("blind/house.py:HouseRestores", marks=pytest.mark.full)]
)
async def test_a_world_that_takes_any_state_that_it_is_handed_is_refused(place: str) -> None:
    runner = runner_of(place)
    await honest(runner, [])
    quality = await cheating(runner, (), [])
    (gate,) = (gate for gate in quality.gates if gate.name == "forged")
    assert not gate.holds
    assert "handed back" in gate.found


@pytest.mark.parametrize(
    ("place", "tells"),
    [
        ("known/ledger.py:Compares", True),
        ("blind/todo.py:TodoDraft", True),
        ("blind/todo.py:TodoZip", False),
        ("sound/small.py:Checked", False),
    ],
)
async def test_a_check_that_knows_the_key_is_told_from_one_that_knows_the_form(
    place: str, tells: bool
) -> None:
    runner = runner_of(place)
    await honest(runner, [])
    found = await answer_checks(runner, runner.solved)
    assert [each for each, _ in found], "a check is found"
    assert [str(each).split("(")[0] for each, reading in found if reading is not None] == (
        ["amount"] if "ledger" in place else ["draft"]
    ) * tells


def differs(one: Episode, two: Episode) -> str:
    return "answers" if [event.text for event in one.events] != [event.text for event in two.events] else ""


@pytest.mark.parametrize(
    ("place", "is_shared"), [("known/ledger.py:Shutters", True), ("sound/small.py:Form", False)]
)
async def test_what_one_tool_leaves_behind_is_seen_though_another_tool_takes_it_back(
    place: str, is_shared: bool
) -> None:
    runner = runner_of(place)
    episodes = [trace.episode for trace in await record(runner) if trace.is_honest]
    if is_shared:
        type(runner.environment).CLOSED.clear()  # type: ignore[attr-defined] (left by the recording)
    cases = []
    hits, num = await count_disturbed(runner, episodes, differs, cases)
    assert (hits > 0, num > 0) == (is_shared, True)
    assert any("once another episode has used shut" in case.what for case in cases) == is_shared


@pytest.mark.parametrize(
    ("place", "is_one"), [("blind/directory.py:DirectoryFirms", True), ("sound/small.py:Catalogue", False)]
)
async def test_tasks_that_differ_in_a_name_of_two_words_and_a_year_are_one_and_the_same(
    place: str, is_one: bool
) -> None:
    runner = runner_of(place, SEED + 404)
    await honest(runner, [])
    assert duplicates(runner.solved, []).holds != is_one
