"""The tree of a team's agents, from the record of its attempts."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.view.test_report import NASTY, Page, attempt, make_run, parsed, piece

from agito.learning.credit import leave_one_out
from agito.record import TokenStats, write_trajectories
from agito.types import (
    Attempt,
    Call,
    Dialect,
    Event,
    Fault,
    FinishReason,
    Group,
    Segment,
    Turn,
)
from agito.view import write_report
from agito.view.teams import read_teams


def team(index: int, reward: float, *, brief: str = "kol | dun") -> Attempt:
    """The first child reports; the second makes a call that is refused, and runs out of turns."""
    one = attempt(index, reward)
    tokens = one.trajectory.segments[0].tokens
    spawn = Call(tool="spawn", arguments={"role": "worker", "budget": 2, "brief": brief})
    events = (
        Event(index=0, call=spawn, text="let | (out of turns)", fault=Fault.BUDGET),
        Event(index=1, call=Call(tool="report", arguments={"text": "let"}), text="ok"),
        Event(index=2, call=Call(tool="start", arguments={"part": "?"}), text="no", fault=Fault.POLICY),
        Event(index=3, call=Call(tool="submit", arguments={"results": "let"}), text="", ended=True),
    )
    segments = (
        Segment(id=0, tokens=tokens, agent="planner", role="planner"),
        Segment(id=1, tokens=tokens, agent="worker-0.0", role="worker", spawned_by=0),
        Segment(id=2, tokens=tokens, agent="worker-0.1", role="worker", policy="helper", spawned_by=0),
    )
    turns = tuple(
        Turn(segment=segment, start=start, stop=stop, stopped=FinishReason.END, calls=(call,))
        for segment, start, stop, call in ((0, 2, 3, 0), (1, 2, 4, 1), (2, 2, 5, 2), (0, 3, 5, 3))
    )
    return replace(one, trajectory=replace(one.trajectory, segments=segments, turns=turns, events=events))


def stats(attempts: Sequence[Attempt]) -> list[TokenStats]:
    group = Group(id=0, task=attempts[0].trajectory.task, attempts=tuple(attempts))
    return [
        TokenStats(
            attempt=sample.attempt,
            segment=sample.segment,
            advantages=array("f", [value * (1 + sample.segment) for value in sample.advantages]),
            trainer_logprobs=sample.logprobs,
            ratios=array("f", [1.0] * len(sample.ids)),
        )
        for sample in leave_one_out(group)
    ]


def run_of(path: Path, attempts: Sequence[Attempt]) -> Path:
    run = make_run(path)
    write_trajectories(
        run / "trajectories", "rl", 3, attempts, dialect=Dialect.COMPACT, piece=piece, stats=stats(attempts)
    )
    return run


def test_the_tree_says_what_each_agent_was_told_and_returned_and_what_it_cost_and_earned(
    tmp_path: Path,
) -> None:
    run = run_of(tmp_path / "one", [team(0, 1.0), team(1, 0.0)])
    found = read_teams(run / "trajectories", most=1)
    assert (found["step"], found["num"], len(found["shown"])) == (3, 2, 1)
    planner, first, second = found["shown"][0]["agents"]
    assert (planner["parent"], first["parent"], second["parent"]) == (None, 0, 0)
    assert (planner["turns"], planner["tokens"], planner["told"]) == (2, 3, "")
    assert (first["told"], first["returned"], first["reported"], first["faults"]) == ("kol", "let", True, 0)
    assert (second["told"], second["returned"], second["reported"]) == ("dun", "(out of turns)", False)
    assert (second["turns"], second["tokens"], second["faults"], second["policy"]) == (1, 3, 1, "helper")
    assert (planner["credit"], first["credit"], second["credit"]) == (1.0, 2.0, 3.0)


def test_the_page_has_the_tree_and_text_of_agents_never_becomes_markup(tmp_path: Path) -> None:
    page = Page(write_report(run_of(tmp_path / "one", [team(0, 1.0, brief=NASTY), team(1, 0.0)])).read_text())
    data, _ = parsed(page)
    told = [agent["told"] for each in data["teams"]["shown"] for agent in each["agents"]]
    assert NASTY in told and len(page.scripts) == 3 and "teams" in page.ids


def test_a_run_of_one_agent_has_no_tree(tmp_path: Path) -> None:
    data, found = parsed(
        Page(write_report(run_of(tmp_path / "one", [attempt(0, 1.0), attempt(1, 0.0)])).read_text())
    )
    assert data["teams"] == {"step": None, "num": 0, "shown": []}
    assert all("agents" not in pair[side] for pair in found["pairs"] for side in ("before", "after"))
