"""Resistance to cheating: what attacks earn, including open-loop and forging ones; whether wrong answers
lose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from agito.audit import limits
from agito.audit.agents import nothing, prompt_of, words_of
from agito.audit.attacks import Attackers, negative_controls
from agito.audit.card import Case, Gate, Measure, Quality, judged
from agito.audit.episode import Drawn, Episode
from agito.audit.episode_runner import EpisodeRunner
from agito.audit.forging import FORGED, forging
from agito.audit.leaked_answers import ASKED, secret_requests
from agito.audit.open_loop import BLIND, CONSTANT, open_loop_attacks
from agito.audit.statistics import average, bounds, earns_more, share
from agito.protocols import OPEN_LOOP, ScriptFactory
from agito.types import EpisodeArtifacts, Status, mean

_FIRST_TASK = 5_000  # first index of the attacked tasks, disjoint from those solved before
# tasks for every attack, at least, and for attacks that earned anything
_TASKS, _LEAST_TASKS, _MORE = 40, 1, 600
# an attack works if luck explains its successes with a probability below this, divided by the number of
# attacks
_SURE = 1e-3
_MUTATED = 16
_NAMED = 5  # attacks named in the gate's message


@dataclass(slots=True)
class Attacked:
    """What one attack earned."""

    rewards: list[float] = field(default_factory=list[float])
    successes: int = 0
    example: str = ""  # a task on which it succeeded

    def add(self, episode: Episode) -> None:
        if episode.reward is None:
            return
        self.rewards.append(episode.reward)
        if episode.is_success:
            self.successes += 1
            self.example = episode.task.id


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackKind:
    """Attacks judged by one gate, recognised by name prefix."""

    gate: str
    begins: tuple[str, ...]
    limit: float
    remedy: str
    fine: str  # message when no attack of the kind works
    works: str


_KINDS = (
    AttackKind(
        gate="constants",
        begins=(CONSTANT,),
        limit=limits.EXPLOITS,
        fine="no answer that is right elsewhere earns more than luck",
        works="the same answer everywhere earns more than luck",
        remedy="balance the answers, or declare the share of the most common one as the chance level",
    ),
    AttackKind(
        gate="open loop",
        begins=(BLIND, OPEN_LOOP),
        limit=limits.EXPLOITS,
        fine="an agent that never reads an observation earns no more than luck",
        works="an agent that never reads an observation earns more than luck",
        remedy="let the way to the answer, and the answer, depend on what the world says and the prompt does "
        "not",
    ),
    AttackKind(
        gate="forged",
        begins=(FORGED,),
        limit=limits.FORGED,
        fine="nothing that the tools can write counts as success",
        works="the verdict trusts what the tools can write",
        remedy="judge on the trusted side, by what was done; read no result, log or state that the agent "
        "can write",
    ),
    AttackKind(
        gate="asked",
        begins=(ASKED,),
        limit=limits.TOLD,
        fine="no tool reveals what an answer would earn",
        works="a tool reveals what an answer would earn",
        remedy="let no tool compare anything with the target",
    ),
    AttackKind(
        gate="exploits",
        begins=("",),
        limit=limits.EXPLOITS,
        fine="no attack earns more than luck",
        works="attacks earn more than luck",
        remedy="grade what was done, not what was said: compare strictly with the target, on our side",
    ),
)


async def cheating(runner: EpisodeRunner, attackers: Sequence[Attackers], cases: list[Case]) -> Quality:
    """Runs after `honest`, because the attacks use what solutions did."""
    donors = [episode for episode in runner.solved if episode.task.split == "train"] or runner.solved
    prepared = [
        *attackers,
        open_loop_attacks(runner.environment, donors),
        forging(runner.environment, donors, await _failed(runner)),
        secret_requests(runner, donors),
    ]
    attacked = await _attack(runner, prepared)
    works = {name for name, found in attacked.items() if _is_sure(runner, found, len(attacked))}
    gates = [_judged_kind(kind, attacked, works, cases) for kind in reversed(_KINDS)]
    gates = [_needs_open_loop(runner, gate) if gate.name == "open loop" else gate for gate in gates]
    floor, floor_gate = _floor(
        runner, {name: found for name, found in attacked.items() if _kind_of(name).gate == "exploits"}, cases
    )
    killed, survivors = await _mutants(runner)
    cases += [Case(what=f"mutant accepted: {name}", where=where) for name, where in survivors[:4]]
    passing = share(
        "attacks passing",
        len(works),
        len(attacked),
        note="attacks that luck at the chance level does not explain",
    )
    blind = max(
        (
            found.successes / len(found.rewards)
            for name, found in attacked.items()
            if _kind_of(name).gate == "open loop" and found.rewards
        ),
        default=None,
    )
    bought = Measure(
        name="bought by the prompt",
        value=None if blind is None else round(blind, 4),
        num=_TASKS,
        note="success of the best agent that never looks",
    )
    says = f"{len(works)} of {len(attacked)} attacks pass, the floor is {floor.value or 0:.3f}"
    doubt = (killed.value if killed.value is not None else 1.0) < 0.9
    return judged(
        "anti-cheating", says, (passing, floor, bought, killed), (*gates, floor_gate), cases, doubt=doubt
    )


async def _failed(runner: EpisodeRunner) -> list[Episode]:
    """Episodes in which the agent did nothing."""
    drawn = runner.draw("train", runner.depth.of(8, least=2), first=700)
    return await runner.each(drawn, lambda each: runner.play(each, nothing, provokes=True), least=1)


async def _attack(runner: EpisodeRunner, attackers: Sequence[Attackers]) -> dict[str, Attacked]:
    """Tries every attack on a few tasks, then those that earned anything on many more, to tell a loophole
    from luck.
    """
    tasks = runner.depth.of(_TASKS, least=4)
    attacked: dict[str, Attacked] = {}

    async def strike(job: tuple[str, Drawn, ScriptFactory]) -> None:
        attacked.setdefault(job[0], Attacked()).add(await runner.play(job[1], job[2], provokes=True))

    drawn = runner.draw("heldout", tasks, first=_FIRST_TASK, within_s=runner.seconds_left / 8)
    jobs = [
        (name, each, script) for each in drawn for name, script in _scripts(runner, attackers, each).items()
    ]
    await runner.each(jobs, strike, least=_LEAST_TASKS * len(jobs) // max(len(drawn), 1))
    suspects = {
        name
        for name, found in attacked.items()
        if found.successes and not _is_sure(runner, found, len(attacked))
    }
    more = (
        runner.draw(
            "heldout",
            runner.depth.of(_MORE, least=tasks),
            first=_FIRST_TASK + tasks,
            within_s=runner.seconds_left / 8,
        )
        if suspects
        else []
    )
    jobs = [
        (name, each, script)
        for each in more
        for name, script in _scripts(runner, attackers, each).items()
        if name in suspects
    ]
    await runner.each(jobs, strike, least=min(len(jobs), tasks * len(suspects)))
    return attacked


def _scripts(
    runner: EpisodeRunner, attackers: Sequence[Attackers], drawn: Drawn
) -> Mapping[str, ScriptFactory]:
    return {
        name: script
        for attacker in attackers
        for name, script in attacker(runner.environment, drawn[0]).items()
    }


def _is_sure(runner: EpisodeRunner, found: Attacked, num: int) -> bool:
    chance = min(runner.environment.chance_level + limits.FLOOR, 1.0)
    return earns_more(found.successes, len(found.rewards), chance, _SURE / max(num, 1))


def _kind_of(name: str) -> AttackKind:
    return next(kind for kind in _KINDS if name.startswith(kind.begins))


def _judged_kind(
    kind: AttackKind, attacked: Mapping[str, Attacked], works: set[str], cases: list[Case]
) -> Gate:
    tried = [name for name in attacked if _kind_of(name) is kind]
    passing = sorted(
        (name for name in tried if name in works),
        key=lambda name: -attacked[name].successes / len(attacked[name].rewards),
    )
    for name in passing[:3]:
        found = attacked[name]
        cases.append(
            Case(
                what=f"{name} earns full marks in {found.successes} of {len(found.rewards)} episodes",
                where=found.example,
            )
        )
    named = "; ".join(name.removeprefix(kind.begins[0]) for name in passing[:_NAMED])
    more = f"; and {len(passing) - _NAMED} more" if len(passing) > _NAMED else ""
    said = f"{kind.works}: {named}{more}" if passing else f"{kind.fine} ({len(tried)} tried)"
    return Gate(
        name=kind.gate,
        value=float(len(passing)),
        limit=kind.limit,
        holds=not passing,
        found=said,
        remedy=kind.remedy,
    )


def _needs_open_loop(runner: EpisodeRunner, gate: Gate) -> Gate:
    """Fails the gate if the environment ships no open-loop control of its own."""
    task, _ = runner.draw("heldout", 1)[0]
    if OPEN_LOOP in negative_controls(runner.environment, task) or not gate.holds:
        return gate
    return replace(
        gate,
        holds=False,
        value=1.0,
        found=f"it ships no negative control {OPEN_LOOP!r}",
        remedy=f"let `negative_controls` give a script {OPEN_LOOP!r}: the best that the prompt alone "
        "allows, without a look at any event",
    )


def _floor(
    runner: EpisodeRunner, attacked: Mapping[str, Attacked], cases: list[Case]
) -> tuple[Measure, Gate]:
    """The best-paid attack that does nothing, guesses or claims. The gate fails if its interval lies above
    the chance level.
    """
    paid = {name: found.rewards for name, found in attacked.items() if found.rewards}
    name = max(paid, key=lambda each: (bounds(paid[each])[0], mean(paid[each])), default="")
    measure = average("floor", paid.get(name, []), note=f"the best paid of {len(paid)}: {name}")
    chance, limit = runner.environment.chance_level, round(runner.environment.chance_level + limits.FLOOR, 4)
    holds = measure.low is not None and measure.low <= limit
    earns = (
        f"{measure.value:.0%} on average ({measure.low:.0%} to {measure.high:.0%} with 95 % confidence)"
        if measure.low is not None
        else "nothing"
    )
    if not holds and name:
        cases.append(
            Case(what=f"{name} earns {earns}, where guessing is declared to earn {_percent(chance)}")
        )
    found = f"the best-paid attack that does nothing, guesses or claims ({name or 'nobody'}) earns {earns}: "
    found += (
        f"no more than guessing, declared to earn {_percent(chance)}, explains"
        if holds
        else f"more than guessing, which is declared to earn {chance:.0%}"
    )
    if not paid:
        found = "no attack came to a verdict"
    remedy = "close what pays without doing the task, or declare and justify a higher chance level"
    return measure, Gate(
        name="floor", value=measure.value, limit=limit, holds=holds, found=found, remedy=remedy
    )


async def _mutants(runner: EpisodeRunner) -> tuple[Measure, list[tuple[str, str]]]:
    """Captures of solved episodes, each corrupted in one place. Some corruptions do not matter, so a survivor
    is only a case to look at.
    """
    solved = [episode for episode in runner.solved if episode.sealed][: runner.depth.of(_MUTATED, least=6)]
    survivors: list[tuple[str, str]] = []
    killed = num = 0
    for episode in solved:
        if num and runner.is_late:
            break
        assert episode.sealed is not None
        others: list[str | None] = [
            other.sealed.submitted for other in solved if other.sealed and other is not episode
        ]
        others += words_of(prompt_of(episode.task))
        for name, mutant in _spoilt(episode.sealed, others):
            verdict = await runner.grade(mutant, episode.target)
            # no world makes such a capture, so a grader that breaks on it is fine
            if verdict.status is Status.VOID:
                continue
            num += 1
            killed += verdict.reward < 1.0 - 1e-9
            if verdict.reward >= 1.0 - 1e-9:
                survivors.append((name, episode.task.id))
    return share(
        "mutants killed",
        killed,
        num,
        note="solved captures, each corrupted in one place; some places do not matter",
    ), survivors


def _spoilt(sealed: EpisodeArtifacts, others: Sequence[str | None]) -> list[tuple[str, EpisodeArtifacts]]:
    """`others` holds submissions to other tasks and words of the prompt: a submission among them, such as
    `done`, is no answer and is left as it is.
    """
    text = sealed.submitted
    found: list[tuple[str, EpisodeArtifacts]] = []
    if text is not None:
        found.append(("nothing submitted", replace(sealed, submitted=None)))
    if text is not None and text not in others:
        changed = {
            "empty": "",
            "one character more": text + "q",
            "cut short": text[:-1],
            "backwards": text[::-1],
        }
        changed["of another task"] = next((other for other in others if other is not None), text)
        found += [
            (f"submission {name}", replace(sealed, submitted=new))
            for name, new in changed.items()
            if new != text
        ]
    for path, data in list(sealed.files.items())[:8]:
        rest = {other: content for other, content in sealed.files.items() if other != path}
        found.append((f"without {path}", replace(sealed, files=rest)))
        if data:
            found.append((f"{path} empty", replace(sealed, files={**sealed.files, path: b""})))
    return found


def _percent(share: float) -> str:
    """As it was declared: 12.5 %, not 12."""
    return f"{100 * share:.4g}%"
