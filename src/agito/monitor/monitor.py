"""Decides which attempts get a second look, which the gradient may use, and when to stop trusting an
environment.

Every random draw is keyed by (seed, attempt), and state changes only between steps, so a step's attempts are
the same whatever order they end in.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from agito.errors import CorruptCheckpoint
from agito.monitor.config import MonitorConfig
from agito.monitor.detector import HackRate
from agito.monitor.evidence import WATCHED_ONLY, is_report, is_suspect, proofs, shapes, soft_evidence
from agito.monitor.exits import EXITS, Exit, ExitRates
from agito.types import Attempt, AttemptId, Flag, Group, Json, Penalty, Trajectory, Verdict, mean

_MOST_SHAPES = 4096  # known tool patterns, beyond which new ones are not reported


class Monitor:
    """Monitors one environment during one run. `has_gold`: whether it has a held-out validator."""

    def __init__(
        self,
        config: MonitorConfig,
        *,
        seed: int,
        has_gold: bool,
        reward_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self.config, self._seed, self.has_gold = config, seed, has_gold
        self.floor, high = reward_range
        self.penalty = config.penalty * (high - self.floor)  # below the floor
        self.rate = HackRate(limit=config.limit, share=config.gold_share)
        self.exits = ExitRates(void_limit=config.void_limit)
        self.alarm_step: int | None = None
        self.why = ""  # reason for the alarm
        self.rise_step = 0  # step in which the last rise began, as far as can be told
        self.rolled_back_to: int | None = None
        self._known: dict[str, None] = {}
        self._counts: Counter[str] = Counter()

    @property
    def is_paused(self) -> bool:
        """Whether nothing more may be learned from this environment."""
        return self.alarm_step is not None and self.config.on_alarm == "stop"

    @property
    def masks(self) -> bool:
        """Whether attempts contradicted by gold lose their reward."""
        return self.alarm_step is not None and self.config.on_alarm == "quarantine"

    def wants_regrade(self, attempt: AttemptId) -> bool:
        return self._draw("regrade", attempt) < self.config.regrade_share

    def soft_evidence(self, trajectory: Trajectory, verdict: Verdict) -> tuple[Flag, ...]:
        """Soft evidence besides the grader's own flags. Low-reward attempts are not checked."""
        return soft_evidence(trajectory, self._shapes_known()) if verdict.reward >= self.config.gap else ()

    def gold_chance(self, attempt: AttemptId, verdict: Verdict) -> float:
        """The probability that gold judges an attempt; 0 without gold."""
        if not self.has_gold:
            return 0.0
        if is_suspect(verdict) or (self.masks and verdict.reward >= self.config.gap):
            return 1.0
        return self.config.gold_share

    def wants_gold(self, attempt: AttemptId, verdict: Verdict) -> bool:
        return self._draw("gold", attempt) < self.gold_chance(attempt, verdict)

    def is_contradicted(self, attempt: Attempt) -> bool:
        """Whether gold says that the reward was not earned."""
        gold = attempt.gold
        # a void gold verdict has reward NaN: the comparison is False
        return (
            gold is not None and attempt.is_scored and attempt.verdict.reward - gold.reward >= self.config.gap
        )

    def disbelieved(self, attempt: Attempt) -> Attempt:
        """The attempt at the lowest reward if gold contradicts it after an alarm. Dropping it instead would
        be a way out.
        """
        if not self.masks or attempt.penalty or not self.is_contradicted(attempt):
            return attempt
        assert attempt.gold is not None
        why = f"contradicted: reward {attempt.verdict.reward:g}, gold {attempt.gold.reward:g}"
        return replace(attempt, penalty=Penalty(why=why, reward=self.floor, floor=self.floor))

    def teaches(self, group: Group) -> bool:
        """Whether the group's cell may be learned from: not if too many of its episodes end void."""
        return group.task.cell not in self.exits.stopped

    def update(self, step: int, groups: Sequence[Group]) -> tuple[tuple[Group, ...], dict[str, float]]:
        """Filters the groups of a step before its gradient; returns them with metrics. May raise
        the alarm.
        """
        attempts, before = [attempt for group in groups for attempt in group.attempts], self.rate.weight
        way: Exit | None = None
        for attempt in attempts:
            if attempt.is_scored:
                self.rate.add(self._weight(attempt))
            way = self.exits.add(attempt) or way
            self.rise_step = step if max(self.rate.since, self.exits.since) <= 1 else self.rise_step
        if self.alarm_step is None and (self.rate.is_high or way):
            self.alarm_step, self.why = (
                step,
                self._hacks() if self.rate.is_high or way is None else self.exits.said(way),
            )
        kept = tuple(
            replace(
                group,
                attempts=tuple(self.disbelieved(attempt) for attempt in group.attempts),
                forks=tuple(self.disbelieved(fork) for fork in group.forks),
            )
            for group in groups
        )
        self.add_known(attempts)
        metrics = {"monitor/hacks_num": self.rate.weight - before}
        return kept, metrics | self._metrics([attempt for group in kept for attempt in group.attempts])

    def add_scripts(self, attempts: Sequence[Attempt]) -> None:
        """Adds demonstrations: how scripts use the tools, and how often their episodes end by a way out."""
        self.add_known(attempts)
        self.exits.add_scripts(attempts)

    def add_known(self, attempts: Iterable[Attempt]) -> None:
        """Marks the attempts' tool patterns as known."""
        for attempt in attempts:
            if len(self._known) < _MOST_SHAPES:
                self._known |= dict.fromkeys(sorted(shapes(attempt.trajectory)))

    def _hacks(self) -> str:
        rate, num = self.rate.rise
        return (
            f"an estimated {rate:.1%} of the last {num} attempts were paid for what gold or proof denies "
            f"(monitor.limit={self.config.limit:g})"
        )

    def _draw(self, what: str, attempt: AttemptId) -> float:
        return random.Random(f"monitor/{what}/{self._seed}/{attempt.group}.{attempt.slot}").random()

    def _shapes_known(self) -> Collection[str]:
        return self._known if len(self._known) < _MOST_SHAPES else ()

    def _weight(self, attempt: Attempt) -> float:
        """How many hacks the attempt stands for."""
        if proofs(attempt.verdict) and attempt.verdict.reward - self.floor >= self.config.gap:
            return 1.0
        return 1 / attempt.gold_chance if self.is_contradicted(attempt) else 0.0

    def _metrics(self, attempts: Sequence[Attempt]) -> dict[str, float]:
        scored = [attempt for attempt in attempts if attempt.is_scored]
        judged = [
            attempt
            for attempt in scored
            if attempt.gold is not None and attempt.gold.reward == attempt.gold.reward
        ]
        counts = {
            "quarantined": sum(attempt.penalty is not None for attempt in scored),
            "reported": sum(is_report(attempt.trajectory) for attempt in scored),
            "suspect": sum(is_suspect(attempt.verdict) for attempt in scored),
            "gold": len(judged),
        }
        self._counts.update(counts)
        metrics = {f"monitor/{name}_num": float(count) for name, count in counts.items()}
        touched = sum(any(flag.kind in WATCHED_ONLY for flag in attempt.verdict.flags) for attempt in scored)
        metrics["monitor/canary_touch_ratio"] = touched / max(len(scored), 1)
        if judged:
            weights = sum(1 / attempt.gold_chance for attempt in judged)
            gold = (
                sum(
                    attempt.gold.reward / attempt.gold_chance
                    for attempt in judged
                    if attempt.gold is not None
                )
                / weights
            )
            metrics |= {
                "monitor/gold_mean": gold,
                "monitor/gap_mean": mean(attempt.verdict.reward for attempt in scored) - gold,
            }
        if self._counts["gold"] or self.rate.weight:
            metrics |= {"monitor/hack_ratio": self.rate.ratio, "monitor/evidence_nats": self.rate.evidence}
        metrics["monitor/alarm"] = float(self.alarm_step is not None)
        metrics["monitor/stopped_cells_num"] = float(len(self.exits.stopped))
        return metrics

    def summary(self) -> dict[str, Json]:
        """For `summary.json`; `hack_ratio` is None if nothing was judged."""
        num = self.rate.num_attempts
        has_looked = bool(num and (self._counts["gold"] or self.rate.weight))
        return {
            "on_alarm": self.config.on_alarm,
            "alarm_step": self.alarm_step,
            "why": self.why,
            "rolled_back_to": self.rolled_back_to,
            "penalty": self.config.penalty,
            "stopped_cells": {
                cell: f"{voids} of {tries} tries void" for cell, (voids, tries) in self.exits.stopped.items()
            },
            "exits": {
                way: {
                    "policy": _known(self.exits.ratio(way)),
                    "scripts": _known(self.exits.ratio(way, of_scripts=True)),
                }
                for way in EXITS
            },
            "hack_ratio": min(1.0, self.rate.weight / num) if has_looked else None,
            **{f"num_{name}": self._counts[name] for name in ("gold", "suspect", "quarantined", "reported")},
        }

    def to_json(self) -> dict[str, Json]:
        return {
            "rate": self.rate.to_json(),
            "alarm_step": self.alarm_step,
            "rise_step": self.rise_step,
            "rolled_back_to": self.rolled_back_to,
            "why": self.why,
            "exits": self.exits.to_json(),
            "known": list(self._known),
            "counts": dict(self._counts),
        }

    def restore(self, data: Json) -> None:
        """Restores what `to_json` gave, from a checkpoint. Raises `CorruptCheckpoint`."""
        try:
            assert isinstance(data, dict)
            rate, step, known, counts, exits = (
                data[name] for name in ("rate", "alarm_step", "known", "counts", "exits")
            )
            assert (
                isinstance(rate, dict)
                and isinstance(known, list)
                and isinstance(counts, dict)
                and isinstance(exits, dict)
            )
            self.exits.restore(exits)
            self.why = str(data["why"])
            self.rate.restore(rate)
            self.alarm_step, self.rise_step = (
                None if step is None else int(str(step)),
                int(str(data["rise_step"])),
            )
            self.rolled_back_to = None if data["rolled_back_to"] is None else int(str(data["rolled_back_to"]))
            self._known = dict.fromkeys(map(str, known))
            self._counts = Counter({name: int(str(count)) for name, count in counts.items()})
        except (AssertionError, KeyError, ValueError) as error:
            raise CorruptCheckpoint(
                f"the monitor's state cannot be read ({error!r}); was another version of Agito here?"
            ) from error


def _known(ratio: float) -> float | None:
    return round(ratio, 6) if math.isfinite(ratio) else None
