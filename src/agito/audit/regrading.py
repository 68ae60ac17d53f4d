"""One capture, one verdict: graded repeatedly, with one grade seed and with others, and with meaningless
submissions.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from agito.audit.agents import nothing
from agito.audit.card import Case
from agito.audit.episode import Episode
from agito.audit.episode_runner import GRADE_SEED, EpisodeRunner
from agito.types import Status

_GRADES, _SEEDS, _REGRADED, _LEAST_REGRADED = 5, 40, 400, 4
_REPEATED = 3_000  # gradings in total
_MEANINGLESS = 200


@dataclass(slots=True)
class Regraded:
    captures: int = 0
    mixed: int = 0
    gradings: int = 0


async def regrade(runner: EpisodeRunner, cases: list[Case]) -> Regraded:
    """Grades captures repeatedly: the same seed must give the same verdict; under other seeds solved captures
    stay solved and failed ones failed.
    """
    found = Regraded()
    failed = await runner.each(
        runner.draw("train", 6, first=800), lambda each: runner.play(each, nothing), least=2
    )
    solved = runner.solved[: runner.depth.of(_REGRADED, least=_LEAST_REGRADED)]
    chosen = [*solved[:_LEAST_REGRADED], *failed, *solved[_LEAST_REGRADED:]]
    for number, episode in enumerate(chosen):
        if episode.sealed is None or episode.problem or episode.is_void:
            continue
        if found.captures >= _LEAST_REGRADED and runner.is_late:
            break
        times = max(_GRADES, _REPEATED // len(chosen))
        seeds = [GRADE_SEED] * times + ([GRADE_SEED + 1 + at for at in range(_SEEDS if number < 24 else 4)])
        problem = await _graded(runner, episode, seeds, found)
        found.captures += 1
        found.mixed += bool(problem)
        if problem:
            cases.append(Case(what=problem, where=episode.task.id))
    for episode in failed:
        problem = await _by_chance(runner, episode, found)
        found.captures += 1
        found.mixed += bool(problem)
        if problem:
            cases.append(Case(what=problem, where=episode.task.id))
    return found


async def _by_chance(runner: EpisodeRunner, episode: Episode, found: Regraded) -> str:
    """A message if some of many meaningless submissions are accepted and others are not."""
    sealed, rng = episode.sealed, random.Random(episode.task.id)
    if sealed is None or episode.is_success:
        return ""
    right: list[str] = []
    for at in range(_MEANINGLESS):
        if at >= _GRADES and runner.is_late:
            break
        text = (
            str(rng.randrange(10**9, 10**10))
            if at % 2
            else "".join(rng.choice("bcdfghjkmpqrstvwxz") for _ in range(12))
        )
        verdict = await runner.grade(replace(sealed, submitted=text), episode.target)
        found.gradings += 1
        right += [text] if verdict.reward >= 1.0 - 1e-9 else []
    if right and len(right) < _MEANINGLESS // 2:
        return (
            f"{len(right)} of {_MEANINGLESS} meaningless submissions are taken for right, such as "
            f"{right[0]!r}"
        )
    return ""


async def _graded(runner: EpisodeRunner, episode: Episode, seeds: Sequence[int], found: Regraded) -> str:
    """A message if the verdict changes; empty if not."""
    sealed, first = episode.sealed, repr(episode.verdict)
    assert sealed is not None
    for at, seed in enumerate(seeds):
        if at >= _GRADES and runner.is_late:
            break
        verdict = await runner.grade(sealed, episode.target, seed)
        if verdict.status is Status.VOID:
            is_machine = verdict.evidence.startswith("infra")
            return (
                ""
                if is_machine
                else f"one capture gets a verdict, and none in grading {at + 1}: {verdict.evidence}"
            )
        found.gradings += 1
        if seed == GRADE_SEED and repr(verdict) != first:
            return (
                f"one capture earns {episode.verdict.reward:g}, and {verdict.reward:g} in grading "
                f"{at + 1} with the same seed"
            )
        if (verdict.reward >= 1.0 - 1e-9) != episode.is_success:
            return (
                f"one capture earns {episode.verdict.reward:g} with one grade seed, and "
                f"{verdict.reward:g} with another"
            )
    return ""
