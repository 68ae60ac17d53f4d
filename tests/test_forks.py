"""Attempts are forked at their turns, gone on with, trained on and charged."""

from __future__ import annotations

import json
import math
from pathlib import Path

import anyio
import pytest
from tests.test_resume import PAYING, agito, finish, kill, train, weights

from agito.errors import BadRecipe, NotFound
from agito.recipe import read
from agito.record import Recorded, read_trajectories
from agito.record.commits import load_meta
from agito.replays.episode import replay_episode
from agito.replays.updates import replay_updates
from agito.types import Attempt, AttemptId, TokenSource

REPLAY = (
    *PAYING,
    "monitor.gold_share=0",
    "eval.tasks=2",
    "eval.structural_tasks=0",
    "rl.steps=2",
    "rl.credit=by_replay",
    "rl.fork_ratio=0.5",
    "rl.critical_price=0.3",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("forks")
    return finish(train(home, REPLAY), home)


def attempts(run: Path) -> dict[AttemptId, Recorded]:
    files = sorted((run / "trajectories").glob("rl-*.parquet"))
    return {each.attempt.trajectory.attempt: each for path in files for each in read_trajectories(path)}


def forks(run: Path) -> list[tuple[Recorded, Attempt]]:
    """Each with its parent."""
    found = attempts(run)
    return [
        (each, found[lineage.parent].attempt)
        for each in found.values()
        if (lineage := each.attempt.trajectory.lineage) is not None
    ]


def test_a_fork_comes_to_the_same_state_and_goes_on_from_there(run: Path) -> None:
    found = forks(run)
    assert len(found) >= 4
    ends = set[bool]()
    for recorded, parent in found:
        fork, was = recorded.attempt.trajectory, parent.trajectory
        assert recorded.attempt.is_scored, fork.detail
        assert fork.lineage is not None
        start = fork.turns[0].start
        assert fork.segments[0].tokens.ids[:start] == was.segments[0].tokens.ids[:start]
        before = fork.lineage.event
        assert [(event.call, event.text, event.fault) for event in fork.events[:before]] == [
            (event.call, event.text, event.fault) for event in was.events[:before]
        ]
        ends.add(fork.segments[0].tokens.ids == was.segments[0].tokens.ids)
    assert False in ends, "turns are drawn afresh"


def test_what_a_fork_repeated_is_not_trained_on_and_what_it_said_is(run: Path) -> None:
    trained = 0
    for recorded, _ in forks(run):
        fork = recorded.attempt.trajectory
        start, tokens = fork.turns[0].start, fork.segments[0].tokens
        assert set(tokens.kinds[:start]) == {TokenSource.OBSERVED}
        assert all(map(math.isnan, tokens.logprobs[:start]))
        for stats in recorded.stats:
            column = stats.advantages or ()
            assert not any(column[:start])
            trained += any(column)
    assert trained > 0


def test_forks_are_charged_to_the_token_budget_and_do_not_count_as_attempts(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "fork/num" in line]
    found = [recorded.attempt for recorded in attempts(run).values()]
    of_forks = [attempt for attempt in found if attempt.trajectory.lineage is not None]
    assert sum(line["fork/num"] for line in steps) == len(of_forks)
    assert sum(line["fork/tokens_num"] for line in steps) == sum(
        attempt.trajectory.num_sampled for attempt in of_forks
    )
    rl = [line for line in lines if "tokens/sampled_num" in line]
    assert sum(line["tokens/sampled_num"] for line in rl) == sum(
        attempt.trajectory.num_sampled for attempt in found
    )
    assert sum(line["success/all_num"] for line in rl) == len(found) - len(of_forks)


def test_attempts_and_forks_pay_for_their_critical_path_once_there_is_a_mean(run: Path) -> None:
    prices = load_meta(run / "checkpoints" / "final")["prices"]
    assert isinstance(prices, dict) and prices["paths"]
    first, second = (
        [each.attempt for each in read_trajectories(path)]
        for path in sorted((run / "trajectories").glob("rl-*.parquet"))
    )
    assert {attempt.cost for attempt in first} == {0.0} and max(attempt.cost for attempt in second) > 0.2
    compared = 0
    for recorded, parent in forks(run):
        fork, was, lineage = recorded.attempt, parent.trajectory, recorded.attempt.trajectory.lineage
        if lineage is not None and fork.cost and fork.verdict.reward == parent.verdict.reward == 1.0:
            repeated = [turn for turn in was.turns if turn.calls and turn.calls[0] < lineage.event]
            path = sum(turn.stop - turn.start for turn in (*repeated, *fork.trajectory.turns))
            assert fork.cost / parent.cost == pytest.approx(path / was.num_critical)
            compared += 1
    assert compared, "a fork pays for what it repeated too"


def test_updates_with_forks_replay_bit_for_bit_and_a_fork_itself_is_no_episode(run: Path) -> None:
    again = anyio.run(replay_updates, run)
    assert again.differs == "" and "final" in again.checked
    fork = forks(run)[0][0].attempt.trajectory.attempt
    with pytest.raises(NotFound, match="begins in its middle"):
        anyio.run(replay_episode, run, fork)


def test_a_run_with_forks_that_is_killed_ends_with_the_weights_of_an_uninterrupted_one(
    run: Path, tmp_path: Path
) -> None:
    process = train(tmp_path, REPLAY)
    assert kill(process, after_s=200, when=(tmp_path / "runs/run/checkpoints/step-1").is_dir)
    finish(agito(tmp_path, "train", "--resume", "runs/run"), tmp_path)
    assert weights(tmp_path / "runs/run") == weights(run)


def test_a_recipe_whose_attempts_cannot_be_repeated_cannot_ask_for_credit_by_replay() -> None:
    for overrides in (
        ("pipeline.mode=decoupled",),
        ('harness.command="true"',),
    ):
        with pytest.raises(BadRecipe, match="by_replay"):
            read("quickstart", ("rl.credit=by_replay", *overrides))
    with pytest.raises(BadRecipe, match="not at effort auto"):
        read("team-fanout", ("rl.credit=by_replay", 'effort.settings=["low", "auto"]'))
