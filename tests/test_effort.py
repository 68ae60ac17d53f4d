"""A run over efforts and `auto`, from a cold start to a curve: one effort a group, budgets held, replayed."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

import agito
from agito.errors import AgitoError, BadRecipe
from agito.evaluation.effort import EffortCurve, measures_of
from agito.learning.effort import EffortSection
from agito.recipe import read
from agito.record.commits import load_meta
from agito.record.events import CheckpointSaved, Event
from agito.record.reading import Recorded, read_trajectories
from agito.types import Effort, Mode, TokenSource

PAGE = Path(__file__).parents[1] / "docs/howto/effort.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
TINY = (
    "sft.demos=64",
    "sft.epochs=1",
    "sft.tokenizer_episodes=40",
    "rl.steps=2",
    "rl.groups=8",
    "rl.group_size=4",
    "rl.oversampling=1.0",
    "rl.checkpoint_every=1",
    "eval.tasks=8",
    "eval.structural_tasks=0",
    "eval.baseline_tasks=0",
    "compute.ranks=1",
    "effort.turn_tokens=6",
    "effort.attempt_tokens=9",
    "effort.free_steps=0",
    "model.hidden_size=32",
    "model.num_layers=1",
)


def recorded(run: Path) -> list[Recorded]:
    return [
        each for path in sorted((run / "trajectories").glob("*.parquet")) for each in read_trajectories(path)
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    agito.train("think", overrides=TINY, out=out, admit_anyway=True)
    return out


def test_every_group_is_of_one_effort_and_efforts_and_cells_take_turns(run: Path) -> None:
    found = [each for each in recorded(run) if each.phase == "rl"]
    by_group = dict[int, set[Effort]]()
    for each in found:
        trajectory = each.attempt.trajectory
        by_group.setdefault(trajectory.attempt.group, set()).update(turn.effort for turn in trajectory.turns)
    assert all(len(efforts) == 1 for efforts in by_group.values())
    assert len(found) == 4 * len(by_group), "four attempts each"
    assert {effort for efforts in by_group.values() for effort in efforts} >= {Effort.NONE, Effort.HIGH}


def test_demonstrators_and_policies_alike_keep_their_budgets(run: Path) -> None:
    phases, forced = set[str](), 0
    for each in recorded(run):
        trajectory = each.attempt.trajectory
        turns = [turn for turn in trajectory.turns if not turn.continues]
        assert all(turn.num_thought <= (turn.think_budget or 0) <= 6 for turn in turns)
        assert sum(turn.num_thought for turn in turns) <= 9
        phases.add(each.phase)
        forced += trajectory.segments[0].tokens.kinds.count(TokenSource.FORCED)
    assert {"demo", "rl", "after"} <= phases and forced > 0


def test_at_auto_half_of_a_group_acts_at_once_and_half_thinks_and_evaluations_leave_it_to_the_policy(
    run: Path,
) -> None:
    found = [each for each in recorded(run) if each.attempt.trajectory.turns[0].effort is Effort.AUTO]
    learned = [each for each in found if each.phase == "rl"]
    assert learned
    for each in learned:
        trajectory = each.attempt.trajectory
        first, tokens = trajectory.turns[0], trajectory.segments[0].tokens
        assert first.is_steered and first.mode is (Mode.ACT, Mode.THINK)[trajectory.attempt.slot % 2]
        assert math.isfinite(tokens.logprobs[first.start]) and tokens.is_sampled[first.start]
        assert (first.num_thought == 0) or first.mode is Mode.THINK
    shown = [each.attempt.trajectory.turns[0] for each in found if each.phase == "demo"]
    assert {turn.mode for turn in shown} == {*Mode} and not any(turn.is_steered for turn in shown)


def test_the_choice_is_metered_and_its_price_is_one_for_all_cells(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seen = {key for line in lines if line.get("phase") == "rl" for key in line}
    assert {
        "effort/auto_think_probability_mean",
        "effort/auto_decided_ratio",
        "effort/auto_act_utility_mean",
        "effort/auto_think_utility_mean",
        "effort/high_budget_ratio",
        "effort/high_leaked_tokens_mean",
    } <= seen
    prices = load_meta(run / "checkpoints" / "final")["prices"]
    assert isinstance(prices, dict) and isinstance(prices["prices"], dict)
    assert [key for key in prices["prices"] if key.endswith("/auto")] == ["all/auto"]


def test_prices_are_metered_and_kept_with_the_checkpoint(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line.get("phase") == "rl"][-1]
    assert {"effort/low_price_mean", "effort/high_cost_mean", "effort/high_success_ratio"} <= last.keys()
    meta = load_meta(run / "checkpoints" / "final")
    assert isinstance(meta["prices"], dict) and meta["prices"]["costs"]


DEAR = ("effort.shares={low=0.01,medium=0.02}", "effort.price_step=0.2", "rl.steps=4")  # prices rise at once


class Killed(Exception):
    pass


def test_attempts_pay_for_their_effort_and_a_resumed_run_goes_on_with_its_prices(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    agito.train("think", overrides=(*TINY, *DEAR), out=whole, admit_anyway=True)

    def stop(event: Event) -> None:
        if isinstance(event, CheckpointSaved) and event.name == "step-2":
            raise Killed

    with pytest.raises(Killed):
        agito.train("think", overrides=(*TINY, *DEAR), out=broken, admit_anyway=True, on_event=stop)
    agito.resume(broken)
    metas = [load_meta(run / "checkpoints" / "final")["prices"] for run in (whole, broken)]
    assert metas[0] == metas[1]
    paid = [
        {
            str(each.attempt.trajectory.attempt): each.attempt.cost
            for each in recorded(run)
            if each.phase == "rl"
        }
        for run in (whole, broken)
    ]
    assert paid[0] == paid[1] and max(paid[0].values()) > 0


DECOUPLED = (
    "pipeline.mode=decoupled",
    "compute.ranks=2",
    "env.levels=[1]",
    'effort.settings=["low", "high"]',
    "effort.shares={low=0.1}",
    "rl.steps=12",
    "rl.groups=2",
    "rl.checkpoint_every=6",
)


def test_in_decoupled_mode_and_after_a_resume_a_group_pays_one_price(tmp_path: Path) -> None:
    """The lowest reward pays the mean cost at the price of the group: the same for all of a group."""
    out = tmp_path / "run"

    def stop(event: Event) -> None:
        if isinstance(event, CheckpointSaved) and event.name == "step-6":
            raise Killed

    with pytest.raises(Killed):
        agito.train("think", overrides=(*TINY, *DEAR, *DECOUPLED), out=out, admit_anyway=True, on_event=stop)
    agito.resume(out)
    paid = dict[int, set[float]]()
    for each in recorded(out):
        if each.phase == "rl" and each.attempt.verdict.reward == 0.0:
            paid.setdefault(each.attempt.trajectory.attempt.group, set()).add(each.attempt.cost)
    assert all(len(prices) == 1 for prices in paid.values())
    assert len({price for prices in paid.values() for price in prices}) > 4, "prices move from group to group"


def test_an_attempt_at_any_effort_is_replayed_without_a_difference(run: Path) -> None:
    found = [each.attempt.trajectory for each in recorded(run) if each.phase == "rl"]
    first = {trajectory.turns[0].effort: trajectory.attempt for trajectory in found}
    for attempt in first.values():
        assert agito.replay(run, attempt, phase="rl").differences == ()


def test_one_checkpoint_is_asked_for_every_effort(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the Python that `docs/howto/effort.md` gives."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/think").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(BLOCK.findall(PAGE.read_text())[0], names)
    assert "high Estimate(value=" in capsys.readouterr().out
    curve: EffortCurve = names["curve"]
    assert list(curve.efforts) == [*Effort] and curve.auto is not None
    assert curve.efforts[Effort.NONE].measures["think_tokens"].value == 0.0
    assert all(each.over_budget == 0 and each.num == 40 for each in curve.efforts.values())


def test_utility_is_reported_at_the_price_of_the_recipe(run: Path) -> None:
    attempts = [each.attempt for each in recorded(run) if each.phase == "rl"]
    for price in (0.002, 0.005):
        found = [measures_of(each, EffortSection(utility_price=price)) for each in attempts]
        assert any(each["cost"] > 1 for each in found)
        paid = [attempt.verdict.reward - each["u"] for attempt, each in zip(attempts, found, strict=True)]
        assert paid == pytest.approx([price * each["cost"] for each in found])


def test_what_cannot_be_asked_for_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match="has no demonstrators that think"):
        agito.train(
            "smoke", overrides=['effort.settings=["low"]', *TINY[:3], "rl.steps=0"], out=tmp_path / "shell"
        )
    for changes, why in (
        (("rl.group_size=3",), "needs 4 attempts at a task at one effort"),
        (("compute.sampler=vllm", "model.path=x"), "a vLLM server"),
    ):
        with pytest.raises(AgitoError, match=why):
            agito.train("think", overrides=(*TINY, *changes), out=tmp_path / "bad", admit_anyway=True)
    with pytest.raises(BadRecipe, match="name each once"):
        read("think", ('effort.settings=["low", "low"]',))
    with pytest.raises(BadRecipe, match="a share is of high's cost"):
        read("think", ('effort.settings=["none", "low"]',))
