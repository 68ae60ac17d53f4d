"""Stability: the same calls give the same episode, alone and beside others; the same capture gets the same
verdict; nothing leaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import anyio

from agito.audit import interference, limits
from agito.audit.agents import ending, exploring, fill, strings
from agito.audit.card import Case, Gate, Measure, Quality, clipped, judged
from agito.audit.episode import Drawn, Episode, replay
from agito.audit.episode_runner import EpisodeRunner
from agito.audit.leakage import Leaks, leakage
from agito.audit.literals import words_in
from agito.audit.open_episodes import visits
from agito.audit.regrading import Regraded, regrade
from agito.audit.statistics import share
from agito.protocols import Environment, ScriptFactory
from agito.testing.episodes import essence
from agito.types import Event, Fault

# runs of every trace, the first included; the last one in a second environment
_REPEATS = 5
_TRACES, _LEAST_TRACES = 24, 4
_EXPLORED, _EXPLORERS, _WORDS = 24, 4, 120  # tasks, scripts on each, words in all
_EVERY = 1 << 30  # number of digests: before the first call and after each
_BESIDE = 8  # episodes that are interleaved


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A recorded episode to replay."""

    episode: Episode
    differs: str = ""  # how a replay differed, alone
    num_repeats: int = 0  # replays that did not break
    is_honest: bool = False


async def stability(runner: EpisodeRunner, traces: Sequence[Trace], cases: list[Case]) -> Quality:
    """Without the share of infrastructure errors, which is known only at the end: see `with_incidents`.
    `traces` were recorded first: nothing played since may affect their replay.
    """
    repeated = await _repeat_all(runner, traces, cases)
    differing = sum(bool(trace.differs) for trace in repeated)
    steady = share("deterministic", len(repeated) - differing, len(repeated), note=f"acted {_REPEATS} times")
    disturbed, num_beside = await _disturbed(runner, repeated, cases)
    beside = share(
        "disturbed",
        disturbed,
        num_beside,
        note="interleaved call by call, concurrent, and after one tool alone",
    )
    flaky = await regrade(runner, cases)
    flake = share(
        "flake", flaky.mixed, flaky.captures, note=f"{flaky.gradings} gradings of solved and failed captures"
    )
    leaks = await leakage(runner, cases)
    says = (
        f"{steady.value or 0:.0%} of {steady.num} episodes repeat, {disturbed} of {num_beside} are "
        f"disturbed by others, {leaks.found} of {leaks.planted} marks leak"
    )
    gates = (
        _determinism_gate(steady, differing),
        _interference_gate(beside, disturbed),
        _flake_gate(flake, flaky),
        _leakage_gate(leaks),
    )
    measures = (steady, beside, flake, *_leak_measures(leaks))
    return judged("stability", says, measures, gates, cases, doubt=not leaks.planted)


async def _repeat_all(runner: EpisodeRunner, traces: Sequence[Trace], cases: list[Case]) -> list[Trace]:
    """The traces of which at least one replay did not break."""
    second = runner.make()
    try:
        repeated = await runner.each(
            traces, lambda trace: _repeat(runner, trace, second), least=_LEAST_TRACES, width=1
        )
    finally:
        with anyio.CancelScope(shield=True):
            await second.aclose()
    repeated = [trace for trace in repeated if trace.num_repeats]
    cases += [
        Case(what=f"acted again: {trace.differs}", where=trace.episode.task.id)
        for trace in repeated
        if trace.differs
    ]
    return repeated


async def _disturbed(runner: EpisodeRunner, repeated: Sequence[Trace], cases: list[Case]) -> tuple[int, int]:
    """How many of how many deterministic episodes differ beside others, or after another."""
    steady = [trace for trace in repeated if not trace.differs]
    beside, num_beside = await _beside(runner, steady, cases)
    honest = [trace.episode for trace in steady if trace.is_honest]
    after, num_after = await interference.count_disturbed(runner, honest, _difference, cases)
    return beside + after, num_beside + num_after


def _determinism_gate(steady: Measure, differing: int) -> Gate:
    return _gate(
        "determinism",
        1 - steady.value if steady.value is not None else None,
        limits.NONDETERMINISM,
        _of(differing, steady.num, "episodes go differently when they are acted again"),
        "key every random choice by (noise_seed, attempt, call); use no clock, no shared generator, no "
        "hash()",
    )


