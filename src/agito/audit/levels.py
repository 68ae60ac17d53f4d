"""The order of levels: a higher level is harder, or at least longer; never easier."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations

from agito.audit import limits
from agito.audit.card import Case, Gate
from agito.audit.episode import Drawn, Episode
from agito.audit.episode_runner import EpisodeRunner
from agito.types import mean

_PER_LEVEL, _LEAST = 300, 5
_SURE_Z, _APART_Z = 4.2, 2.6  # standard errors for a certain difference, and for a possible one
_EASIER, _SHORTER = 0.1, 0.8
_COMPARED = 8  # episodes per level needed to compare at all
_ENOUGH = 40  # episodes per level needed to say "no difference"
_SKILLS = (0.5, 0.8)


async def levels(runner: EpisodeRunner, cases: list[Case]) -> Gate:
    """Runs middling demonstrators on every level, and compares lengths of earlier solutions."""
    environment = runner.environment
    ordered = sorted(environment.levels)
    cells = len(ordered) * len(environment.families)
    number = len(ordered) * runner.depth.of(_PER_LEVEL, least=_LEAST)
    jobs = list(enumerate(runner.draw("train", number, first=9_000, within_s=runner.seconds_left / 4)))
    tried: list[Episode] = []

    async def work(job: tuple[int, Drawn]) -> None:
        at, (task, key) = job
        script = environment.demonstrator(task, key, skill=_SKILLS[at // cells % len(_SKILLS)], seed=at)
        episode = await runner.play((task, key), script, noise=at)
        runner.honest.append(episode)
        if episode.reward is not None:
            tried.append(episode)

    await runner.each(jobs, work, least=min(len(jobs), _LEAST * cells))
    solved = [episode for episode in runner.solved if episode.task.split == "train"]
    wrong = _wrong(tried, solved, "")
    for family in environment.families if len(environment.families) > 1 else ():
        wrong += _wrong(
            [each for each in tried if each.task.family == family],
            [each for each in solved if each.task.family == family],
            f"{family}: ",
        )
    cases += [Case(what=each) for each in wrong]
    same = "" if wrong or len(ordered) < 2 else _same(tried, solved)
    if same:
        cases.append(Case(what=same))
    fine = (
        f"no level of {', '.join(map(str, ordered))} is easier than one below"
        if len(ordered) > 1
        else "there is one level only"
    )
    return Gate(
        name="levels",
        value=float(len(wrong) + bool(same)),
        limit=limits.LEVELS,
        holds=not wrong and not same,
        found=(wrong[0] if wrong else same) or fine,
        remedy="let what makes a task hard grow with its level (steps, distractors, faults), and check "
        "that a demonstrator feels it",
    )


def _by_level(episodes: Sequence[Episode]) -> Mapping[int, list[Episode]]:
    found: dict[int, list[Episode]] = defaultdict(list)
    for each in episodes:
        found[each.task.level].append(each)
    return dict(sorted(found.items()))


def _wrong(tried: Sequence[Episode], solved: Sequence[Episode], where: str) -> list[str]:
    """Pairs of levels where the higher one is easier for demonstrators, or shorter for solutions and not
    harder.
    """
    by_level, solutions, found = _by_level(tried), _by_level(solved), list[str]()
    for low, high in combinations(by_level, 2):
        if min(len(by_level[low]), len(by_level[high])) < _COMPARED:
            continue
        earns = {level: [each.reward or 0.0 for each in by_level[level]] for level in (low, high)}
        lengths = {
            level: [float(len(each.events)) for each in solutions.get(level, ())] for level in (low, high)
        }
        easier = mean(earns[high]) - mean(earns[low])
        if easier > _EASIER and _z(earns[high], earns[low]) > _SURE_Z:
            found.append(
                f"{where}level {high} is easier than level {low}: demonstrators earn "
                f"{mean(earns[high]):.2f} and {mean(earns[low]):.2f}"
            )
        elif (
            min(map(len, lengths.values())) >= _LEAST
            and _is_shorter(lengths[high], lengths[low])
            and _z(earns[low], earns[high]) < _APART_Z
        ):
            calls = f"{mean(lengths[high]):.1f} and {mean(lengths[low]):.1f}"
            found.append(f"{where}level {high} takes fewer calls than level {low} ({calls}) and is no harder")
    return found


def _is_shorter(these: Sequence[float], those: Sequence[float]) -> bool:
    return mean(these) < _SHORTER * mean(those) and _z(those, these) > _SURE_Z


def _same(tried: Sequence[Episode], solved: Sequence[Episode]) -> str:
    """A message if no two levels differ in anything measured; empty if they do, or if there is too little
    data.
    """
    by_level, solutions = _by_level(tried), _by_level(solved)
    if min((len(each) for each in (*by_level.values(), *solutions.values())), default=0) < _ENOUGH:
        return ""
    for low, high in combinations(by_level, 2):
        one, two = [_sizes(by_level[level], solutions.get(level, [])) for level in (low, high)]
        if any(abs(_z(a, b)) > _APART_Z for a, b in zip(one, two, strict=True)):
            return ""
    return (
        f"levels {', '.join(map(str, by_level))} differ in nothing: in what demonstrators earn, in "
        "calls, prompts, observations, keys"
    )


def _sizes(tried: Sequence[Episode], solved: Sequence[Episode]) -> list[list[float]]:
    return [
        [each.reward or 0.0 for each in tried],
        [float(len(each.events)) for each in tried],
        [float(len(each.events)) for each in solved],
        [float(sum(map(len, each.task.prompt.values()))) for each in solved],
        [float(sum(len(event.text) for event in each.events)) for each in solved],
        [float(len(repr(each.target.data))) for each in solved],
        [float(sum(event.fault is not None for event in each.events)) for each in solved],
    ]


def _z(these: Sequence[float], those: Sequence[float]) -> float:
    """By how many standard errors the first mean exceeds the second."""
    if not these or not those:
        return 0.0
    width = max(*these, *those) - min(*these, *those)
    error = math.sqrt(_variance(these, width) / len(these) + _variance(those, width) / len(those))
    return (mean(these) - mean(those)) / max(error, 1e-9)


def _variance(values: Sequence[float], width: float) -> float:
    """Adds one pseudo-value on either side, so that a few equal values give no certainty."""
    middle = mean(values)
    return sum((value - middle) ** 2 for value in values) / len(values) + width**2 / (len(values) + 1) / 4
