"""Whether right work is accepted: every solution, on every split, with many noise seeds; and whether it works
without the target.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from agito.audit import limits
from agito.audit.agents import coping, stumbling
from agito.audit.card import Case, Gate, Measure, clipped
from agito.audit.episode import Drawn, Episode
from agito.audit.episode_runner import EpisodeRunner
from agito.audit.statistics import share
from agito.protocols import ScriptFactory
from agito.types import Target

_TASKS, _LEAST = 1200, 12
_SLIPS = 6  # every sixth run makes two harmless mistakes first
_UNINFORMED = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    name: str
    drawn: Drawn
    script: ScriptFactory
    noise: int
    slips: bool


async def honest(runner: EpisodeRunner, cases: list[Case]) -> tuple[Measure, Gate]:
    """Fills `runner.solved`. A rejected run is replayed once: two rejections are no accident."""
    runs = _runs(runner)
    twice: list[str] = []

    async def work(run: _Run) -> bool | None:
        episode = await runner.play(run.drawn, run.script, noise=run.noise)
        runner.honest.append(episode)
        if episode.reward is None:
            return None
        if episode.is_success and not run.slips:
            runner.solved.append(episode)
        if _is_accepted(run, episode):
            return True
        again = await runner.play(run.drawn, run.script, attempt=episode.attempt, noise=run.noise)
        if again.reward is not None and not _is_accepted(run, again) and not run.slips:
            twice.append(run.drawn[0].id)
        cases.append(
            Case(
                what=clipped(f"{run.name} earns {episode.reward:g} {episode.verdict.evidence}", 200),
                where=run.drawn[0].id,
            )
        )
        return False

    wins = [won for won in await runner.each(runs, work, least=_LEAST) if won is not None]
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


def _runs(runner: EpisodeRunner) -> list[_Run]:
    splits = runner.environment.splits
    number = runner.depth.of(_TASKS, least=_LEAST)
    per_split = {
        split: runner.draw(split, -(-number // len(splits)), within_s=runner.seconds_left / 8)
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
        for order, solution in enumerate(runner.environment.solutions(*each)):
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
    """Mistakes may cost some reward, or end the episode early if calls are few."""
    limits_ = run.drawn[0].limits
    is_cut = run.slips and len(episode.events) >= min(limits_.calls, limits_.turns)
    return is_cut or (episode.reward or 0.0) >= (0.5 if run.slips else 1.0) - 1e-9


async def informed(runner: EpisodeRunner, cases: list[Case]) -> Gate:
    """Replays solved tasks with scripts that get another task's target: those still solved need no target."""
    why = getattr(runner.environment, "solutions_need_target", "")
    mates: dict[object, list[Episode]] = defaultdict(list)
    for episode in runner.solved:
        mates[episode.task.cell, episode.task.split].append(episode)
    jobs = [(episode, mates[episode.task.cell, episode.task.split]) for episode in runner.solved]
    jobs = [(episode, _other_key(episode, group)) for episode, group in jobs if len(group) > 1]

    async def work(job: tuple[Episode, Target]) -> str | None:
        episode, other = job
        for _ in range(2):
            for script in _scripts(runner, episode, other):
                drawn = episode.task, episode.target
                again = await runner.play(
                    drawn, script, attempt=episode.attempt, noise=episode.noise, provokes=True
                )
                if again.is_success:
                    return None
        return episode.task.id

    asked = jobs[: runner.depth.of(_UNINFORMED, least=_LEAST)]
    failed = await runner.each(asked, work, least=6)
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
        "or say in `solutions_need_target` why a script cannot",
    )


def _other_key(episode: Episode, group: Sequence[Episode]) -> Target:
    """The target of the next task of the same family, level and split, under this task's id."""
    at = next(number for number, each in enumerate(group) if each is episode)
    other = next(
        (each.target for each in (*group[at + 1 :], *group[:at]) if each.target.data != episode.target.data),
        episode.target,
    )
    return Target(task_id=episode.target.task_id, seed=other.seed, data=other.data)


def _scripts(runner: EpisodeRunner, episode: Episode, other: Target) -> list[ScriptFactory]:
    environment = runner.environment
    try:
        made = [
            *environment.solutions(episode.task, other),
            environment.demonstrator(episode.task, other, skill=1.0, seed=0),
        ]
    except Exception:  # the boundary: a script that cannot even start without its own key needs it
        return []
    return [coping(script) for script in made]
