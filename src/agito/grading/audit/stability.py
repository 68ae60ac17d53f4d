"""Stability: the same calls give the same episode, alone and beside others; the same capture the same verdict; nothing is left behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import anyio

from agito.grading.audit import limits
from agito.grading.audit.card import Case, Gate, Measure, Quality, judged
from agito.grading.audit.leakage import Leaks, leakage
from agito.grading.audit.numbers import share
from agito.grading.audit.stage import GRADE_SEED, Drawn, Episode, Stage, replay
from agito.grading.audit.visit import Visit
from agito.protocols import ScriptFactory
from agito.testing.episodes import essence
from agito.types import AttemptId, Event, Fault

_REPEATS = 5  # k: as often is every trace acted, the first time included; the last time in another environment
_TRACES, _LEAST_TRACES = 24, 6
_BESIDE = 8  # episodes that are interleaved
_GRADES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """An episode to act again: whose attempt it was, under which noise."""

    episode: Episode
    attempt: AttemptId
    noise: int
    differs: str = ""  # how it came out differently, alone
    num_repeats: int = 0  # that did not break


async def stability(stage: Stage) -> Quality:
    """Without the share of infrastructure errors, which is known when everything else is done: see `with_incidents`."""
    cases: list[Case] = []
    traces = await _traces(stage)
    repeated = await stage.each(traces, lambda trace: _repeat(stage, trace), least=_LEAST_TRACES, width=1)
    repeated = [trace for trace in repeated if trace.num_repeats]
    cases += [Case(what=f"acted again: {trace.differs}", where=trace.episode.task.id) for trace in repeated if trace.differs]
    steady = share("deterministic", sum(not trace.differs for trace in repeated), len(repeated), note=f"acted {_REPEATS} times")
    disturbed, num_beside = await _beside(stage, [trace for trace in repeated if not trace.differs], cases)
    beside = share("disturbed", disturbed, num_beside, note="interleaved call by call, and concurrent")
    mixed, num_graded = await _regrade(stage, [trace.episode for trace in traces], cases)
    flake = share("flake", mixed, num_graded, note=f"one capture, graded {_GRADES} times with one seed")
    leaks = await leakage(stage, cases)
    says = (
        f"{steady.value or 0:.0%} of {steady.num} episodes repeat, {disturbed} of {num_beside} are disturbed by others, "
        f"{leaks.found} of {leaks.planted} marks leak"
    )
    gates = (
        _gate("determinism", 1 - steady.value if steady.value is not None else None, limits.NONDETERMINISM,
              f"{sum(bool(trace.differs) for trace in repeated)} of {len(repeated)} episodes go differently when they are acted again",
              "key every random choice by (noise_seed, attempt, call); use no clock, no shared generator, no hash()"),
        _gate("interference", beside.value, limits.INTERFERENCE, f"{disturbed} of {num_beside} episodes go differently beside others",
              "give every episode its own state and its own random.Random; nothing global, nothing shared that can be written"),
        _gate("flake", flake.value, limits.FLAKE, f"{mixed} of {num_graded} captures get different verdicts",
              "make grade a pure function of the capture, the key and the grade seed"),
        _gate("leakage", float(leaks.found), limits.LEAKAGE, f"{leaks.found} of {leaks.planted} marks are seen by another episode",
              "build each world from the task and the key alone, and destroy it whole"),
    )  # fmt: skip
    return judged("stability", says, (steady, beside, flake, *_leak_measures(leaks)), gates, cases, doubt=not leaks.planted)


def with_incidents(quality: Quality, stage: Stage) -> Quality:
    """Adds how many episodes of the whole audit broke."""
    broke = sum(stage.incidents.values())
    errors = share("broken episodes", min(broke, stage.num_episodes), stage.num_episodes, note="no verdict: infra or env")
    cases = [Case(what=f"{count}x {what}"[:200]) for what, count in stage.incidents.most_common(3)]
    gate = _gate("broken", errors.value, limits.BROKEN, f"{broke} of {stage.num_episodes} episodes broke",
                 "look at the cases: an exception out of the world or the grader, or machinery that fails")  # fmt: skip
    measures, gates = (*quality.measures, errors), (*quality.gates, gate)
    found = judged(quality.name, quality.says, measures, gates, [*cases, *quality.cases], doubt=broke > 0)
    return replace(found, says=quality.says + (f", {broke} episodes broke" if broke else ""))


def _gate(name: str, value: float | None, limit: float, found: str, remedy: str) -> Gate:
    value = None if value is None else round(value, 4)
    return Gate(name=name, value=value, limit=limit, holds=value is not None and value <= limit, found=found, remedy=remedy)


def _leak_measures(leaks: Leaks) -> tuple[Measure, ...]:
    return (
        share("leaked", leaks.found, max(leaks.planted, leaks.found), note="of the marks that could be read back in their own episode"),
        Measure(name="surfaces tried", value=float(leaks.tried), num=leaks.tried, note="ways to leave a mark"),
    )


async def _traces(stage: Stage) -> list[Trace]:
    """Solvers and middling demonstrators in turn, each with its digests after every call."""
    jobs = list(enumerate(stage.draw("train", stage.depth.of(_TRACES, least=_LEAST_TRACES))))

    async def work(job: tuple[int, Drawn]) -> Trace:
        at, (task, key) = job
        environment, attempt = stage.environment, stage.attempt()
        script = environment.demonstrator(task, key, skill=0.5, seed=at) if at % 2 else environment.solutions(task, key)[0]
        episode = await stage.play((task, key), script, attempt=attempt, noise=at, digests=True)
        stage.honest.append(episode)
        return Trace(episode=episode, attempt=attempt, noise=at)

    traces = await stage.each(jobs, work, least=_LEAST_TRACES, width=1)
    return [trace for trace in traces if trace.episode.sealed and not _met_a_deadline(trace.episode.events)]


def _met_a_deadline(events: Sequence[Event]) -> bool:
    """A deadline that really passed cannot be repeated."""
    return any(event.fault is Fault.TIMEOUT and event.wall_s > 0 for event in events)


async def _repeat(stage: Stage, trace: Trace) -> Trace:
    """With how it came out differently, if it did."""
    first = trace.episode
    drawn, script = (first.task, first.key), replay(first.calls)
    elsewhere = stage.make()
    try:
        for number in range(1, _REPEATS):
            environment = elsewhere if number == _REPEATS - 1 else stage.environment
            again = await stage.play(drawn, script, attempt=trace.attempt, noise=trace.noise, digests=True, environment=environment)
            found = _difference(first, again)
            trace = replace(trace, num_repeats=trace.num_repeats + (not again.problem))
            if found:
                return replace(trace, differs=found + (" (in a second environment)" if environment is elsewhere else ""))
    finally:
        with anyio.CancelScope(shield=True):
            await elsewhere.aclose()
    return trace


def _difference(one: Episode, two: Episode) -> str:
    """Where two episodes with the same calls part, in words; empty when they do not, or when one of them broke."""
    if two.problem or _met_a_deadline(two.events):
        return ""
    if one.digests and two.digests and one.digests[0] != two.digests[0]:
        return "it begins in another state"
    for at, (a, b) in enumerate(zip(one.events, two.events, strict=False)):
        if essence(a) != essence(b):
            return f"call {at} ({a.call.raw or a.call.tool}) answers {b.text[:40]!r}, not {a.text[:40]!r}"
        if one.digests and two.digests and one.digests[at + 1] != two.digests[at + 1]:
            return f"after call {at} ({a.call.raw or a.call.tool}) it is in another state"
    if len(one.events) != len(two.events):
        return f"it has {len(two.events)} events, not {len(one.events)}"
    if one.sealed and two.sealed and one.sealed.digest != two.sealed.digest:
        return "it is left in another state"
    if repr(one.verdict) != repr(two.verdict):
        return f"its verdict is {two.verdict.reward}, not {one.verdict.reward}"
    return ""


async def _beside(stage: Stage, traces: Sequence[Trace], cases: list[Case]) -> tuple[int, int]:
    """Episodes that went one way alone, now among others: call by call in turn, and all at once."""
    disturbed = num = 0
    for start in range(0, len(traces), _BESIDE):
        batch = traces[start : start + _BESIDE]
        if len(batch) < 2 or (start and stage.is_late):
            break
        for way, among in (("interleaved", _interleaved), ("concurrent", _concurrent)):
            for trace, episode in zip(batch, await among(stage, batch), strict=True):
                num += not episode.problem
                found = _difference(replace(trace.episode, digests=[]), episode)  # no digests are taken here
                disturbed += bool(found)
                if found:
                    cases.append(Case(what=f"{way} with {len(batch) - 1} others: {found}", where=trace.episode.task.id))
    return disturbed, num


async def _concurrent(stage: Stage, traces: Sequence[Trace]) -> list[Episode]:
    found: dict[int, Episode] = {}

    async def run(number: int, trace: Trace) -> None:
        first = trace.episode
        script: ScriptFactory = replay(first.calls)
        found[number] = await stage.play((first.task, first.key), script, attempt=trace.attempt, noise=trace.noise)

    async with anyio.create_task_group() as tasks:
        for number, trace in enumerate(traces):
            tasks.start_soon(run, number, trace)
    return [found[number] for number in range(len(traces))]


async def _interleaved(stage: Stage, traces: Sequence[Trace]) -> list[Episode]:
    """All opened in turn, one call of each in turn, all sealed and graded in turn."""
    visits = [
        await Visit.open(stage, (trace.episode.task, trace.episode.key), attempt=trace.attempt, noise=trace.noise) for trace in traces
    ]
    try:
        for at in range(max(len(trace.episode.calls) for trace in traces)):
            for visit, trace in zip(visits, traces, strict=True):
                if at < len(trace.episode.calls):
                    await visit.act(trace.episode.calls[at])
        for visit in visits:
            await visit.seal(graded=True)
    finally:
        for visit in visits:
            await visit.close()
    return [visit.episode for visit in visits]


async def _regrade(stage: Stage, episodes: Sequence[Episode], cases: list[Case]) -> tuple[int, int]:
    mixed = num = 0
    for episode in episodes:
        if episode.sealed is None or (num >= _LEAST_TRACES and stage.is_late):
            continue
        try:
            verdicts = {repr(await stage.environment.grade(episode.sealed, episode.key, GRADE_SEED)) for _ in range(_GRADES)}
        except Exception as error:  # the boundary: a grader that breaks
            stage.report(episode, error)
            continue
        num += 1
        mixed += len(verdicts) > 1
        if len(verdicts) > 1:
            cases.append(Case(what=f"one capture, {len(verdicts)} verdicts in {_GRADES} gradings", where=episode.task.id))
    return mixed, num