def _interference_gate(beside: Measure, disturbed: int) -> Gate:
    return _gate(
        "interference",
        beside.value,
        limits.INTERFERENCE,
        _of(disturbed, beside.num, "episodes go differently beside others"),
        "give every episode its own state and its own random.Random; nothing global, nothing shared "
        "that can be written",
    )


def _flake_gate(flake: Measure, flaky: Regraded) -> Gate:
    return _gate(
        "flake",
        flake.value,
        limits.FLAKE,
        _of(flaky.mixed, flaky.captures, f"captures get two verdicts ({flaky.gradings} gradings)"),
        "make grade a pure function of the capture, the target and the grade seed",
    )


def _leakage_gate(leaks: Leaks) -> Gate:
    return _gate(
        "leakage",
        float(leaks.found),
        limits.LEAKAGE,
        _of(leaks.found, leaks.planted, "marks are seen by another episode", "no mark could be left"),
        "build each world from the task and the target alone, and destroy it whole",
    )


def _of(hits: int, num: int, what: str, none: str = "") -> str:
    if not num:
        return (
            none or f"nothing to measure it on: whether {what} is not known, since no episode came to its end"
        )
    return f"{hits or 'none'} of {num} {what}"


def with_incidents(quality: Quality, runner: EpisodeRunner) -> Quality:
    """Adds how many episodes of the whole audit broke."""
    broke, num = sum(runner.incidents.values()), runner.num_episodes - runner.num_provoked
    errors = share(
        "broken episodes",
        min(broke, num),
        num,
        note="no verdict: infra or env; without those that try to break something",
    )
    cases = [Case(what=clipped(f"{count}x {what}", 240)) for what, count in runner.incidents.most_common(6)]
    is_own = any(what.startswith("env") for what in runner.incidents)
    gate = _gate(
        "broken",
        errors.value,
        limits.BROKEN,
        f"{broke or 'none'} of {num} episodes broke"
        + (f", most of them by {runner.incidents.most_common(1)[0][0]}" if broke else ""),
        "repair what raises: the line stands with the case"
        if is_own
        else "look at the machine: its sandboxes or its time gave out",
    )
    gate = replace(gate, holds=gate.holds and not is_own)
    measures, gates = (*quality.measures, errors), (*quality.gates, gate)
    found = judged(quality.name, quality.says, measures, gates, [*cases, *quality.cases], doubt=broke > 0)
    return replace(found, says=quality.says + (f", {broke} episodes broke" if broke else ""))


def _gate(name: str, value: float | None, limit: float, found: str, remedy: str) -> Gate:
    value = None if value is None else round(value, 4)
    remedy = "let an episode come to its end first: see what broke" if value is None else remedy
    return Gate(
        name=name,
        value=value,
        limit=limit,
        holds=value is not None and value <= limit,
        found=found,
        remedy=remedy,
    )


def _leak_measures(leaks: Leaks) -> tuple[Measure, ...]:
    return (
        share(
            "leaked",
            leaks.found,
            max(leaks.planted, leaks.found),
            note="of the marks that could be read back in their own episode",
        ),
        Measure(
            name="surfaces tried", value=float(leaks.tried), num=leaks.tried, note="ways to leave a mark"
        ),
    )


async def record(runner: EpisodeRunner) -> list[Trace]:
    """Records solvers, middling demonstrators and explorers, with digests after every call, before anything
    else is played.
    """
    environment = runner.environment
    number = runner.depth.of(_TRACES, least=_LEAST_TRACES)
    jobs: list[tuple[Drawn, ScriptFactory, bool]] = []
    for at, (task, key) in enumerate(runner.draw("train", number)):
        script = (
            environment.demonstrator(task, key, skill=0.5, seed=at)
            if at % 2
            else environment.solutions(task, key)[0]
        )
        jobs.append(((task, key), script, True))
    explored = runner.draw("train", runner.depth.of(_EXPLORED, least=2), first=400)
    words = words_in(environment, _WORDS)
    jobs += [
        (each, script, False) for at, each in enumerate(explored) for script in _explorers(each, words, at)
    ]
    jobs += [
        (each, exploring(each[0], at, environment.solutions(*each)[0]), False)
        for at, each in enumerate(explored)
    ]
    jobs = [jobs[at] for at in sorted(range(len(jobs)), key=lambda at: (at % number, at))]

    async def work(job: tuple[int, tuple[Drawn, ScriptFactory, bool]]) -> Trace:
        at, (drawn, script, is_honest) = job
        episode = await runner.play(drawn, script, noise=at, num_digests=_EVERY, provokes=not is_honest)
        if is_honest:
            runner.honest.append(episode)
        return Trace(episode=episode, is_honest=is_honest)

    traces = await runner.each(list(enumerate(jobs)), work, least=_LEAST_TRACES, width=1)
    return [trace for trace in traces if trace.episode.sealed and not _met_a_deadline(trace.episode.events)]


