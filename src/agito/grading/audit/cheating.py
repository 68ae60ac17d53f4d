"""Resistance to cheating: what attacks earn, what nothing and junk earn, whether wrong answers lose and honest ones win."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from agito.grading.audit import limits
from agito.grading.audit.agents import prompt_of, stumbling, words_of
from agito.grading.audit.attacks import ATTACKERS, Attackers
from agito.grading.audit.card import Case, Gate, Measure, Quality, judged
from agito.grading.audit.numbers import average, bounds, luck, share
from agito.grading.audit.stage import GRADE_SEED, Drawn, Episode, Stage
from agito.protocols import ScriptFactory
from agito.types import Sealed, Status, mean

_TASKS, _LEAST_TASKS = 40, 4  # for every attack
_SURE = 1e-3  # an attack works when luck explains its successes with a smaller probability than this, over the number of attacks
_HONEST = 120
_MUTATED = 16


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


async def cheating(stage: Stage, attackers: Sequence[Attackers] = ATTACKERS) -> Quality:
    attacked = await _attack(stage, attackers)
    cases: list[Case] = []
    exploits = _exploits(stage, attacked, cases)
    floor, floor_gate = _floor(stage, attacked, cases)
    honest, honest_gate = await _honest(stage, cases)
    killed, survivors = await _mutants(stage)
    cases += [Case(what=f"mutant accepted: {name}", where=where) for name, where in survivors[:4]]
    num, works = len(attacked), ", ".join(name for name, does in exploits.items() if does)
    passing = share("attacks passing", sum(exploits.values()), num, note="attacks that luck at the chance level does not explain")
    gate = Gate(
        name="exploits", value=float(sum(exploits.values())), limit=limits.EXPLOITS, holds=not any(exploits.values()),
        found=f"{sum(exploits.values())} of {num} attacks pass" + (f": {works}"[:160] if works else ""),
        remedy="grade what was done, not what was said: compare strictly with the key, on the trusted side",
    )  # fmt: skip
    says = f"{sum(exploits.values())} of {num} attacks pass (at most {passing.high or 1.0:.0%}), the floor is {floor.value or 0:.3f}"
    gates = (gate, floor_gate, honest_gate)
    return judged("anti-cheating", says, (passing, floor, honest, killed), gates, cases, doubt=(killed.value or 1.0) < 0.9)


async def _attack(stage: Stage, attackers: Sequence[Attackers]) -> dict[str, Attacked]:
    """Every attack on a few tasks; whatever earned anything there, on many more, to tell a loophole from luck."""
    tasks = stage.depth.of(_TASKS, least=_LEAST_TASKS + 2)
    attacked: dict[str, Attacked] = {}

    async def strike(job: tuple[str, Drawn, ScriptFactory]) -> None:
        attacked.setdefault(job[0], Attacked()).add(await stage.play(job[1], job[2]))

    drawn = stage.draw("heldout", tasks)
    jobs = [(name, each, script) for each in drawn for name, script in _scripts(stage, attackers, each).items()]
    await stage.each(jobs, strike, least=_LEAST_TASKS * len(jobs) // max(len(drawn), 1))
    suspects = {name for name, found in attacked.items() if found.successes and not _is_sure(stage, found, len(attacked))}
    more = stage.draw("heldout", 3 * tasks, first=tasks)
    jobs = [(name, each, script) for each in more for name, script in _scripts(stage, attackers, each).items() if name in suspects]
    await stage.each(jobs, strike, least=len(jobs) // 3)
    return attacked


def _scripts(stage: Stage, attackers: Sequence[Attackers], drawn: Drawn) -> Mapping[str, ScriptFactory]:
    return {name: script for attacker in attackers for name, script in attacker(stage.environment, drawn[0]).items()}


def _is_sure(stage: Stage, found: Attacked, num: int) -> bool:
    return luck(found.successes, len(found.rewards), stage.environment.chance_level) < _SURE / max(num, 1)


def _exploits(stage: Stage, attacked: Mapping[str, Attacked], cases: list[Case]) -> dict[str, bool]:
    works = {name: found.successes > 0 and _is_sure(stage, found, len(attacked)) for name, found in attacked.items()}
    for name in (name for name, does in works.items() if does):
        found = attacked[name]
        cases.append(Case(what=f"{name} earns full marks in {found.successes} of {len(found.rewards)} episodes", where=found.example))
    return works


def _floor(stage: Stage, attacked: Mapping[str, Attacked], cases: list[Case]) -> tuple[Measure, Gate]:
    """The best paid of those who do nothing, guess or claim. The gate fails when its interval lies above the chance level."""
    paid = {name: found.rewards for name, found in attacked.items() if found.rewards}
    name = max(paid, key=lambda each: (bounds(paid[each])[0], mean(paid[each])), default="")
    measure = average("floor", paid.get(name, []), note=f"the best paid of {len(paid)}: {name}")
    limit = round(stage.environment.chance_level + limits.FLOOR, 4)
    holds = measure.low is not None and measure.low <= limit
    if not holds and name:
        cases.append(
            Case(what=f"{name} earns {measure.value} on average, where guessing is declared to earn {stage.environment.chance_level:g}")
        )
    found = f"{name or 'nobody'} earns {measure.value} (at least {measure.low}); the chance level is {stage.environment.chance_level:g}"
    remedy = "close what pays without doing the task, or declare and justify a higher chance level"
    return measure, Gate(name="floor", value=measure.value, limit=limit, holds=holds, found=found, remedy=remedy)


async def _honest(stage: Stage, cases: list[Case]) -> tuple[Measure, Gate]:
    """Every solution, on every split, under many noises, and again after two slips of the pen."""
    number = stage.depth.of(_HONEST, least=24)
    splits = stage.environment.splits
    jobs: list[tuple[str, Drawn, ScriptFactory, int, float]] = []
    for at in range(number):
        drawn = stage.draw(splits[at % len(splits)], 1, first=at // len(splits))[0]
        for order, solution in enumerate(stage.environment.solutions(*drawn)):
            slips = at % 4 == 3
            script = stumbling(solution) if slips else solution
            jobs.append((f"solution {order}{' after two slips' if slips else ''}", drawn, script, at, 0.5 if slips else 1.0))

    async def work(job: tuple[str, Drawn, ScriptFactory, int, float]) -> bool | None:
        name, drawn, script, noise, wanted = job
        episode = await stage.play(drawn, script, noise=noise)
        stage.honest.append(episode)
        if episode.reward is None:
            return None
        is_cut = wanted < 1 and len(episode.events) >= min(drawn[0].limits.calls, drawn[0].limits.turns)  # no room for slips
        wins = episode.reward >= wanted - 1e-9 or is_cut
        if not wins:
            cases.append(Case(what=f"{name} earns {episode.reward:g}: {episode.verdict.evidence}"[:200], where=drawn[0].id))
        return wins

    wins = [won for won in await stage.each(jobs, work, least=24) if won is not None]
    rejected = share("honest rejected", wins.count(False), len(wins))
    gate = Gate(
        name="honest", value=rejected.value, limit=limits.HONEST, holds=rejected.value is not None and rejected.value <= limits.HONEST,
        found=f"{wins.count(False)} of {len(wins)} honest runs are rejected",
        remedy="accept every right answer: look at the cases above, and at what the grader compares",
    )  # fmt: skip
    return rejected, gate


async def _mutants(stage: Stage) -> tuple[Measure, list[tuple[str, str]]]:
    """Captures of solved episodes, spoilt in one place each. Some spoil nothing that matters: a survivor is a case to look at."""
    solved = [episode for episode in stage.honest if episode.is_success and episode.sealed][: stage.depth.of(_MUTATED, least=6)]
    survivors: list[tuple[str, str]] = []
    killed = num = 0
    for episode in solved:
        assert episode.sealed is not None
        others: list[str | None] = [other.sealed.submitted for other in solved if other.sealed and other is not episode]
        others += words_of(prompt_of(episode.task))
        for name, mutant in _spoilt(episode.sealed, others):
            try:
                verdict = await stage.environment.grade(mutant, episode.key, GRADE_SEED)
            except Exception:  # the boundary: no world makes such a capture, and a grader that breaks on it gives no verdict
                continue
            if verdict.status is Status.VOID:
                continue
            num += 1
            killed += verdict.reward < 1.0 - 1e-9
            if verdict.reward >= 1.0 - 1e-9:
                survivors.append((name, episode.task.id))
    return share("mutants killed", killed, num, note="solved captures, spoilt in one place each; some places do not matter"), survivors


def _spoilt(sealed: Sealed, others: Sequence[str | None]) -> list[tuple[str, Sealed]]:
    """`others` are the submissions to other tasks, and what the prompt says: such a word, like `done`, answers nothing."""
    text = sealed.submitted
    found: list[tuple[str, Sealed]] = []
    if text is not None:
        found.append(("nothing submitted", replace(sealed, submitted=None)))
    if text is not None and text not in others:
        changed = {"empty": "", "one character more": text + "q", "cut short": text[:-1], "backwards": text[::-1]}
        changed["of another task"] = next((other for other in others if other is not None), text)
        found += [(f"submission {name}", replace(sealed, submitted=new)) for name, new in changed.items() if new != text]
    for path, data in list(sealed.files.items())[:8]:
        rest = {other: content for other, content in sealed.files.items() if other != path}
        found.append((f"without {path}", replace(sealed, files=rest)))
        if data:
            found.append((f"{path} empty", replace(sealed, files={**sealed.files, path: b""})))
    return found
