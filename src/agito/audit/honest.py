"""Whether right work is accepted: every solution, on every split, under many noises; and whether it can be
done without the target.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from agito.audit import limits
from agito.audit.agents import coping, stumbling
from agito.audit.card import Case, Gate, Measure
from agito.audit.episode import Drawn, Episode
from agito.audit.numbers import share
from agito.audit.stage import Stage
from agito.protocols import ScriptFactory
from agito.types import Target

_TASKS, _LEAST = 1200, 12
_SLIPS = 6  # after two slips of the pen one run in so many is honest too
_UNINFORMED = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    name: str
    drawn: Drawn
    script: ScriptFactory
    noise: int
    slips: bool


async def honest(stage: Stage, cases: list[Case]) -> tuple[Measure, Gate]:
    """Fills `stage.solved`. A run that is rejected is acted again: what is rejected twice is no accident."""
    runs = _runs(stage)
    twice: list[str] = []

    async def work(run: _Run) -> bool | None:
        episode = await stage.play(run.drawn, run.script, noise=run.noise)
        stage.honest.append(episode)
        if episode.reward is None:
            return None
        if episode.is_success and not run.slips:
            stage.solved.append(episode)
        if _is_accepted(run, episode):
            return True
        again = await stage.play(run.drawn, run.script, attempt=episode.attempt, noise=run.noise)
        if again.reward is not None and not _is_accepted(run, again) and not run.slips:
            twice.append(run.drawn[0].id)
        cases.append(
            Case(
                what=f"{run.name} earns {episode.reward:g} {episode.verdict.evidence}".strip()[:200],
                where=run.drawn[0].id,
            )
        )
        return False

    wins = [won for won in await stage.each(runs, work, least=_LEAST) if won is not None]
    rejected = share("honest rejected", wins.count(False), len(wins))
    holds = rejected.value is not None and rejected.value <= limits.HONEST and not twice
    found = (
        f"{wins.count(False)} of {len(wins)} honest runs are rejected"
        if wins
        else "no honest run came to a verdict"
    )
    gate = Gate(
        name="honest",
        value=rejected.value,
        limit=limits.HONEST,
        holds=holds,
        found=found + (f", {len(twice)} of them whenever they are acted" if twice else ""),
        remedy="accept every right answer: look at the cases, and at what the grader compares"
        if wins
        else "let an episode come to a verdict: look at what broke",
    )
    return rejected, gate


def _runs(stage: Stage) -> list[_Run]:
    splits = stage.environment.splits
    number = stage.depth.of(_TASKS, least=_LEAST)
    per_split = {
        split: stage.draw(split, -(-number // len(splits)), within_s=stage.seconds_left / 8)
        for split in splits
    }
    drawn = [
        per_split[split][at]
        for at in range(max(map(len, per_split.values())))
        for split in splits
        if at < len(per_split[split])
    ]
    runs: list[_Run] = []
    for at, each in enumerate(drawn):
        slips = at % _SLIPS == _SLIPS - 1
        for order, solution in enumerate(stage.environment.solutions(*each)):
            name = f"solution {order}{' after two slips' if slips else ''}"
            runs.append(
                _Run(
                    name=name,
                    drawn=each,
                    script=stumbling(solution) if slips else solution,
                    noise=at,
                    slips=slips,
                )
            )
    return runs


def _is_accepted(run: _Run, episode: Episode) -> bool:
    """Slips may cost something, and where calls are few, the end."""
    limits_ = run.drawn[0].limits
    is_cut = run.slips and len(episode.events) >= min(limits_.calls, limits_.turns)
    return is_cut or (episode.reward or 0.0) >= (0.5 if run.slips else 1.0) - 1e-9


async def informed(stage: Stage, cases: list[Case]) -> Gate:
    """Solved tasks again, by scripts that are given another task's key: what they still solve, they solved
    without the target.
    """
    why = getattr(stage.environment, "solutions_need_key", "")
    mates: dict[object, list[Episode]] = defaultdict(list)
    for episode in stage.solved:
        mates[episode.task.cell, episode.task.split].append(episode)
    jobs = [(episode, mates[episode.task.cell, episode.task.split]) for episode in stage.solved]
    jobs = [(episode, _other_key(episode, group)) for episode, group in jobs if len(group) > 1]

    async def work(job: tuple[Episode, Target]) -> str | None:
        episode, other = job
        for _ in range(2):
            for script in _scripts(stage, episode, other):
                drawn = episode.task, episode.target
                again = await stage.play(
                    drawn, script, attempt=episode.attempt, noise=episode.noise, provokes=True
                )
                if again.is_success:
                    return None
        return episode.task.id

    asked = jobs[: stage.depth.of(_UNINFORMED, least=_LEAST)]
    failed = await stage.each(asked, work, least=6)
    lost = [task for task in failed if task is not None]
    if lost and not why:
        cases.append(Case(what="solved only by a script that knows the target", where=lost[0]))
    found = f"{len(lost)} of {len(failed)} tasks are solved only by a script that is given their own key"
    if not failed:
        found = "there are no two solved tasks alike to exchange their keys"
    return Gate(
        name="informed",
        value=float(len(lost)),
        limit=limits.INFORMED,
        holds=not lost or bool(why),
        found=found + (f"; declared: {why}" if why and lost else ""),
        remedy="ship a solution that finds everything out through the tools (a task that none can solve is "
        "broken), "
        "or say in `solutions_need_key` why a script cannot",
    )


def _other_key(episode: Episode, group: Sequence[Episode]) -> Target:
    """Of the next task of the same family, level and split; its label is the task's own."""
    at = next(number for number, each in enumerate(group) if each is episode)
    other = next(
        (each.target for each in (*group[at + 1 :], *group[:at]) if each.target.data != episode.target.data),
        episode.target,
    )
    return Target(task_id=episode.target.task_id, seed=other.seed, data=other.data)


def _scripts(stage: Stage, episode: Episode, other: Target) -> list[ScriptFactory]:
    environment = stage.environment
    try:
        made = [
            *environment.solutions(episode.task, other),
            environment.demonstrator(episode.task, other, skill=1.0, seed=0),
        ]
    except Exception:  # the boundary: what cannot even begin without its own key needs it
        return []
    return [coping(script) for script in made]
