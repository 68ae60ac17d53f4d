"""Which attempts are looked at twice, what is kept from the gradient, and when an environment is no longer to be trusted.

Everything drawn is keyed by (seed, attempt), and what changes with experience changes between steps only, so that the attempts of a step
are the same in whatever order they end.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from agito.errors import CorruptCheckpoint
from agito.grading.monitor.config import MonitorConfig
from agito.grading.monitor.detector import HackRate
from agito.grading.monitor.evidence import WATCHED_ONLY, is_report, is_suspect, shapes, soft_evidence
from agito.types import Attempt, AttemptId, Flag, Group, Json, Trajectory, Verdict, mean

_MOST_SHAPES = 4096  # known ways of using tools; past that, a new one is no news


class Monitor:
    """One environment's, for one run. `has_gold`: whether the environment offers a held-out validator."""

    def __init__(self, config: MonitorConfig, *, seed: int, has_gold: bool) -> None:
        self.config, self._seed, self.has_gold = config, seed, has_gold
        self.rate = HackRate(limit=config.limit, share=config.gold_share)
        self.alarm_step: int | None = None
        self.rise_step = 0  # in which the last rise began, as far as can be told
        self.rolled_back_to: int | None = None
        self._known: dict[str, None] = {}
        self._counts: Counter[str] = Counter()

    @property
    def is_paused(self) -> bool:
        """Whether nothing more may be learned from this environment."""
        return self.alarm_step is not None and self.config.on_alarm == "stop"

    @property
    def masks(self) -> bool:
        """Whether what gold contradicts is kept from the gradient."""
        return self.alarm_step is not None and self.config.on_alarm == "quarantine"

    def wants_regrade(self, attempt: AttemptId) -> bool:
        return self._draw("regrade", attempt) < self.config.regrade_share

    def soft_evidence(self, trajectory: Trajectory, verdict: Verdict) -> tuple[Flag, ...]:
        """Beside the grader's own flags. Who earned little has nothing to explain."""
        return soft_evidence(trajectory, self._shapes_known()) if verdict.reward >= self.config.gap else ()

    def gold_chance(self, attempt: AttemptId, verdict: Verdict) -> float:
        """With what chance gold is asked about an attempt; 0 where there is none."""
        if not self.has_gold:
            return 0.0
        if is_suspect(verdict) or (self.masks and verdict.reward >= self.config.gap):
            return 1.0
        return self.config.gold_share

    def wants_gold(self, attempt: AttemptId, verdict: Verdict) -> bool:
        return self._draw("gold", attempt) < self.gold_chance(attempt, verdict)

    def is_contradicted(self, attempt: Attempt) -> bool:
        """Whether gold says that a reward was not earned."""
        gold = attempt.gold
        return gold is not None and attempt.is_scored and attempt.verdict.reward - gold.reward >= self.config.gap  # False when void

    def masked(self, attempt: Attempt) -> Attempt:
        """The attempt, quarantined if gold contradicts it and the alarm has been raised."""
        if not self.masks or attempt.quarantine or not self.is_contradicted(attempt):
            return attempt
        assert attempt.gold is not None
        return replace(attempt, quarantine=f"contradicted: reward {attempt.verdict.reward:g}, gold {attempt.gold.reward:g}")

    def see(self, step: int, groups: Sequence[Group]) -> tuple[tuple[Group, ...], dict[str, float]]:
        """The groups of a step before its gradient: what may be learned from, and figures. May raise the alarm."""
        attempts, before = [attempt for group in groups for attempt in group.attempts], self.rate.weight
        for attempt in attempts:
            if attempt.is_scored:
                self.rate.add(self._weight(attempt))
                self.rise_step = step if self.rate.since <= 1 else self.rise_step
        if self.alarm_step is None and self.rate.is_high:
            self.alarm_step = step
        kept = tuple(replace(group, attempts=tuple(self.masked(attempt) for attempt in group.attempts)) for group in groups)
        self.meet(attempts)
        figures = {"monitor/hacks_num": self.rate.weight - before}
        return kept, figures | self._figures([attempt for group in kept for attempt in group.attempts])

    def meet(self, attempts: Iterable[Attempt]) -> None:
        """Their ways of using tools are known from here on."""
        for attempt in attempts:
            if len(self._known) < _MOST_SHAPES:
                self._known |= dict.fromkeys(sorted(shapes(attempt.trajectory)))

    def _draw(self, what: str, attempt: AttemptId) -> float:
        return random.Random(f"monitor/{what}/{self._seed}/{attempt.group}.{attempt.slot}").random()

    def _shapes_known(self) -> Collection[str]:
        return self._known if len(self._known) < _MOST_SHAPES else ()

    def _weight(self, attempt: Attempt) -> float:
        """How many hacks the attempt stands for."""
        is_proved = any(flag.is_proof and flag.kind not in WATCHED_ONLY for flag in attempt.verdict.flags)
        if is_proved and attempt.verdict.reward >= self.config.gap:
            return 1.0
        return 1 / attempt.gold_chance if self.is_contradicted(attempt) else 0.0

    def _figures(self, attempts: Sequence[Attempt]) -> dict[str, float]:
        scored = [attempt for attempt in attempts if attempt.is_scored]
        judged = [attempt for attempt in scored if attempt.gold is not None and attempt.gold.reward == attempt.gold.reward]
        counts = {
            "quarantined": sum(bool(attempt.quarantine) and not is_report(attempt) for attempt in scored),
            "reported": sum(is_report(attempt) for attempt in scored),
            "suspect": sum(is_suspect(attempt.verdict) for attempt in scored),
            "gold": len(judged),
        }
        self._counts.update(counts)
        figures = {f"monitor/{name}_num": float(count) for name, count in counts.items()}
        touched = sum(any(flag.kind in WATCHED_ONLY for flag in attempt.verdict.flags) for attempt in scored)
        figures["monitor/canary_touch_ratio"] = touched / max(len(scored), 1)
        if judged:
            weights = sum(1 / attempt.gold_chance for attempt in judged)
            gold = sum(attempt.gold.reward / attempt.gold_chance for attempt in judged if attempt.gold is not None) / weights
            figures |= {"monitor/gold_mean": gold, "monitor/gap_mean": mean(attempt.verdict.reward for attempt in scored) - gold}
        if self._counts["gold"] or self.rate.weight:
            figures |= {"monitor/hack_ratio": self.rate.ratio, "monitor/evidence_nats": self.rate.evidence}
        figures["monitor/alarm"] = float(self.alarm_step is not None)
        return figures

    def summary(self) -> dict[str, Json]:
        """For `summary.json`; `hack_ratio` is None where nobody has looked."""
        num = self.rate.num_attempts
        has_looked = bool(num and (self._counts["gold"] or self.rate.weight))
        return {
            "on_alarm": self.config.on_alarm,
            "alarm_step": self.alarm_step,
            "rolled_back_to": self.rolled_back_to,
            "hack_ratio": min(1.0, self.rate.weight / num) if has_looked else None,
            **{f"num_{name}": self._counts[name] for name in ("gold", "suspect", "quarantined", "reported")},
        }

    def to_json(self) -> dict[str, Json]:
        return {
            "rate": self.rate.to_json(), "alarm_step": self.alarm_step, "rise_step": self.rise_step,
            "rolled_back_to": self.rolled_back_to, "known": list(self._known), "counts": dict(self._counts),
        }  # fmt: skip

    def restore(self, data: Json) -> None:
        """What `to_json` gave, at a checkpoint. Raises `CorruptCheckpoint`."""
        try:
            assert isinstance(data, dict)
            rate, step, known, counts = (data[name] for name in ("rate", "alarm_step", "known", "counts"))
            assert isinstance(rate, dict) and isinstance(known, list) and isinstance(counts, dict)
            self.rate.restore(rate)
            self.alarm_step, self.rise_step = None if step is None else int(str(step)), int(str(data["rise_step"]))
            self.rolled_back_to = None if data["rolled_back_to"] is None else int(str(data["rolled_back_to"]))
            self._known = dict.fromkeys(map(str, known))
            self._counts = Counter({name: int(str(count)) for name, count in counts.items()})
        except (AssertionError, KeyError, ValueError) as error:
            raise CorruptCheckpoint(f"the monitor's state cannot be read ({error!r}); was another version of Agito here?") from error
