"""Difficulty gradient: which agents do better on which levels, and whether an agent of middling skill can
still learn something.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

from agito.audit.agents import at_random, blind, nothing
from agito.audit.card import Case, Measure, Quality, judged
from agito.audit.episode import Drawn, Episode
from agito.audit.episode_runner import EpisodeRunner
from agito.audit.statistics import average, share
from agito.protocols import Environment, ScriptFactory
from agito.types import Target, Task, mean

AGENTS = ("null", "random", "weak", "demonstrator", "solver")  # in order of expected success
_WEAK, _MIDDLING = 0.2, 0.5
_TASKS = 80  # for every agent
_LEARNER_TASKS, _LEARNER_TRIES = 30, 8
_FAR = 0.05  # means closer than this count as equal


async def gradient(runner: EpisodeRunner) -> Quality:
    played = await _ladder(runner)
    levels = sorted(runner.environment.levels)
    tau = _tau(played, levels, runner.environment.chance_level + _FAR)
    learnable = await _learnable(runner)
    falls = _falls(played["demonstrator"], levels)
    measures = [
        Measure(
            name="tau",
            value=tau,
            num=sum(map(len, played.values())),
            note="agreement with null < random < weak < demonstrator < solver",
        ),
        learnable,
        Measure(
            name="falls with level",
            value=falls,
            num=len(played["demonstrator"]),
            note="rank correlation of level and failure",
        ),
    ]
    measures += [_success(name, found) for name, found in played.items()]
    for name in ("demonstrator", "solver"):
        measures += [
            _success(f"{name} at {level}", [each for each in played[name] if each.task.level == level])
            for level in levels
        ]
    cases = [
        Case(what=f"{name} does not tell the levels or agents apart")
        for name, value in (("tau", tau),)
        if value is not None and value < 0.9
    ]
    cases += _idle_levels(played["demonstrator"], levels)
    says = (
        f"tau {tau if tau is not None else '–'}; {learnable.value or 0:.0%} of tasks are neither sure "
        "nor hopeless for a middling agent"
    )
    doubt = (tau is not None and tau < 0.9) or (learnable.value or 0.0) < 0.2
    return judged("difficulty gradient", says, tuple(measures), (), cases, doubt=doubt)


async def _ladder(runner: EpisodeRunner) -> dict[str, list[Episode]]:
    """Every agent on the same tasks; also, outside the ladder, the solver without observations."""
    environment = runner.environment
    ways: Mapping[str, Callable[[Task, Target, int], ScriptFactory]] = {
        "null": lambda task, target, at: nothing,
        "random": lambda task, target, at: at_random(task, at),
        "weak": lambda task, target, at: environment.demonstrator(task, target, skill=_WEAK, seed=at),
        "demonstrator": lambda task, target, at: environment.demonstrator(
            task, target, skill=_MIDDLING, seed=at
        ),
        "solver": lambda task, target, at: environment.solutions(task, target)[0],
        "blind": lambda task, target, at: blind(environment.solutions(task, target)[0]),
    }
    drawn = runner.draw("heldout", runner.depth.of(_TASKS, least=_least(environment)))
    jobs = [(name, at, each) for at, each in enumerate(drawn) for name in ways]
    played: dict[str, list[Episode]] = {name: [] for name in ways}

    async def work(job: tuple[str, int, Drawn]) -> None:
        name, at, (task, key) = job
        episode = await runner.play((task, key), ways[name](task, key, at), noise=at)
        if episode.reward is not None:
            played[name].append(episode)
        if name in ("weak", "demonstrator", "solver"):
            runner.honest.append(episode)

    await runner.each(jobs, work, least=_least(environment) * len(ways))
    return played


def _least(environment: Environment) -> int:
    return max(6, min(2 * len(environment.families) * len(environment.levels), 12))


def _success(name: str, episodes: Sequence[Episode]) -> Measure:
    return share(f"success of {name}", sum(each.is_success for each in episodes), len(episodes))


def _tau(played: Mapping[str, Sequence[Episode]], levels: Sequence[int], floor: float) -> float | None:
    """Kendall's tau over all pairs of agents at every level. Leaves out pairs at the floor; a tie counts 0,
    or 1 if both are at the top.
    """
    score = pairs = 0
    for level in levels:
        means = [
            mean(each.reward or 0.0 for each in played[name] if each.task.level == level) for name in AGENTS
        ]
        for worse, better in combinations(means, 2):
            if worse != worse or better != better or max(worse, better) <= floor:
                continue
            pairs += 1
            score += (
                (better > worse) - (better < worse)
                if abs(better - worse) > 1e-9
                else int(min(worse, better) >= 1 - _FAR)
            )
    return round(score / pairs, 3) if pairs else None


async def _learnable(runner: EpisodeRunner) -> Measure:
    """The share of tasks that a middling demonstrator solves with a frequency between 0.1 and 0.9."""
    drawn = runner.draw("train", runner.depth.of(_LEARNER_TASKS, least=8), first=1000)
    outcomes: dict[str, list[bool]] = defaultdict(list)

    async def work(job: tuple[int, Drawn]) -> None:
        seed, (task, key) = job
        script = runner.environment.demonstrator(task, key, skill=_MIDDLING, seed=seed)
        episode = await runner.play((task, key), script, noise=seed)
        runner.honest.append(episode)
        if episode.reward is not None:
            outcomes[task.id].append(episode.is_success)

    jobs = [(100 * at + seed, each) for at, each in enumerate(drawn) for seed in range(_LEARNER_TRIES)]
    await runner.each(jobs, work, least=6 * _LEARNER_TRIES)
    full = [found for found in outcomes.values() if len(found) >= _LEARNER_TRIES // 2]
    between = sum(0.1 < sum(found) / len(found) < 0.9 for found in full)
    return share(
        "neither sure nor hopeless",
        between,
        len(full),
        note=f"{_LEARNER_TRIES} tries of a demonstrator of skill {_MIDDLING}",
    )


def _falls(episodes: Sequence[Episode], levels: Sequence[int]) -> float | None:
    """Kendall's tau of level and mean failure, over pairs of levels."""
    means = [
        mean(float(each.is_success) for each in episodes if each.task.level == level) for level in levels
    ]
    pairs = [
        (low > high) - (low < high) for low, high in combinations(means, 2) if low == low and high == high
    ]
    return round(sum(pairs) / len(pairs), 3) if pairs else None


def _idle_levels(episodes: Sequence[Episode], levels: Sequence[int]) -> list[Case]:
    cases: list[Case] = []
    for level in levels:
        found = [each.reward or 0.0 for each in episodes if each.task.level == level]
        measure = average("", found)
        if measure.high is not None and measure.high < 0.1:
            cases.append(
                Case(
                    what=f"level {level} is hopeless for the demonstrator: {measure.value} over "
                    f"{len(found)} tasks"
                )
            )
    return cases
