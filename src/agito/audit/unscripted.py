"""What an audit can say of prompts with a reward function, without a script that solves them.

The reward function is called on texts that any policy could say without having understood a thing, again and
again, and in another instance of the environment. How hard the prompts are, and whether better answers earn
more, only a policy can show.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import anyio

from agito.audit import limits
from agito.audit.card import Case, Gate, Mark, Measure, Quality, clipped, judged
from agito.audit.cheap_answers import (
    CONSTANTS,
    NOT_MEASURED,
    ODD,
    PER_ANSWER,
    answer_of,
    guarded_from_thoughtless,
    sealed_as,
    unmeasured,
    verdict_of,
)
from agito.audit.episode import Drawn
from agito.audit.episode_runner import GRADE_SEED, EpisodeRunner
from agito.audit.task_pool import splits_gate
from agito.envs.prompts import PromptsEnvironment
from agito.envs.prompts.reward import BadReward
from agito.protocols import Finite
from agito.rollout import EpisodeDriver
from agito.types import Dialect, Status

_TASKS = 120  # of each split that are looked at, at the most
_JUDGED = 6  # completions without a reward that are judged as training judges them


async def unscripted(runner: EpisodeRunner) -> tuple[Quality, ...]:
    """The qualities of a card; those of which nothing can be known say so."""
    runner.begin("prompts", 0.2)
    tasks = {split: runner.draw(split, _size(runner, split)) for split in runner.environment.splits}
    diverse = _diversity(runner, tasks)
    runner.begin("what needs no thought", 0.7)
    guarded = await guarded_from_thoughtless(runner, tasks["train"])
    runner.begin("the same again", 1.0)
    steady = await _steady(runner, tasks["train"])
    return (
        steady,
        _unknown("realism"),
        _unknown("scenario coverage"),
        _unknown("difficulty gradient"),
        diverse,
        _unknown("feedback richness"),
        guarded,
        _unknown("scalability of rollout generation"),
    )


def _unknown(name: str) -> Quality:
    return Quality(
        name=name, mark=Mark.DOUBT, says="not measured: prompts have no scripts to measure it by", measures=()
    )


def _size(runner: EpisodeRunner, split: str) -> int:
    environment = runner.environment
    return (
        min(_TASKS, environment.num_tasks(split))
        if isinstance(environment, Finite)
        else runner.depth.of(_TASKS)
    )


def _diversity(runner: EpisodeRunner, tasks: dict[str, list[Drawn]]) -> Quality:
    """Prompts that are in two splits, and prompts that are there twice."""
    environment, cases = runner.environment, list[Case]()
    whole = {
        split: [
            _key(drawn)
            for drawn in runner.draw(
                split, environment.num_tasks(split) if isinstance(environment, Finite) else len(found)
            )
        ]
        for split, found in tasks.items()
    }
    train = set(whole["train"])
    shared = {
        split: sum(key in train for key in keys) / max(len(keys), 1)
        for split, keys in whole.items()
        if split != "train"
    }
    worst = max(shared, key=lambda split: shared[split])
    if shared[worst]:
        example = next(key for key in whole[worst] if key in train)
        cases.append(Case(what=f"in training and {worst}: {clipped(example, 160)}"))
    holds = shared[worst] <= limits.OVERLAP
    overlap = Gate(
        name="overlap",
        value=round(shared[worst], 4),
        limit=limits.OVERLAP,
        holds=holds,
        found=f"{shared[worst]:.0%} of the {worst} prompts are training prompts, but for case and white "
        "space",
        remedy="take out of the training data what is in the held-out file; without such a file the "
        "splits are made disjoint",
    )
    equal = environment.num_equal_rows if isinstance(environment, PromptsEnvironment) else 0
    twice = 1 - len(train) / len(whole["train"])
    measures = (
        *(Measure(name=f"{split} prompts", value=float(len(keys))) for split, keys in whole.items()),
        Measure(name="training prompts that repeat", value=round(twice, 4)),
        Measure(name="equal rows left out", value=float(equal)),
    )
    says = f"{len(train)} distinct training prompts"
    if equal:
        says += f"; {equal} rows equal others in every column, and are left out"
    return judged(
        "state diversity",
        says,
        measures,
        (splits_gate(runner), overlap),
        cases,
        doubt=len(train) < 50 or twice > 0.2 or equal > 0,
    )


def _key(drawn: Drawn) -> str:
    return " ".join(drawn[0].prompt[Dialect.NATURAL].lower().split())


async def _steady(runner: EpisodeRunner, train: Sequence[Drawn]) -> Quality:
    """The same completion is worth the same, later and in another instance; ordinary ones have a reward."""
    cases: list[Case] = []
    ordinary = (
        (drawn, (answer_of(drawn[1]) or "No", CONSTANTS[at % len(CONSTANTS)]))
        for at, drawn in enumerate(train[:PER_ANSWER])
    )
    texts = [(drawn, text) for drawn, said in ordinary for text in said]
    here, other = runner.environment, runner.make()
    try:
        first = [await verdict_of(runner, here, *each) for each in texts]
        again = [await verdict_of(runner, other, *each) for each in reversed(texts)][::-1]
        later = [await verdict_of(runner, here, *each) for each in texts]
    finally:
        with anyio.CancelScope(shield=True):
            await other.aclose()
    differs = [
        at
        for at in range(len(texts))
        if len({repr((each[at].status, each[at].reward)) for each in (first, again, later)}) > 1
    ]
    for at in differs[:3]:
        worth = ", then ".join(f"{each[at].reward:g}" for each in (first, again, later))
        cases.append(Case(what=f"{texts[at][1]!r:.60} earns {worth}", where=texts[at][0][0].id))
    raised = [each for each, verdict in zip(texts, first, strict=True) if verdict.status is Status.VOID]
    is_silent = len(raised) == len(texts) and not differs
    gate = Gate(
        name="determinism",
        value=len(differs) / max(len(texts), 1),
        limit=0.0,
        holds=not differs,
        found=f"{len(differs)} of {len(texts)} completions are worth something else when judged again",
        remedy="no clock, no generator without a seed, nothing kept between two calls; ask a judge model "
        "by `Judge`, which keeps answers",
    )
    gate = unmeasured(gate) if is_silent else gate
    works = await _works(runner, raised, len(texts), cases)
    odd = [(text, await verdict_of(runner, here, train[0], text)) for text in ODD]
    raises = [(text, verdict) for text, verdict in odd if verdict.status is Status.VOID]
    cases += [
        Case(what=f"on {text[:12]!r}: {clipped(verdict.evidence, 160)}") for text, verdict in raises[:3]
    ]
    says = "judged again, the same verdict" if not differs else "its verdicts change"
    says = NOT_MEASURED if is_silent else says
    measures = (
        Measure(name="ordinary texts it fails on", value=float(len(raised)), num=len(texts)),
        Measure(name="odd texts it fails on", value=float(len(raises)), num=len(odd)),
    )
    return judged("stability", says, measures, (gate, works), cases, doubt=bool(raises or raised))


async def _works(
    runner: EpisodeRunner, raised: Sequence[tuple[Drawn, str]], num: int, cases: list[Case]
) -> Gate:
    """A completion that the reward function fails on is scored in training, if it does not fail on a
    reference beside it.
    """
    driver = EpisodeDriver(runner.environment, noise_seed=0, grade_seed=GRADE_SEED)
    told = [await driver.grade(sealed_as(drawn, text), *drawn) for drawn, text in raised[:_JUDGED]]
    cases += [Case(what=clipped(text, 240)) for text in dict.fromkeys(each.evidence for each in told)][:3]
    broken = [verdict.evidence for verdict in told if verdict.status is Status.VOID]
    return Gate(
        name="reward function",
        value=len(broken) / max(len(told), 1),
        limit=0.0,
        holds=not broken,
        found=f"it fails whatever the answer: {clipped(_cause(broken[0]), 300)}"
        if broken
        else f"it gives {num - len(raised)} of {num} ordinary answers a reward, and the others the lowest",
        remedy="keep to what is asked for here, for every completion"
        if broken and BadReward.__name__ in broken[0]
        else "repair what raises here, and return the lowest reward for a completion that cannot be read"
        if broken
        else "return the lowest reward for what cannot be read; raise only where nothing can be said, "
        "which makes the attempt void",
    )


def _cause(evidence: str) -> str:
    """What the reward function did, of all that is said about how it was asked."""
    found = re.search(r"failed \d+ times \((.+?)\)(?:, and on a reference|; no reference|$)", evidence)
    return found[1] if found else evidence