def _explorers(drawn: Drawn, words: Sequence[str], at: int) -> list[ScriptFactory]:
    """Scripts that send each known word to every tool, a few words per script; other words on other tasks."""
    task = drawn[0]
    end = ending(task)
    tools = [tool for tool in task.tools if end is None or tool.name != end.name]
    calls = [fill(tool, word) for word in words for tool in tools if strings(tool)] + [
        fill(tool, "") for tool in tools if not strings(tool)
    ]
    most = max(min(task.limits.calls, task.limits.turns), 1)
    scripts = [replay(calls[start : start + most]) for start in range(0, len(calls), most)]
    return [
        scripts[(at * _EXPLORERS + number) % len(scripts)] for number in range(min(_EXPLORERS, len(scripts)))
    ]


def _met_a_deadline(events: Sequence[Event]) -> bool:
    """A deadline that really passed cannot be repeated."""
    return any(event.fault is Fault.TIMEOUT and event.wall_s > 0 for event in events)


async def _repeat(runner: EpisodeRunner, trace: Trace, second: Environment) -> Trace:
    """Replays a trace and notes any difference; the last time in a second environment."""
    first = trace.episode
    drawn, script = (first.task, first.target), replay(first.calls)
    for number in range(1, _REPEATS):
        environment = second if number == _REPEATS - 1 else runner.environment
        again = await runner.play(
            drawn,
            script,
            attempt=first.attempt,
            noise=first.noise,
            num_digests=_EVERY,
            environment=environment,
            provokes=True,
        )
        found = _difference(first, again)
        trace = replace(trace, num_repeats=trace.num_repeats + (not again.problem))
        if found:
            return replace(
                trace, differs=found + (" (in a second environment)" if environment is second else "")
            )
    return trace


def _difference(one: Episode, two: Episode) -> str:
    """A message on where two episodes with the same calls differ; empty if they do not, or if one broke."""
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


async def _beside(runner: EpisodeRunner, traces: Sequence[Trace], cases: list[Case]) -> tuple[int, int]:
    """Replays episodes among others: interleaved call by call, and concurrently."""
    disturbed = num = 0
    for start in range(0, len(traces), _BESIDE):
        batch = traces[start : start + _BESIDE]
        if len(batch) < 2 or (start and runner.is_late):
            break
        for way, among in (("interleaved", _interleaved), ("concurrent", _concurrent)):
            for trace, episode in zip(batch, await among(runner, batch), strict=True):
                num += not episode.problem
                found = _difference(replace(trace.episode, digests=[]), episode)  # no digests are taken here
                disturbed += bool(found)
                if found:
                    cases.append(
                        Case(what=f"{way} with {len(batch) - 1} others: {found}", where=trace.episode.task.id)
                    )
    return disturbed, num


async def _concurrent(runner: EpisodeRunner, traces: Sequence[Trace]) -> list[Episode]:
    found: dict[int, Episode] = {}

    async def run(number: int, trace: Trace) -> None:
        first = trace.episode
        script: ScriptFactory = replay(first.calls)
        found[number] = await runner.play(
            (first.task, first.target), script, attempt=trace.episode.attempt, noise=trace.episode.noise
        )

    async with anyio.create_task_group() as tasks:
        for number, trace in enumerate(traces):
            tasks.start_soon(run, number, trace)
    return [found[number] for number in range(len(traces))]


async def _interleaved(runner: EpisodeRunner, traces: Sequence[Trace]) -> list[Episode]:
    """Opens all, makes one call of each in turn, seals and grades all."""
    async with visits(runner, are_graded=True) as open_one:
        opened = [
            await open_one(
                (trace.episode.task, trace.episode.target),
                attempt=trace.episode.attempt,
                noise=trace.episode.noise,
            )
            for trace in traces
        ]
        for at in range(max(len(trace.episode.calls) for trace in traces)):
            for visit, trace in zip(opened, traces, strict=True):
                if at < len(trace.episode.calls):
                    await visit.act(trace.episode.calls[at])
        for visit in opened:
            await visit.seal()
    return [visit.episode for visit in opened]
