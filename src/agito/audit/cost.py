"""Scalability: the cost of resets, steps and grading, and the speed-up from concurrent episodes."""

from __future__ import annotations

import os
import time

from agito.audit.card import Case, Measure, Quality, judged
from agito.audit.episode import Drawn, Episode
from agito.audit.episode_runner import EpisodeRunner
from agito.audit.statistics import milliseconds

_WIDTHS = (1, 2, 4, 8)
_SHORT_WIDTHS = (1, 4)
_EPISODES, _LEAST = 64, 8  # at every width


async def scalability(runner: EpisodeRunner) -> Quality:
    """Measured on the machine as it is, under its current load: see `machine` on the card."""
    widths = _WIDTHS if runner.depth.share >= 1 else _SHORT_WIDTHS
    cores = len(os.sched_getaffinity(0))
    per_s: dict[int, float] = {}
    cpu_s: dict[int, float] = {}
    alone: list[Episode] = []
    for order, width in enumerate(widths):
        drawn = runner.draw("train", runner.depth.of(_EPISODES, least=16), first=2000 + 100 * order)
        began, spent = time.perf_counter(), time.process_time()
        played = await runner.each(drawn, lambda each: _solve(runner, each), least=_LEAST, width=width)
        per_s[width] = len(played) / max(time.perf_counter() - began, 1e-9)
        cpu_s[width] = (time.process_time() - spent) / max(len(played), 1)
        alone = alone or played
        runner.honest += played
    best = max(per_s, key=lambda width: per_s[width])
    steps = [step for episode in alone for step in episode.steps_s]
    times = [
        milliseconds(f"{name} p{round(100 * part)}", values, part)
        for name, values in (
            ("reset", [each.reset_s for each in alone]),
            ("step", steps),
            ("grade", [each.grade_s for each in alone]),
        )
        for part in (0.5, 0.95)
    ]
    measures = [
        *times,
        Measure(
            name="rollouts per hour and core",
            value=round(3600 * per_s[best] / cores),
            num=len(alone),
            note=f"{best} at a time, {cores} cores",
        ),
        Measure(
            name="CPU of this process",
            value=round(1e3 * cpu_s[best], 3),
            unit="ms",
            num=len(alone),
            note="per episode; sandboxes apart",
        ),
        *(
            Measure(
                name=f"{width} at a time",
                value=round(per_s[width] / per_s[1], 3),
                num=len(alone),
                note="times one alone",
            )
            for width in widths[1:]
        ),
    ]
    broke = [Case(what=episode.problem, where=episode.task.id) for episode in alone if episode.problem]
    says = (
        f"step p50 {times[2].value} ms, p95 {times[3].value} ms; {round(3600 * per_s[best] / cores):,} "
        "rollouts per hour and core; "
        f"{best} at a time make {per_s[best] / per_s[1]:.2f}x"
    )
    return judged("scalability", says, tuple(measures), (), broke, doubt=bool(broke))


async def _solve(runner: EpisodeRunner, drawn: Drawn) -> Episode:
    return await runner.play(drawn, runner.environment.solutions(*drawn)[0])
