"""The five diagnostic worlds: the contract, and every measure against a hand-worked value."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest

from agito.envs.decisions import DecisionsEnvironment
from agito.envs.decisions.chain import Chain
from agito.envs.decisions.fanout import FanOut
from agito.envs.decisions.ledger import Ledger, Question
from agito.envs.decisions.probe import ODDS, Probe, value
from agito.envs.decisions.scene import Case, Spent, act_again, call
from agito.envs.decisions.tooldag import ToolDAG, Trouble
from agito.protocols import Environment, Renderer
from agito.render import learn, renderer
from agito.testing.environment import EnvironmentContract
from agito.testing.episodes import play
from agito.types import AttemptId, Call, Dialect, Event, Limits, TerminationReason, Trajectory


class TestDecisionsEnvironment(EnvironmentContract):
    async def make(self) -> Environment:
        return DecisionsEnvironment()

    def renderers(self) -> Sequence[Renderer]:
        vocabulary = learn(["get kol", "start dun let"], size=300)
        return [renderer(dialect, vocabulary) for dialect in Dialect]


def acted(case: Case, *calls: Call, tokens: int = 3) -> dict[str, float]:
    scene = act_again(case.scene(), [(call.tool, call.arguments) for call in calls])
    return scene.measures(Spent(tokens=(tokens,) * len(calls)))


LIMITS = Limits()
ANY = Event(index=0, call=call("say"), text="")
CHAIN = Chain(
    start="let",
    moves=(("let", "rap"), ("lock", "rap"), ("vum", "dok"), ("dok", "kid")),
    settled=2,
    limits=LIMITS,
)


def test_chain_counts_what_was_spent_after_the_answer_was_certain() -> None:
    late = acted(
        CHAIN, call("next"), call("next"), call("at", room="rap"), call("next"), call("submit", room="rap")
    )
    assert (
        late["chain_early"],
        late["chain_late_turns"],
        late["chain_late_tokens"],
        late["chain_notes"],
    ) == (0.0, 2.0, 6.0, 1.0)


def test_in_chain_a_guess_is_early_and_never_pays_even_when_it_is_right() -> None:
    scene = act_again(CHAIN.scene(), [("next", {}), ("submit", {"room": "rap"})])
    assert scene.measures(Spent(tokens=(1, 1)))["chain_early"] == 1.0
    assert not scene.outcome().success


def bayes(counts: dict[str, int], left: int, prices: tuple[tuple[str, int], ...], num: int) -> float:
    """Slow reference: the posterior as a list of numbers, over every reading of every sensor."""
    odds = [ODDS ** counts.get(str(part), 0) for part in range(num)]
    belief = [each / sum(odds) for each in odds]
    best = max(belief)
    for sensor, price in prices if left else ():
        weight = {"weak": 1, "strong": 2}[sensor]
        right = ODDS**weight / (ODDS**weight + num - 1)
        total = -price / 100
        for said in range(num):
            chance = sum(
                belief[part] * (right if part == said else (1 - right) / (num - 1)) for part in range(num)
            )
            total += chance * bayes(
                {**counts, str(said): counts.get(str(said), 0) + weight}, left - 1, prices, num
            )
        best = max(best, total)
    return best


@pytest.mark.parametrize("prices", [(("weak", 2),), (("weak", 9),), (("weak", 3), ("strong", 5))])
def test_the_value_of_a_belief_is_that_of_full_bayesian_enumeration(
    prices: tuple[tuple[str, int], ...],
) -> None:
    for scores in ((0, 0, 0), (1, 0, 0), (2, 1, 0)):
        slow = bayes({str(part): score for part, score in enumerate(scores)}, 3, prices, 3)
        assert value(scores, 3, prices) == pytest.approx(slow, abs=1e-12)


def probe(*readings: str) -> Probe:
    return Probe(
        parts=("let", "rap", "vum"),
        broken="let",
        prices=(("weak", 9),),
        readings={"weak": (*readings, *["let"] * 8)},
        limits=LIMITS,
    )


def test_probe_measures_the_gap_to_the_bayes_optimal_answer() -> None:
    """After one reading the belief is (4, 1, 1) / 6, and one more reading is worth its price."""
    found = acted(probe("let"), call("probe", sensor="weak"), call("submit", part="let"))
    gap = value((1, 0, 0), 7, (("weak", 9),)) - 4 / 6
    assert gap > 0 and found["probe_gap"] == pytest.approx(100 * gap) and found["probe_optimal"] == 0.5


def test_in_probe_an_unlucky_answer_on_good_evidence_is_a_success() -> None:
    case = probe("rap", "rap")
    scene = act_again(
        case.scene(),
        [("probe", {"sensor": "weak"}), ("probe", {"sensor": "weak"}), ("submit", {"part": "rap"})],
    )
    outcome = scene.outcome()
    assert outcome.success and outcome.reward == 1.0 and outcome.scores["right"] == 0.0


DAG = ToolDAG(
    target="kol",
    ways={"kol": (("dun", 2),), "dun": (("mig", 1), ("vax", 4))},
    raw=("mig", "vax"),
    troubles={("dun", "mig"): Trouble.BROKEN, ("kol", "dun"): Trouble.SILENT},
    optimum=6,
    limits=LIMITS,
)


def make(thing: str, source: str) -> Call:
    return call("make", thing=thing, source=source)


def test_tooldag_tells_violations_overcost_and_recovery_by_kind_of_fault() -> None:
    found = acted(
        DAG,
        make("kol", "dun"),
        make("dun", "mig"),
        make("dun", "vax"),
        make("dun", "vax"),
        make("kol", "dun"),
        make("kol", "dun"),
    )
    assert found["dag_violations"] == 1.0  # dun was not at hand
    assert found["dag_overcost"] == pytest.approx(10 / 6 - 1)  # dun was made twice
    assert (found["dag_recovery_broken"], found["dag_recovery_silent"]) == (1.0, 1.0)
    gave_up = acted(DAG, make("dun", "mig"), call("submit", answer="done"))
    assert gave_up["dag_recovery_broken"] == 0.0 and "dag_overcost" not in gave_up


def test_in_tooldag_a_thing_that_is_tried_with_what_is_no_source_of_it_is_spoiled() -> None:
    calls = [
        make("kol", "vax"),
        make("dun", "vax"),
        make("kol", "dun"),
        make("kol", "dun"),
        call("submit", answer="done"),
    ]
    assert not act_again(DAG.scene(), [(each.tool, each.arguments) for each in calls]).outcome().success
    assert act_again(DAG.scene(), [(each.tool, each.arguments) for each in calls[1:]]).outcome().success


def test_in_ledger_some_answer_is_a_word_that_the_prompt_does_not_show() -> None:
    env = DecisionsEnvironment()
    for level, split, index in product((1, 2, 3), ("train", "structural"), range(60)):
        task, target = env.task(split=split, index=index, seed=3, family="ledger", level=level)
        script = env.solutions(task, target)[0]()
        said = [next(script), *(script.send(ANY) for _ in range(task.limits.turns - 1))]
        shown = task.prompt[Dialect.COMPACT].replace(",", "").split()
        assert {str(each.arguments["value"]) for each in said[1:]} - {*shown, "gone"}, task.prompt[
            Dialect.COMPACT
        ]


def test_ledger_tells_stale_claims_from_forgotten_and_invented_ones() -> None:
    asked = [Question(subject="kol", facts=(("kol", "let"), ("kol", "rap")), past=("let", "rap"))] * 4
    claims = [call("say", name="kol", value=said) for said in ("rap", "let", "gone", "mul")]
    found = acted(Ledger(questions=tuple(asked), limits=LIMITS), *claims)
    assert found == {
        "ledger_contradictions": 0.75,
        "ledger_stale": 0.25,
        "ledger_forgotten": 0.25,
        "ledger_invented": 0.25,
    }


def fanout(kind: str) -> FanOut:
    return FanOut(kind=kind, parts=("kol", "dun"), results=("let", "rap"), lengths=(3, 6), limits=LIMITS)


def test_fanout_is_late_when_parts_that_could_run_at_once_run_one_after_the_other() -> None:
    one_by_one = (
        call("start", part="kol"),
        call("wait"),
        call("start", part="dun"),
        call("wait"),
        call("submit", results="let rap"),
    )
    assert acted(fanout("all"), *one_by_one)["fanout_overtime_all"] == 0.5
    at_once = (
        call("start", part="kol"),
        call("start", part="dun"),
        call("wait"),
        call("wait"),
        call("submit", results="rap let"),
    )
    scene = act_again(fanout("all").scene(), [(each.tool, each.arguments) for each in at_once])
    assert scene.outcome().success and scene.outcome().reward == 1.0


def test_in_a_line_nothing_is_gained_by_starting_early() -> None:
    line = fanout("line")
    eager = (
        call("start", part="kol"),
        call("start", part="dun"),
        call("wait"),
        call("start", part="dun", given="let"),
        call("wait"),
    )
    found = acted(line, *eager)
    assert (found["fanout_too_early"], found["fanout_overtime_line"]) == (1.0, 0.0)


@pytest.mark.anyio
async def test_the_demonstrator_does_worse_the_higher_the_level() -> None:
    env = DecisionsEnvironment()

    async def success(family: str, level: int) -> float:
        wins = 0.0
        for index in range(80):
            task, target = env.task(split="train", index=index, seed=5, family=family, level=level)
            played = await play(
                env,
                task,
                target,
                env.demonstrator(task, target, skill=0.6, seed=index),
                AttemptId(group=index, slot=0),
            )
            wins += played.verdict.scores["success"]
        return wins / 80

    for family in ("chain", "tooldag", "fanout"):
        assert await success(family, 1) > await success(family, 5) + 0.1, family


@pytest.mark.anyio
async def test_every_measure_that_is_declared_is_measured_and_the_optimum_is_the_best_of_all() -> None:
    env, seen = DecisionsEnvironment(), dict[str, float]()
    for index in range(150):
        task, target = env.task(split="train", index=index, seed=5, level=3)
        events = (await play(env, task, target, env.solutions(task, target)[0])).events
        trajectory = Trajectory(
            attempt=AttemptId(group=0, slot=0),
            task=task,
            segments=(),
            turns=(),
            events=events,
            end=TerminationReason.SUBMITTED,
        )
        for name, found in env.measures(task, target, trajectory).items():
            seen[name] = max(seen.get(name, found), found) if found == found else found
    declared = {measure.name: measure for measure in env.measured}
    assert set(seen) == set(declared) - {"chain_late_tokens"}  # a script says nothing in tokens
    for name, measure in declared.items():
        if measure.optimum_is_best and name in seen and name != "probe_right":
            assert seen[name] == pytest.approx(1.0 if measure.higher_is_better else 0.0), name
